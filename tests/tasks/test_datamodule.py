"""The stream under Lightning's Trainer: a resumed fit takes exactly the batches that an undisturbed one would."""

import random
from pathlib import Path

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from models.training.batch import Batch
from tasks.config import DataConfig, Order, ramped
from tasks.datamodule import BatchStream, TextDataModule
from tasks.text.batches import PackedData, prepare

STEPS = 12
PLAIN = [(4 * t, 4) for t in range(STEPS)]
RAMP = ramped(4 * STEPS, DataConfig(batch_size=4, ramp_from=0.25, ramp_over=0.5), 1)


class Recorder(lightning.LightningModule):
    """One parameter; remembers the batches it was given."""

    def __init__(self, stop_after: int) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.stop_after = stop_after
        self.seen: list[torch.Tensor] = []

    def training_step(self, batch: torch.Tensor) -> torch.Tensor:
        if len(self.seen) == self.stop_after:
            raise KeyboardInterrupt
        self.seen.append(batch.clone())
        return self.weight * batch.float().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1e-3)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PackedData:
    folder = tmp_path_factory.mktemp("data")
    source = random.Random(0)
    (folder / "book.txt").write_text("".join(f"{source.randrange(10**6)}\n" for _ in range(2000)))
    config = DataConfig(source="text", path=str(folder / "book.txt"), seq_len=8, batch_size=4)
    return prepare(config, 300, folder / "cache")


Batches = list[tuple[int, int]]


def fit(data: PackedData, model: Recorder, batches: Batches, folder: Path, ckpt_path: str | None = None) -> None:
    trainer = lightning.Trainer(
        max_steps=len(batches),
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[ModelCheckpoint(folder, every_n_train_steps=5, save_top_k=-1, filename="{step}")],
    )
    trainer.fit(model, datamodule=TextDataModule(data, 3, batches), ckpt_path=ckpt_path)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("batches", [PLAIN, RAMP], ids=["plain", "ramp"])
def test_resume_in_the_middle_takes_exactly_the_next_batch(data: PackedData, tmp_path: Path, batches: Batches) -> None:
    undisturbed = Recorder(len(batches))
    fit(data, undisturbed, batches, tmp_path / "whole")
    assert [len(batch) for batch in undisturbed.seen] == [count for _, count in batches]
    whole = torch.cat([data.train_batch(3, t) for t in range(STEPS)])
    assert torch.equal(torch.cat(undisturbed.seen), whole), "a ramp cuts the same sequences in the same order"

    with pytest.raises(BaseException):  # noqa: B017  (Lightning turns an interrupt into an exit)
        fit(data, Recorder(stop_after=7), batches, tmp_path / "interrupted")
    resumed = Recorder(len(batches))
    fit(data, resumed, batches, tmp_path / "again", str(tmp_path / "interrupted" / "step=5.ckpt"))
    assert len(resumed.seen) == len(batches) - 5
    assert torch.equal(torch.cat(resumed.seen), torch.cat(undisturbed.seen[5:]))
    assert torch.equal(resumed.weight, undisturbed.weight)


def test_stream_is_one_pass(data: PackedData) -> None:
    stream = BatchStream(data, 3, PLAIN)
    taken = iter(stream)
    for _ in range(4):
        next(taken)
    other = BatchStream(data, 3, PLAIN)
    other.load_state_dict(stream.state_dict())
    assert torch.equal(next(iter(other)), data.train_batch(3, 4))
    assert len(other) == STEPS and len(list(other)) == STEPS - 5 and not list(other)


@pytest.mark.parametrize("order", ["mixed", "easy_to_hard"])
def test_epochs_read_the_same_sequences_again(data: PackedData, order: Order) -> None:
    """And those of one epoch are the first part of a training without."""
    twice = list(TextDataModule(data, 3, PLAIN, order, epochs=2).train_dataloader())
    once = list(TextDataModule(data, 3, PLAIN[: STEPS // 2], order).train_dataloader())
    assert len(twice) == STEPS and not torch.equal(*(Batch.of(batch).tokens_BT1 for batch in once[:2]))
    for i, batch in enumerate(twice):
        assert torch.equal(Batch.of(batch).tokens_BT1, Batch.of(once[i % (STEPS // 2)]).tokens_BT1)
    stream = TextDataModule(data, 3, PLAIN, order, epochs=2).train_dataloader()
    stream.load_state_dict({"step": 8})
    (first, *_) = stream
    assert torch.equal(Batch.of(first).tokens_BT1, Batch.of(once[2]).tokens_BT1), "it goes on where it was stopped"
