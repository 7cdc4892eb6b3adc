"""What every arm must pass before any of its trials runs (docs/design.md, "What makes an ablation true").

Public small ablations are mostly wrong in ways that these catch: an all-ones mask, unequal parameters, a second toggle
that moved along, a held-out text that was trained on.
"""

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.optim import Optimizer

from ablations.config.trialkeys import TrialKeys
from ablations.record.guardresult import Fact, GuardResult
from models.config import PrecisionConfig
from models.precision.recipe import resolve
from models.transformer import Transformer, initialise
from tasks.batches import PackedData

if TYPE_CHECKING:  # the scheduler uses the guards on configs without paying for Lightning
    from models.module import LanguageModel

CAUSALITY_TOLERANCE = 1e-4
"""FP32 logits: other group sizes in the grouped product move the last bits; a leak moves a hundred times more."""
START_TOLERANCE = 0.5
"""Nats between the initial loss and ln(vocabulary)."""
SCHEDULE_TOLERANCE = 1e-12
"""Of FP64 gradients, relative to the largest of each parameter."""
GUARDS = ("causality", "schedule", "start", "determinism")
"""What `arm_guards` looks at, in this order; the schedule where there is a pipeline."""
SEPARATION_LIMIT = 0.05
"""Largest share of held-out 32-token windows that the training part may hold."""


def causality(model: Transformer, tokens_BT: Tensor, document_end: int | None = None) -> GuardResult:
    """Changing tokens after position t leaves the logits up to t as they were. `model` is in FP32."""
    model.eval()
    worst = largest_change(model, tokens_BT, document_end)
    passed = worst <= CAUSALITY_TOLERANCE
    detail = f"largest change of an earlier logit {worst:.1e} (limit {CAUSALITY_TOLERANCE:.0e})"
    facts: dict[str, Fact] = {"largest_change": worst, "limit": CAUSALITY_TOLERANCE}
    return GuardResult(
        "causality", passed, detail if passed else f"later tokens change earlier logits: {detail}", facts
    )


def causality_in_training(keys: TrialKeys, seed: int, tokens_BT: Tensor) -> GuardResult:
    """The same for an FP8 recipe's training: a scale that several tokens share lets a later token change an earlier
    one's rounding through the maximum. That is what such a recipe is; any other leak is a fault.

    In FP64, where the order of sums cannot tip a rounding.
    """
    config, precision = keys.model, replace(keys.model.precision, kernels="emulated")
    loop = replace(config.moe, backend="loop")
    model = Transformer(replace(config, dtype="float64", moe=loop, precision=precision))
    initialise(model, seed, config.std)
    worst = largest_change(model.train(), tokens_BT, keys.document_end)
    shared = resolve(precision).activation.granularity in ("block", "tensor")
    detail = f"in FP8 training, later tokens change earlier logits by up to {worst:.1e}"
    detail += (
        ", through scales that tokens share; evaluation is in BF16" if shared else f" (limit {CAUSALITY_TOLERANCE:.0e})"
    )
    facts: dict[str, Fact] = {"largest_change": worst, "shared_scales": shared, "limit": CAUSALITY_TOLERANCE}
    return GuardResult("causality", shared or worst <= CAUSALITY_TOLERANCE, detail, facts)


def largest_change(model: Transformer, tokens_BT: Tensor, document_end: int | None = None) -> float:
    """Of a logit at or before t, when all tokens after t change, for three t. An MTP module of depth k may see k tokens
    further, by its definition, and no more."""
    length = tokens_BT.shape[1]
    generator = torch.Generator().manual_seed(0)
    worst = 0.0
    with torch.no_grad():
        before = _all_logits(model, tokens_BT, document_end)
        for t in sorted({length // 4, length // 2, length - 2}):
            changed = tokens_BT.clone()
            other = torch.randint(1, model.config.vocab_size, changed[:, t + 1 :].shape, generator=generator)
            changed[:, t + 1 :] = (changed[:, t + 1 :] + other) % model.config.vocab_size  # every later token differs
            after = _all_logits(model, changed, document_end)
            for k, (old, new) in enumerate(zip(before, after, strict=True)):
                kept = max(0, t + 1 - k)
                if kept:
                    worst = max(worst, float((new[:, :kept] - old[:, :kept]).abs().max()))
    return worst


def _all_logits(model: Transformer, tokens_BT: Tensor, document_end: int | None) -> list[Tensor]:
    """The main model's, then those of each MTP depth."""
    output = model(tokens_BT, mtp=True, document_end=document_end)
    return [output.logits, *output.mtp_logits]


def start(module: "LanguageModel", batch: Tensor) -> GuardResult:
    """The initial loss is near ln(V), and every parameter receives a gradient; unreached experts are counted apart."""
    model = module.transformer
    model.train()
    result = module.executor.step(batch)
    loss, uniform = float(result.losses["loss"]), math.log(model.config.vocab_size)
    dead = [name for name, p in model.named_parameters() if p.grad is None or not bool(p.grad.abs().sum() > 0)]
    unreached = int((result.load_LE == 0).sum())
    model.zero_grad(set_to_none=True)
    near = abs(loss - uniform) <= START_TOLERANCE
    detail = f"initial loss {loss:.3f}, ln(V) {uniform:.3f}; {unreached} experts unreached by the first batch"
    if dead:
        detail += f"; no gradient reaches {', '.join(dead[:3])}" + (f" and {len(dead) - 3} more" * (len(dead) > 3))
    facts: dict[str, Fact] = {"loss": loss, "uniform": uniform, "unreached": unreached, "dead": len(dead)}
    return GuardResult("start", near and not dead, detail, facts)


def fingerprint(parameters: Iterable[Tensor]) -> GuardResult:
    """Of the parameters after the first steps, for `distinct`."""
    digest = hashlib.sha256()
    for parameter in parameters:
        digest.update(parameter.cpu().numpy().tobytes())
    weights = digest.hexdigest()[:16]
    return GuardResult("distinct", True, f"after the first steps {weights}", {"weights": weights})


def same_gradients(keys: TrialKeys, seed: int, batch: Tensor) -> GuardResult:
    """A pipeline's schedule changes the order of sums alone: in FP64 one step's gradients are those of plain
    microbatching."""
    from models.executor import Microbatching
    from models.pipeline.inprocess import Pipelined

    exact = replace(keys.model.precision, kernels="emulated")
    config = replace(keys.model, dtype="float64", moe=replace(keys.model.moe, backend="loop"), precision=exact)
    found = []
    for executor in (Microbatching, Pipelined):
        model = Transformer(config).train()
        initialise(model, seed, config.std)
        executor(model, keys.microbatches, keys.document_end).step(batch)
        found.append([p.grad if p.grad is not None else torch.zeros_like(p) for p in model.parameters()])
    worst = max(float((a - b).abs().max() / a.abs().max().clamp_min(1e-300)) for a, b in zip(*found, strict=True))
    detail = f"{keys.model.pipeline.schedule} against microbatching in FP64: gradients differ by {worst:.1e} at most"
    facts: dict[str, Fact] = {"gradient_difference": worst, "limit": SCHEDULE_TOLERANCE}
    return GuardResult("schedule", worst <= SCHEDULE_TOLERANCE, detail, facts)


def distinct(arms: Mapping[str, tuple[PrecisionConfig, GuardResult]]) -> dict[str, GuardResult]:
    """Arms that differ in precision on paper, and not in a bit after the first steps, are one arm under two names: at
    small widths a tile is a row, and a block a tensor. Takes (precision, `fingerprint`) by arm."""
    found, seen = {}, dict[Fact, str]()
    for name, (precision, own) in arms.items():
        first = seen.setdefault(own.facts["weights"], name)
        found[name] = own
        if precision != arms[first][0]:
            found[name] = GuardResult("distinct", False, f"the same numbers as {first}", {**own.facts, "twin": first})
    return found


def determinism(first: Iterable[Tensor], second: Iterable[Tensor], steps: int) -> GuardResult:
    """The first steps run twice give the same bits; takes the parameters of both runs."""
    pairs = list(zip(first, second, strict=True))
    if not all(bool(a.isfinite().all()) for a, _ in pairs):  # NaN is not NaN: the bits may well be the same
        detail = f"the weights are not finite after {steps} steps; lower what is too large, as optim.lr may be"
        return GuardResult("determinism", False, detail, {"finite": False, "steps": steps})
    equal = all(torch.equal(a, b) for a, b in pairs)
    detail = f"{steps} steps run twice: {'the same bits' if equal else 'different bits'}"
    return GuardResult("determinism", equal, detail, {"finite": True, "equal": equal, "steps": steps})


def arm_guards(
    keys: TrialKeys, seed: int, data: PackedData, steps: int = 2, at: Callable[[str], None] = lambda name: None
) -> list[GuardResult]:
    """Causality, start and determinism of one arm, on real batches. `at` hears of each of GUARDS before its turn."""
    from ablations.trial.train import build_model

    batch = data.train_sequences(seed, *keys.batches[0])
    device = keys.train.device
    fp32 = Transformer(replace(keys.model, dtype="float32", precision=PrecisionConfig()))
    initialise(fp32, seed, keys.model.std)
    few = batch[: min(2, len(batch)), :-1]
    at("causality")
    results = [causality(fp32, few, keys.document_end)]
    if keys.model.precision.fp8 and results[0].passed:
        results = [causality_in_training(keys, seed, few)]
    if keys.model.pipeline.schedule != "none":
        at("schedule")
        results.append(same_gradients(keys, seed, batch))
    at("start")
    results.append(start(build_model(keys, seed).to(device), batch.to(device)))
    at("determinism")
    runs = []
    for _ in range(2):
        module = build_model(keys, seed).to(device)
        train_steps(module, [data.train_sequences(seed, *b).to(device) for b in keys.batches[:steps]], keys)
        runs.append([p.detach() for p in module.transformer.parameters()])
    results.append(determinism(runs[0], runs[1], steps))
    return results if keys.model.precision.recipe == "auto" else [*results, fingerprint(runs[0])]


def train_steps(
    module: "LanguageModel", batches: Iterable[Tensor], keys: TrialKeys, optimizer: Optimizer | None = None
) -> None:
    """A bare loop over the same executor, clipping, optimizer (a new one, if none is given) and balance update that the
    Trainer drives."""
    from models.module import update_routers
    from models.optim import adamw

    model = module.transformer
    optimizer = optimizer or adamw(model, keys.optim, keys.model.precision.moments)
    for step, batch in enumerate(batches):
        optimizer.zero_grad(set_to_none=True)
        result = module.executor.step(batch, module.progress(step))
        module.executor.clip(model.parameters(), keys.optim.clip_norm)
        optimizer.step()
        update_routers(model, result, module.progress(step))


def separation(data: PackedData) -> GuardResult:
    """The held-out splits share few long windows with the training part."""
    from tasks.separation import shared_ngrams

    shares = {split: shared_ngrams(data.tokens("train"), data.tokens(split)) for split in ("validation", "test")}
    detail = ", ".join(f"{share:.2%} of {split} windows of 32 tokens" for split, share in shares.items())
    passed = max(shares.values()) <= SEPARATION_LIMIT
    return GuardResult("separation", passed, f"training holds {detail}", {**shares, "limit": SEPARATION_LIMIT})
