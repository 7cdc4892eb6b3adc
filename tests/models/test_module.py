"""The LightningModule under a real Trainer: the same step as by hand, resumed bit for bit, divergence as a result."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pytest
import torch
from torch import Tensor

from models.config import ModelConfig
from models.module import SPIKE_STEPS, Course, Diverged, LanguageModel
from models.training.config import OptimConfig
from models.training.executor import Microbatching, StepResult, update_routers
from models.training.optim import adamw, lr_ratio
from models.transformer import Transformer, initialise

Tiny = Callable[..., ModelConfig]
Tokens = Callable[..., Tensor]
pytestmark = pytest.mark.filterwarnings("ignore")
TRAINED_AS_V3 = {
    "dtype": "float32",
    "moe.balance.kind": "bias_aux_loss",
    "moe.balance.scope": "batch",
    "moe.balance.alpha": 0.01,
    "moe.balance.update_speed": 0.02,
}


class Stream:
    """Batch t for t = 0 .. total - 1; resumes at the next one."""

    def __init__(self, tokens: Tokens, total: int) -> None:
        self.tokens, self.total, self.next = tokens, total, 0

    def __len__(self) -> int:
        return self.total

    def __iter__(self) -> Iterator[Tensor]:
        while self.next < self.total:
            self.next += 1
            yield self.tokens(8, 10, seed=self.next - 1)

    def state_dict(self) -> dict[str, Any]:
        return {"next": self.next}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.next = state["next"]


class SaveAt(lightning.Callback):
    def __init__(self, step: int, path: Path) -> None:
        self.step, self.path = step, path

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)


def fit(
    module: LanguageModel, tokens: Tokens, steps: int, callbacks: list[Any] | None = None, resume: Path | None = None
) -> LanguageModel:
    trainer = lightning.Trainer(
        max_steps=steps,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        gradient_clip_val=module.optim.clip_norm,
        callbacks=callbacks,
    )
    trainer.fit(module, Stream(tokens, steps), ckpt_path=resume, weights_only=True)
    assert trainer.global_step == steps
    return module


class Scripted:
    """An executor that reports given losses, and notes the learning rate of each step."""

    def __init__(self, module: LanguageModel, losses: list[float], done: int = 0) -> None:
        self.module, self.losses, self.done = module, losses, done
        self.rates: list[float] = []

    def step(self, tokens_BT1: Tensor, progress: float = 0.0, mask_BT: Tensor | None = None) -> StepResult:
        for parameter in self.module.transformer.parameters():
            parameter.grad = torch.zeros_like(parameter)
        self.rates.append(self.module.trainer.optimizers[0].param_groups[0]["lr"])
        self.done += 1
        experts = self.module.transformer.config.moe.n_routed_experts
        load = torch.ones(len(self.module.transformer.routers()), experts, dtype=torch.int64)
        return StepResult({"loss": torch.tensor(self.losses[self.done - 1])}, load, load)

    def clip(self, parameters: Iterable[Tensor], limit: float) -> Tensor:
        return torch.ones(())


def scripted(tiny: Tiny, losses: list[float], total: int | None = None, done: int = 0, **optim: Any) -> LanguageModel:
    settings = OptimConfig(**({"warmup_fraction": 0.0} | optim))
    module = LanguageModel(tiny(), settings, Course(total or len(losses), spike_nats=1.0), seed=0)
    module.executor = Scripted(module, losses, done)
    return module


def test_trainer_takes_the_same_steps_as_a_bare_loop(tiny: Tiny, tokens: Tokens) -> None:
    """Four steps of four microbatches, bit for bit: clipping, learning rates, and one bias update a step."""
    optim = OptimConfig(lr=1e-2, warmup_fraction=0.5, clip_norm=0.3)
    module = fit(LanguageModel(tiny(TRAINED_AS_V3), optim, Course(4, microbatches=4), seed=5), tokens, 4)

    model = Transformer(tiny(TRAINED_AS_V3))
    initialise(model, 5, model.config.std)
    optimizer, executor = adamw(model, optim), Microbatching(model, 4)
    biases, norms = np.zeros((2, 6)), []
    for step in range(4):
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * lr_ratio(step, 4, optim)
        optimizer.zero_grad(set_to_none=True)
        result = executor.step(tokens(8, 10, seed=step))
        in_order = [p for group in optimizer.param_groups for p in group["params"]]  # the norm's bits depend on it
        norms.append(float(torch.nn.utils.clip_grad_norm_(in_order, 0.3)))
        optimizer.step()
        load = result.load_LE.numpy()
        biases += 0.02 * np.sign(load.mean(axis=1, keepdims=True) - load)
        for router, load_E, last_E in zip(model.routers(), result.load_LE, result.last_load_LE, strict=True):
            router.update(load_E, last_E, step / 4)
    assert min(norms) > 0.3, "every step was clipped"
    ours, by_hand = module.transformer.state_dict(), model.state_dict()
    assert [name for name in by_hand if not torch.equal(ours[name], by_hand[name])] == []
    for router, expected in zip(module.transformer.routers(), biases, strict=True):
        np.testing.assert_allclose(router.e_score_correction_bias.numpy(), expected, atol=1e-7)
    assert module.result is not None and module.result.load_LE.sum(dim=1).tolist() == [8 * 9 * 2] * 2


RAMPED = OptimConfig(lr=1e-2, schedule="wsd", warmup_fraction=0.25, decay_fraction=0.5, clip_norm=1e9)


def by_hand(tiny: Tiny, tokens: Tokens, changes: dict[str, Any], places: list[float], end: int | None) -> Transformer:
    """The steps of `LanguageModel` in a bare loop, each at its place in a training of 4."""
    model = Transformer(tiny(changes))
    initialise(model, 5, model.config.std)
    optimizer, executor = adamw(model, RAMPED), Microbatching(model, 2, end)
    for step, place in enumerate(places):
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * lr_ratio(place, 4, RAMPED)
        optimizer.zero_grad(set_to_none=True)
        result = executor.step(tokens(8, 10, seed=step), place / 4)
        optimizer.step()
        update_routers(model, result, place / 4)
    return model


@pytest.mark.parametrize("end", [None, 7])
@pytest.mark.parametrize("starts", [None, [0.0, 0.5, 1.25, 2.0, 3.0]])
def test_starts_and_documents_reach_the_step(
    tiny: Tiny, tokens: Tokens, starts: list[float] | None, end: int | None
) -> None:
    """A ramp of five steps over four full batches, and four plain ones: learning rate, MTP's weight (which falls at
    half of the training) and the frozen bias follow the place, not the number of the step. Bit for bit."""
    changes = TRAINED_AS_V3 | {"mtp.depth": 1, "mtp.tail_from": 0.5, "moe.balance.frozen_fraction": 0.3}
    module = LanguageModel(tiny(changes), RAMPED, Course(4, 2, starts, document_end=end), seed=5)
    steps = 4 if starts is None else 5
    fit(module, tokens, steps)
    ours = module.transformer.state_dict()
    expected = by_hand(tiny, tokens, changes, starts or [0.0, 1.0, 2.0, 3.0], end).state_dict()
    assert [name for name in expected if not torch.equal(ours[name], expected[name])] == []
    if end is not None:
        across = by_hand(tiny, tokens, changes, starts or [0.0, 1.0, 2.0, 3.0], None).state_dict()
        assert not torch.equal(across["lm_head.weight"], expected["lm_head.weight"])
    if starts is not None:
        counted = by_hand(tiny, tokens, changes, [0.0, 1.0, 2.0, 3.0, 4.0], end).state_dict()
        assert not torch.equal(counted["lm_head.weight"], expected["lm_head.weight"])


def test_training_learns(tiny: Tiny, tokens: Tokens) -> None:
    """The same batch 30 times: the loss must fall far below that of guessing, ln 61 = 4.1."""
    changes = TRAINED_AS_V3 | {"init_std": None}
    module = LanguageModel(tiny(changes), OptimConfig(lr=2e-2), Course(30, microbatches=2), seed=0)
    fit(module, lambda batch, length, seed: tokens(2, length, seed=0), 30)
    assert module.result is not None and float(module.result.losses["loss"]) < 1.0


WHOLE_V3 = TRAINED_AS_V3 | {
    "attention.kind": "gqa",
    "attention.n_heads": 6,
    "moe.n_group": 3,
    "moe.topk_group": 2,
    "moe.balance.frozen_fraction": 0.2,
    "moe.balance.bias_rule": "proportional",
    "moe.balance.load_scope": "microbatch",
    "mtp.depth": 2,
    "mtp.tail_from": 0.6,
}


@pytest.mark.parametrize("changes", [TRAINED_AS_V3, WHOLE_V3], ids=["balance", "every toggle"])
def test_resume_is_bit_exact(tiny: Tiny, tokens: Tokens, tmp_path: Path, changes: dict[str, Any]) -> None:
    """Also of a ramp with masked documents; they are given anew, like the rest of the recipe."""
    ramp = [0.0, 0.5, 1.0, 2.0, 3.0, 4.0] if changes is WHOLE_V3 else None

    def fresh(seed: int = 5) -> LanguageModel:
        return LanguageModel(
            tiny(changes | {"attention.n_kv_heads": 3}),
            OptimConfig(lr=1e-2, schedule="v3"),
            Course(6 if ramp is None else 5, 2, ramp, document_end=None if ramp is None else 7),
            seed,
        )

    whole = fit(fresh(), tokens, 6, [SaveAt(3, tmp_path / "resume.ckpt")])
    resumed = fit(fresh(seed=6), tokens, 6, resume=tmp_path / "resume.ckpt")
    ours, undisturbed = resumed.state_dict(), whole.state_dict()
    assert ours.keys() == undisturbed.keys() and any("e_score_correction_bias" in name for name in ours)
    assert [name for name in ours if not torch.equal(ours[name], undisturbed[name])] == []
    assert resumed.result is not None and whole.result is not None
    assert torch.equal(resumed.result.losses["loss"], whole.result.losses["loss"])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_diverges_at_its_step(tiny: Tiny, tokens: Tokens, bad: float) -> None:
    module = scripted(tiny, [4.0, 3.0, bad, 3.0])
    with pytest.raises(Diverged, match="not finite at step 3") as caught:
        fit(module, tokens, 4)
    assert caught.value.step == 3


@pytest.mark.parametrize("read_every", [1, 2, 3, 10])
def test_the_course_tells_how_often_the_host_asks_and_nothing_else(tiny: Tiny, tokens: Tokens, read_every: int) -> None:
    """Steps come in order, each once, up to the one that diverged, whenever they are read."""
    seen: list[tuple[int, int]] = []

    class Reader(lightning.Callback):
        def on_train_batch_end(self, trainer: Any, module: Any, *_: Any) -> None:
            if module.due(trainer.global_step):
                for taken in module.read():
                    assert taken.loss == losses[taken.step - 1] and float(taken.gradient_norm) == 1.0
                    seen.append((taken.step, trainer.global_step))

    losses = [4.0, 3.0, 3.5, 3.0, math.nan, 2.0, 2.0]
    for callbacks in ([Reader()], []):  # without one who reads, the module finds it at the same time
        module = scripted(tiny, losses)
        module.course = replace(module.course, read_every=read_every)
        with pytest.raises(Diverged, match="not finite at step 5"):
            fit(module, tokens, len(losses), callbacks)
        assert module.global_step == min(7, -(-5 // read_every) * read_every)
    assert [step for step, _ in seen] == [1, 2, 3, 4]
    assert [now for _, now in seen] == [min(7, -(-step // read_every) * read_every) for step in (1, 2, 3, 4)]


@pytest.mark.parametrize("read_every", [1, 4])
@pytest.mark.parametrize(
    ("losses", "warmup", "diverges_at"),
    [
        ([4, 3, 3, 3, 4.1, 4.1, 4.1, 3], 0.0, 7),
        ([4, 2.9, 3, 2.9, 4.1, 4.1, 4.1, 3], 0.0, 7),  # the least is what it kept below
        ([4, 3, 3, 3, 3.9, 3.9, 3.9, 3.9], 0.0, None),  # within the limit of 1 nat above the least
        ([4, 3, 3, 3, 9, 9, 3, 9, 9, 3], 0.0, None),  # never three in a row
        ([4, 4, 4, 1, 4, 1, 1, 4, 4, 4, 4], 0.0, None),  # nor does it fall for as many: easy batches
        ([9, 9, 9, 9], 0.0, 3),  # worse than to know nothing
        ([3, 3, 3, 9, 9, 9, 9, 3, 3, 3, 3, 3], 0.6, None),  # the warmup may spike
        ([4, 3, 3, 3, 3, 3, 9, 9, 9, 3], 0.6, 9),
    ],
)
def test_spike_rule(
    tiny: Tiny, tokens: Tokens, losses: list[float], warmup: float, diverges_at: int | None, read_every: int
) -> None:
    assert SPIKE_STEPS == 3
    module = scripted(tiny, losses, warmup_fraction=warmup)
    module.course = replace(module.course, read_every=read_every)
    if diverges_at is None:
        fit(module, tokens, len(losses))
        return
    with pytest.raises(Diverged) as caught:
        fit(module, tokens, len(losses))
    assert caught.value.step == diverges_at


def test_spike_watch_survives_a_resume(tiny: Tiny, tokens: Tokens, tmp_path: Path) -> None:
    """Two high losses before the interruption, the third after it, against a minimum from before it."""
    losses = [3.0, 3.0, 3.0, 9.0, 9.0, 9.0]
    path = tmp_path / "resume.ckpt"
    with pytest.raises(Diverged):
        fit(scripted(tiny, losses), tokens, 6, [SaveAt(5, path)])
    with pytest.raises(Diverged) as caught:
        fit(scripted(tiny, losses, done=5), tokens, 6, resume=path)
    assert caught.value.step == 6


def test_each_step_uses_its_own_learning_rate(tiny: Tiny, tokens: Tokens) -> None:
    optim: dict[str, Any] = {
        "lr": 0.01,
        "warmup_fraction": 0.25,
        "schedule": "wsd",
        "decay_fraction": 0.5,
        "final_lr_ratio": 0.2,
    }
    module = fit(scripted(tiny, [3.0] * 8, **optim), tokens, 8)
    expected = [0.005, 0.01, 0.01, 0.01, 0.01, 0.008, 0.006, 0.004]
    assert isinstance(module.executor, Scripted) and module.executor.rates == pytest.approx(expected)


def test_learning_rate_is_the_one_that_the_step_is_taken_with(tiny: Callable[..., ModelConfig]) -> None:
    """Lightning moves the scheduler before a step's callbacks: a log must not read the optimizer's next rate."""
    optim = OptimConfig(lr=0.01, warmup_fraction=0.25)
    module = LanguageModel(tiny({"dtype": "float32"}), optim, Course(8), seed=0)
    scheduled = module.configure_optimizers()
    scheduler = scheduled["lr_scheduler"]["scheduler"]
    for step in range(8):
        assert scheduler.get_last_lr()[0] == pytest.approx(module.learning_rate(step), rel=1e-12)
        scheduled["optimizer"].step()
        scheduler.step()
    assert module.learning_rate(0) == 0.005 and module.learning_rate(1) == 0.01
