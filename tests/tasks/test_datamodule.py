"""The stream under Lightning's Trainer: a resumed fit takes exactly the batches that an undisturbed one would."""

import random
from pathlib import Path

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from tasks.batches import PackedData, prepare
from tasks.config import DataConfig
from tasks.datamodule import BatchStream, TextDataModule

STEPS = 12


class Recorder(lightning.LightningModule):
    """One parameter; remembers the batches it was given."""

    def __init__(self, stop_after: int = STEPS) -> None:
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


def fit(data: PackedData, model: Recorder, folder: Path, ckpt_path: str | None = None) -> None:
    trainer = lightning.Trainer(
        max_steps=STEPS,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[ModelCheckpoint(folder, every_n_train_steps=5, save_top_k=-1, filename="{step}")],
    )
    trainer.fit(model, datamodule=TextDataModule(data, seed=3, total_steps=STEPS), ckpt_path=ckpt_path)


@pytest.mark.filterwarnings("ignore")
def test_resume_in_the_middle_takes_exactly_the_next_batch(data: PackedData, tmp_path: Path) -> None:
    undisturbed = Recorder()
    fit(data, undisturbed, tmp_path / "whole")
    assert len(undisturbed.seen) == STEPS
    assert all(torch.equal(batch, data.train_batch(3, t)) for t, batch in enumerate(undisturbed.seen))

    with pytest.raises(BaseException):  # noqa: B017  (Lightning turns an interrupt into an exit)
        fit(data, Recorder(stop_after=7), tmp_path / "interrupted")
    resumed = Recorder()
    fit(data, resumed, tmp_path / "again", str(tmp_path / "interrupted" / "step=5.ckpt"))
    assert torch.equal(torch.stack(resumed.seen), torch.stack(undisturbed.seen[5:]))
    assert torch.equal(resumed.weight, undisturbed.weight)


def test_stream_is_one_pass(data: PackedData) -> None:
    stream = BatchStream(data, seed=3, total_steps=STEPS)
    taken = iter(stream)
    for _ in range(4):
        next(taken)
    other = BatchStream(data, seed=3, total_steps=STEPS)
    other.load_state_dict(stream.state_dict())
    assert torch.equal(next(iter(other)), data.train_batch(3, 4))
    assert len(other) == STEPS and len(list(other)) == STEPS - 5 and not list(other)
