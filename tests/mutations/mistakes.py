"""Mistakes that other projects have made, planted into our own code one at a time."""

import contextlib
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from bench import Bench
from pytest import MonkeyPatch
from torch import Tensor, nn

import ablations.guards.schedule as on_ranks
import models.attention as attention
import models.training.executor as executor
import models.training.loss as loss
from ablations.home import ROOT
from ablations.record.guardresult import GuardResult
from models.attention import MultiHeadLatentAttention
from models.balance import AuxLoss, Bias, Routing
from models.decoding.generate import Cache
from models.kinds import Latent
from models.layers import Embedding, Linear, RMSNorm
from models.moe import MoE, Router
from models.training.executor import Microbatching, StepResult, Targets
from models.transformer import Block, Transformer

Plant = Callable[[MonkeyPatch, Path], None]
MISTAKES: dict[str, "Mistake"] = {}


@dataclass(frozen=True)
class Mistake:
    story: str
    plant: Plant
    """Takes an empty folder, too."""
    look: Callable[[Bench], list[GuardResult]]
    guards: tuple[str, ...]
    """All that stop it ..."""
    test: str | None = None
    """... or the test that fails, where no guard can know."""


def mistake(story: str, *guards: str, arm: str = "bias") -> Callable[[Plant], Plant]:
    def named(plant: Plant) -> Plant:
        MISTAKES[plant.__name__] = Mistake(story, plant, lambda bench: bench.arm(arm), guards)
        return plant

    return named


def after(patch: MonkeyPatch, owner: Any, name: str, change: Callable[..., Any]) -> None:
    """`change(result, *arguments)` in the place of what `owner.name` returns."""
    original = getattr(owner, name)
    patch.setattr(owner, name, lambda *args, **kwargs: change(original(*args, **kwargs), *args))


# What a logit may see


@mistake("An all-ones mask: 99.7 % accuracy, once reported as a result.", "causality", "decoding")
def all_ones_mask(patch: MonkeyPatch, folder: Path) -> None:
    patch.setattr(attention, "_causal", lambda length, shared, dtype: torch.zeros(shared * length, length, dtype=dtype))


@mistake("The mask begins one place too late, so that the answer is in sight.", "causality", "decoding")
def sees_one_ahead(patch: MonkeyPatch, folder: Path) -> None:
    after(patch, attention, "_causal", lambda mask, length, *_: mask.roll(1, dims=1).masked_fill(mask == 0, 0.0))


@mistake("A leak in training mode only.", "causality")
def leaks_in_training(patch: MonkeyPatch, folder: Path) -> None:
    forward = MultiHeadLatentAttention.forward

    def leaking(self: Any, x: Tensor, *rest: Any) -> Tensor:
        return forward(self, x + 0.1 * x.roll(-1, dims=1) if self.training else x, *rest)

    patch.setattr(MultiHeadLatentAttention, "forward", leaking)


@mistake("Batch statistics in training.", "causality")
def batch_statistics(patch: MonkeyPatch, folder: Path) -> None:
    forward = RMSNorm.forward

    def normed(self: Any, x: Tensor) -> Tensor:
        return forward(self, x - 0.1 * x.mean(dim=tuple(range(x.ndim - 1)), keepdim=True) if self.training else x)

    patch.setattr(RMSNorm, "forward", normed)


@mistake("Expert choice over the microbatch: experts take their best tokens, of the future and of other rows.",
         "causality", "decoding")  # fmt: skip
def expert_choice(patch: MonkeyPatch, folder: Path) -> None:
    def chosen(routing: Routing, router: Router, *_: Any) -> Routing:
        scores = routing.scores_BTE.detach().flatten(0, 1)
        capacity = max(1, len(scores) * router.config.top_k // scores.shape[1])
        kept = scores >= scores.topk(capacity, dim=0).values[-1]
        return replace(routing, gates_NK=routing.gates_NK * kept.gather(1, routing.experts_NK))

    after(patch, Router, "forward", chosen)


@mistake("Rows of a batch see each other.", "causality", "decoding")
def rows_see_each_other(patch: MonkeyPatch, folder: Path) -> None:
    after(patch, attention, "attend", lambda out, *_: out + 0.1 * out.mean(dim=0, keepdim=True))


@mistake("An MTP module embeds the token that it is to predict.", "causality", arm="mtp")
def mtp_sees_its_answer(patch: MonkeyPatch, folder: Path) -> None:
    predict = Transformer._predict_further

    def far_sighted(self: Any, hidden: Tensor, tokens_BT: Tensor, *rest: Any) -> None:
        predict(self, hidden, torch.cat((tokens_BT[:, 1:], tokens_BT[:, -1:]), dim=1), *rest)

    patch.setattr(Transformer, "_predict_further", far_sighted)


@mistake("A row sees the one before it, as where a capacity is filled first come, first served.", "causality")
def row_before(patch: MonkeyPatch, folder: Path) -> None:
    forward = MultiHeadLatentAttention.forward

    def seeing(self: Any, x: Tensor, *rest: Any) -> Tensor:
        before = torch.cat((torch.zeros_like(x[:1]), x[:-1]))
        return forward(self, x + 0.2 * before if self.training else x, *rest)

    patch.setattr(MultiHeadLatentAttention, "forward", seeing)


@mistake("From its second document on, a row is not causal.", "causality", arm="documents")
def second_document_not_causal(patch: MonkeyPatch, folder: Path) -> None:
    def open_later(mask: Tensor, documents_BT: Tensor) -> Tensor:
        same = documents_BT.unsqueeze(2) == documents_BT.unsqueeze(1)
        return mask.masked_fill(same & (documents_BT > 0).unsqueeze(1), 0.0)

    after(patch, __import__("models.transformer", fromlist=["_"]), "within_documents", open_later)


@mistake("Documents are not kept apart.", "causality", arm="documents")
def documents_not_apart(patch: MonkeyPatch, folder: Path) -> None:
    plain = attention.within_documents
    patch.setattr("models.transformer.within_documents", lambda documents: plain(torch.zeros_like(documents)))


# What is reported, and what is descended


def _losses(patch: MonkeyPatch, change: Callable[[StepResult, Microbatching], None]) -> None:
    def changed(result: StepResult, self: Microbatching, *_: Any) -> StepResult:
        change(result, self)
        return result

    after(patch, Microbatching, "step", changed)


@mistake("Targets are not shifted: the model learns to copy.", "scoring")
def targets_not_shifted(patch: MonkeyPatch, folder: Path) -> None:
    def copied(targets: list[Targets], tokens: Tensor, mask: Any, microbatches: int, *_: Any) -> list[Targets]:
        return [Targets(part) for part in tokens[:, :-1].chunk(microbatches)]

    after(patch, executor, "microbatch_targets", copied)


@mistake("Evaluation scores the token that it is given.", "scoring")
def evaluation_not_shifted(patch: MonkeyPatch, folder: Path) -> None:
    plain = loss.language_model_loss
    patch.setattr("models.measure.evaluation.language_model_loss", lambda logits, t: plain(logits[:, 1:], t[:, :-1]))


@mistake("The reported loss is a sum over microbatches.", "scoring", "derivative", "start")
def sum_over_microbatches(patch: MonkeyPatch, folder: Path) -> None:
    def summed(result: StepResult, self: Microbatching) -> None:
        result.losses["loss"] *= self.microbatches

    _losses(patch, summed)


@mistake("The reported loss holds the auxiliary term.", "scoring", "derivative", arm="aux_loss")
def loss_with_auxiliary_term(patch: MonkeyPatch, folder: Path) -> None:
    def joined(result: StepResult, self: Microbatching) -> None:
        result.losses["loss"] += result.losses["aux_loss"]

    _losses(patch, joined)


@mistake("The auxiliary gradient is divided by the microbatches.", "derivative", arm="aux_loss")
def auxiliary_gradient_divided(patch: MonkeyPatch, folder: Path) -> None:
    after(patch, executor, "aux_loss", lambda term, *_: None if term is None else term.detach() / 2 + term / 2)


@mistake("The auxiliary loss is detached.", "derivative", arm="aux_loss")
def auxiliary_loss_detached(patch: MonkeyPatch, folder: Path) -> None:
    after(patch, executor, "aux_loss", lambda term, *_: None if term is None else term.detach())


@mistake("Gradients are divided by the microbatches twice.", "derivative")
def gradients_divided_twice(patch: MonkeyPatch, folder: Path) -> None:
    def divided(result: StepResult, self: Microbatching) -> None:
        for parameter in self.model.parameters():
            if parameter.grad is not None:
                parameter.grad /= self.microbatches

    _losses(patch, divided)


@mistake("MTP's loss is a sum over its depths.", "scoring", arm="mtp")
def mtp_not_averaged(patch: MonkeyPatch, folder: Path) -> None:
    after(patch, executor, "mtp_weight", lambda weight, config, _: weight * config.depth)


@mistake("Depth k of MTP is scored on the targets of depth k - 1.", "scoring", arm="mtp")
def mtp_targets_too_near(patch: MonkeyPatch, folder: Path) -> None:
    plain = Targets.loss

    def near(self: Targets, logits: Tensor, depth: int = 0) -> Tensor:
        if not depth:
            return plain(self, logits)
        return loss.language_model_loss(logits, self.tokens_BT[:, depth - 1 : -1])

    patch.setattr(Targets, "loss", near)


@mistake("What is called chained is a parallel head, which looks at no later token.", "start", arm="mtp")
def chained_that_is_parallel(patch: MonkeyPatch, folder: Path) -> None:
    from models.mtp import ChainedModule

    def parallel(self: Any, hidden: Tensor, embedded: Tensor, *rest: Any) -> Any:
        return self.block(hidden, *rest)

    patch.setattr(ChainedModule, "forward", parallel)


@mistake("MTP reads a detached hidden state, and teaches the main model nothing.", "derivative", arm="mtp")
def mtp_detached(patch: MonkeyPatch, folder: Path) -> None:
    after(patch, __import__("models.transformer", fromlist=["_"]), "handed_on", lambda hidden, *_: hidden.detach())


@mistake("MTP is detached after the first step.", "derivative", arm="mtp")
def mtp_detached_later(patch: MonkeyPatch, folder: Path) -> None:
    losses = executor.mtp_losses

    def detached(config: Any, output: Any, targets: Any, progress: float) -> dict[str, Tensor]:
        return {n: t.detach() if progress > 0 else t for n, t in losses(config, output, targets, progress).items()}

    patch.setattr(executor, "mtp_losses", detached)


@mistake("MTP's weight never falls to its tail.", "scoring", arm="mtp")
def mtp_weight_never_falls(patch: MonkeyPatch, folder: Path) -> None:
    patch.setattr(executor, "mtp_weight", lambda config, progress: config.weight)


def _some_targets(patch: MonkeyPatch, some: Callable[[Tensor], Tensor]) -> None:
    plain = Targets.loss

    def partly(self: Targets, logits: Tensor, depth: int = 0) -> Tensor:
        return plain(replace(self, tokens_BT=some(self.tokens_BT)), some(logits), depth)

    patch.setattr(Targets, "loss", partly)


@mistake("The loss is over the first row of each microbatch.", "scoring")
def loss_of_the_first_row(patch: MonkeyPatch, folder: Path) -> None:
    _some_targets(patch, lambda x: x[:1])


@mistake("The loss is over the first half of each row.", "scoring")
def loss_of_the_first_half(patch: MonkeyPatch, folder: Path) -> None:
    _some_targets(patch, lambda x: x[:, : x.shape[1] // 2])


@mistake("Half of the experts' matrices are detached, on the path that is trained alone.", "derivative")
def grouped_product_detached(patch: MonkeyPatch, folder: Path) -> None:
    from models import moe

    product = moe.PRODUCTS["grouped_mm"]

    def partly(x: Tensor, weight_EON: Tensor, rows_E: Tensor) -> Tensor:
        half = len(weight_EON) // 2
        return product(x, torch.cat((weight_EON[:half].detach(), weight_EON[half:])), rows_E)

    patch.setitem(moe.PRODUCTS, "grouped_mm", partly)


@mistake("Gradients are doubled, but for FP64.", "derivative")
def gradients_doubled_as_trained(patch: MonkeyPatch, folder: Path) -> None:
    def doubled(result: StepResult, self: Microbatching) -> None:
        for parameter in self.model.parameters():
            if parameter.grad is not None and parameter.dtype != torch.float64:
                parameter.grad *= 2

    _losses(patch, doubled)


@mistake("Gradients are clipped value by value.", "derivative")
def clipped_by_value(patch: MonkeyPatch, folder: Path) -> None:
    def by_value(self: Any, parameters: Any, limit: float) -> None:
        nn.utils.clip_grad_value_(parameters, limit)

    patch.setattr(Microbatching, "clip", by_value)


@mistake("The bias moves in the first step only.", "load")
def bias_moves_once(patch: MonkeyPatch, folder: Path) -> None:
    step = Bias.step
    patch.setattr(Bias, "step", lambda self, load_E, last_E, p: None if p > 0 else step(self, load_E, last_E, p))


@mistake("A leak of a hundredth, with no gradient, where it is trained alone.", "causality")
def little_leak_as_trained(patch: MonkeyPatch, folder: Path) -> None:
    forward = MultiHeadLatentAttention.forward

    def leaking(self: Any, x: Tensor, *rest: Any) -> Tensor:
        later = 0.01 * x.detach().roll(-1, dims=1) if self.training and x.dtype != torch.float64 else 0.0
        return forward(self, x + later, *rest)

    patch.setattr(MultiHeadLatentAttention, "forward", leaking)


# How load is kept even


@mistake("The bias moves with every microbatch.", "load")
def bias_moves_per_microbatch(patch: MonkeyPatch, folder: Path) -> None:
    def moved(routing: Routing, router: Router, *_: Any) -> Routing:
        if router.training and torch.is_grad_enabled():
            router.update(routing.load_E, routing.load_E, 0.0)
        return routing

    after(patch, Router, "forward", moved)


def _load(patch: MonkeyPatch, change: Callable[[StepResult], Tensor]) -> None:
    after(patch, Microbatching, "step", lambda result, *_: replace(result, load_LE=change(result)))


@mistake("Loads are counted again when activations are recomputed.", "load")
def load_counted_twice(patch: MonkeyPatch, folder: Path) -> None:
    _load(patch, lambda result: 2 * result.load_LE)


@mistake("Loads are those of the last microbatch: the worst arm of all in 2501.11873.", "load")
def load_of_one_microbatch(patch: MonkeyPatch, folder: Path) -> None:
    _load(patch, lambda result: result.last_load_LE)


@mistake("A strategy moves by the last microbatch's load.", "load")
def bias_by_the_last_microbatch(patch: MonkeyPatch, folder: Path) -> None:
    step = Bias.step
    patch.setattr(Bias, "step", lambda self, load_E, last_E, progress: step(self, last_E, last_E, progress))


@mistake("The sign of the bias is wrong: crowded experts become more crowded.", "load")
def bias_towards_the_crowd(patch: MonkeyPatch, folder: Path) -> None:
    after(patch, Bias, "step", lambda step, *_: -step)


@mistake("The update walks the main layers only: the experts of MTP are never balanced.", "load", arm="mtp")
def mtp_routers_forgotten(patch: MonkeyPatch, folder: Path) -> None:
    def main_only(model: Transformer, result: StepResult, progress: float) -> None:
        for router in model.main_routers():
            router.update(result.load_LE[router.row], result.last_load_LE[router.row], progress)

    for module in ("ablations.trial.bare", "models.module"):
        patch.setattr(f"{module}.update_routers", main_only)


@mistake("Gates are taken from the biased scores.", "load", "evaluation")
def biased_gates(patch: MonkeyPatch, folder: Path) -> None:
    def biased(routing: Routing, router: Router, *_: Any) -> Routing:
        scores = router.balance.biased(routing.scores_BTE.flatten(0, 1), router.e_score_correction_bias)
        gates = scores.gather(1, routing.experts_NK)
        return replace(routing, gates_NK=gates / gates.sum(dim=-1, keepdim=True))

    after(patch, Router, "forward", biased)


@mistake("The bias is taken off where it should be added.", "load")
def bias_taken_off(patch: MonkeyPatch, folder: Path) -> None:
    patch.setattr(Bias, "biased", lambda self, scores, bias_E: scores - bias_E)


@mistake("The bias moves, and nobody reads it.", "load")
def bias_never_read(patch: MonkeyPatch, folder: Path) -> None:
    patch.setattr(Bias, "biased", lambda self, scores, bias_E: scores)


@mistake("Gates are a softmax of the chosen biased scores.", "load")
def gates_by_softmax(patch: MonkeyPatch, folder: Path) -> None:
    def soft(routing: Routing, router: Router, *_: Any) -> Routing:
        scores = router.balance.biased(routing.scores_BTE.flatten(0, 1), router.e_score_correction_bias)
        return replace(routing, gates_NK=scores.gather(1, routing.experts_NK).softmax(dim=-1))

    after(patch, Router, "forward", soft)


@mistake("The bias is not frozen in the tail.", "load", arm="frozen")
def bias_never_frozen(patch: MonkeyPatch, folder: Path) -> None:
    step = Bias.step
    patch.setattr(Bias, "step", lambda self, load_E, last_E, progress: step(self, load_E, last_E, 0.0))


@mistake("The auxiliary loss has the wrong sign.", "load", arm="aux_loss")
def auxiliary_loss_of_the_wrong_sign(patch: MonkeyPatch, folder: Path) -> None:
    after(patch, AuxLoss, "loss", lambda term, *_: -term)


@mistake("The auxiliary loss is a sum over sequences.", "load", arm="aux_loss")
def auxiliary_loss_summed(patch: MonkeyPatch, folder: Path) -> None:
    after(patch, AuxLoss, "loss", lambda term, _, routing, __: term * len(routing.scores_BTE))


# How it is measured and decoded


@mistake("An FP8 arm is evaluated in FP8, against a BF16 arm.", "evaluation", arm="fp8")
def evaluated_in_fp8(patch: MonkeyPatch, folder: Path) -> None:
    @contextlib.contextmanager
    def training(model: nn.Module) -> Iterator[None]:
        with torch.no_grad():
            model.train()
            yield

    patch.setattr("models.measure.evaluation.inferring", training)


@mistake("The cache shows a place that nothing was written to.", "decoding")
def cache_off_by_one(patch: MonkeyPatch, folder: Path) -> None:
    def further(places: Any, *_: Any) -> Any:
        mask = places.mask_BTL
        return replace(places, mask_BTL=torch.cat((mask[..., :1], mask[..., :-1]), dim=-1))

    after(patch, Cache, "places", further)


@mistake("The absorbed form scales its scores by another width.", "decoding")
def absorbed_with_another_scale(patch: MonkeyPatch, folder: Path) -> None:
    absorbed = MultiHeadLatentAttention._absorbed

    def scaled(self: Any, q_nope: Tensor, q_rope: Tensor, *rest: Any) -> Tensor:
        return absorbed(self, 2 * q_nope, 2 * q_rope, *rest)

    patch.setattr(MultiHeadLatentAttention, "_absorbed", scaled)


@mistake("A prompt that is read at once is read without a mask.", "decoding")
def prompt_without_a_mask(patch: MonkeyPatch, folder: Path) -> None:
    def unmasked(places: Any, cache: Cache, starts: Any, width: int) -> Any:
        return replace(places, mask_BTL=torch.zeros_like(places.mask_BTL)) if width > 1 else places

    after(patch, Cache, "places", unmasked)


@mistake("All rows write to the places of the first.", "decoding")
def rows_at_the_same_places(patch: MonkeyPatch, folder: Path) -> None:
    def same(places: Any, *_: Any) -> Any:
        return replace(places, positions_BT=places.positions_BT[:1].expand_as(places.positions_BT))

    after(patch, Cache, "places", same)


@mistake("A layer's cache keeps more than it says.", "decoding")
def cache_keeps_more(patch: MonkeyPatch, folder: Path) -> None:
    def keeping(buffers: Any, cache: Any, places: Any, *rows: Tensor) -> Any:
        cache.recent = [row.clone() for row in rows]
        return buffers

    after(patch, attention.LayerCache, "write", keeping)


@mistake("A running mean of training is used in evaluation.", "evaluation")
def running_mean(patch: MonkeyPatch, folder: Path) -> None:
    forward = RMSNorm.forward

    def normed(self: Any, x: Tensor) -> Tensor:
        if self.training:
            self.mean = x.detach().flatten(0, -2).mean(dim=0)
            return forward(self, x)
        return forward(self, x - getattr(self, "mean", 0.0))

    patch.setattr(RMSNorm, "forward", normed)


# What it costs, and how it starts


def _with_part(patch: MonkeyPatch, part: Callable[[int], nn.Module], use: Callable[[Any, Tensor], Tensor]) -> None:
    """Every block gets a part, which works on its output."""
    build, forward = Block.__init__, Block.forward

    def built(self: Any, config: Any, layer: int) -> None:
        build(self, config, layer)
        self.part = part(config.d_model)

    def passed(self: Any, *args: Any, **kwargs: Any) -> Any:
        out, routing = forward(self, *args, **kwargs)
        return use(self.part, out), routing

    patch.setattr(Block, "__init__", built)
    patch.setattr(Block, "forward", passed)


class Gain(nn.Module):
    """Off at first, as its author thinks."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.zeros(width))


class Zeros(Linear):
    """A projection that adds nothing at first, as its author thinks."""

    def __init__(self, width: int) -> None:
        super().__init__(width, width)
        nn.init.zeros_(self.weight)


@mistake("A part with parameters that the cost model does not count.", "size")
def parameters_not_counted(patch: MonkeyPatch, folder: Path) -> None:
    _with_part(patch, lambda width: Linear(width, width), lambda part, x: x + part(x))


@mistake("Parameters of the MTP modules are not counted.", "size", arm="mtp")
def mtp_not_counted(patch: MonkeyPatch, folder: Path) -> None:
    after(patch, __import__("models.cost", fromlist=["_"]), "parts", lambda parts, *_: {**parts, "mtp": 0})


@mistake("The cache is said to be the latent alone, without the RoPE key.", "size")
def cache_without_its_rope_key(patch: MonkeyPatch, folder: Path) -> None:
    patch.setattr(Latent, "cached", property(lambda self: self.attention.kv_lora_rank))


@mistake("A gain of zeros is started at one, or not at all.", "initialisation")
def zero_gain(patch: MonkeyPatch, folder: Path) -> None:
    _with_part(patch, Gain, lambda part, x: x + part.gain * x)


@mistake("A matrix of zeros is overwritten by a draw.", "initialisation")
def zero_matrix_overwritten(patch: MonkeyPatch, folder: Path) -> None:
    _with_part(patch, Zeros, lambda part, x: x + part(x))


@mistake("An orthogonal matrix is overwritten by a draw.", "initialisation")
def orthogonal_overwritten(patch: MonkeyPatch, folder: Path) -> None:
    build = Linear.__init__

    def orthogonal(self: Linear, in_features: int, out_features: int) -> None:
        build(self, in_features, out_features)
        nn.init.orthogonal_(self.weight)

    patch.setattr(Linear, "__init__", orthogonal)


@mistake("A layer's output is detached: half of the model learns nothing.", "derivative", "start")
def layer_detached(patch: MonkeyPatch, folder: Path) -> None:
    after(patch, MoE, "forward", lambda found, *_: (found[0].detach(), found[1]))


@mistake("Dice without a seed.", "scoring", "load", "decoding", "evaluation", "determinism")
def dice_without_a_seed(patch: MonkeyPatch, folder: Path) -> None:
    after(patch, Embedding, "forward", lambda x, *_: x * (1 + 1e-3 * torch.randn_like(x)))


# Pipelines


@mistake("A backward chunk is lost.", "schedule", arm="pipeline")
def backward_chunk_lost(patch: MonkeyPatch, folder: Path) -> None:
    def shorter(actions: list[Any], *_: Any) -> list[Any]:
        lost = next(i for i, action in enumerate(actions) if action.kind == "W")
        return actions[:lost] + actions[lost + 1 :]

    after(patch, __import__("models.pipeline.inprocess", fromlist=["_"]), "merged", shorter)


def _on_ranks(patch: MonkeyPatch, folder: Path, old: str, new: str) -> None:
    """Ranks run a copy of the code in which `old` stands no longer."""
    for name in ("models", "ablations"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    file = folder / "models" / "pipeline" / "ranks.py"
    text = file.read_text()
    assert text.count(old) == 1
    file.write_text(text.replace(old, new))
    patch.setattr(on_ranks, "ROOT", folder)


@mistake("Gradients are clipped by each rank's own norm.", "ranks", arm="pipeline")
def clipped_by_rank(patch: MonkeyPatch, folder: Path) -> None:
    _on_ranks(patch, folder, "total = all_ranks(torch.stack(squares).sum() if squares else none)",
              "total = torch.stack(squares).sum() if squares else none")  # fmt: skip


@mistake("The gradients of a mirrored stage's other copy are lost.", "ranks", arm="pipeline")
def mirrored_gradients_lost(patch: MonkeyPatch, folder: Path) -> None:
    _on_ranks(patch, folder, "dist.all_reduce(parameter.grad, group=self.groups[ranks])", "pass")
