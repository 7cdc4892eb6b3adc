"""Every assignment is counted once, and a bias moves once a step, by the whole batch's load and against it."""

import torch
from torch import Tensor

from ablations.guards.probes import same_dice
from ablations.guards.subject import Subject
from ablations.record.guardresult import Fact, GuardResult
from ablations.trial.bare import train_steps
from models.balance import Routing
from models.moe import Router
from models.transformer import Transformer


def load(subject: Subject) -> GuardResult:
    """The executor's loads against those of the model's own choices, the buffers after its passes, every router's bias
    after each of two steps against its strategy's rule, what a bias does, and what an auxiliary loss favours."""
    model, tokens = subject.exact().train(), subject.short
    before = _buffers(model)
    counted_LME = counted(subject, model, tokens)
    with same_dice():
        result = subject.executor(model).step(tokens)
    wrong: list[str] = []
    if not torch.equal(result.load_LE, counted_LME.sum(dim=1)):
        said, true = int(result.load_LE.sum()), int(counted_LME.sum())
        wrong.append(f"{said} assignments are counted of {true}" if said != true else "assignments are miscounted")
    asked = _asked(subject, tokens)
    if (chosen := counted_LME.sum(dim=(1, 2)).tolist()) != asked:
        wrong.append(f"tokens choose {chosen} experts by layer, and {asked} are asked for")
    moved = [name for name, buffer in _buffers(model).items() if not torch.equal(buffer, before[name])]
    if moved:
        wrong.append(f"{moved[0]} moves before the optimizer's step")
    still, biased = _after_steps(subject, tokens)
    wrong += still[:1] + _what_a_bias_does(model, tokens[:, :-1]) + _what_a_loss_favours(model)
    facts: dict[str, Fact] = {"assignments": int(counted_LME.sum()), "biases": biased, "wrong_biases": len(still)}
    if wrong:
        return GuardResult("load", False, "; ".join(wrong), facts)
    moves = f", {biased} biases move by their rule" if biased else ""
    detail = f"{int(counted_LME.sum()):,} assignments counted{moves}" if len(counted_LME) else "no experts"
    return GuardResult("load", True, detail, facts)


@torch.no_grad()
def counted(subject: Subject, model: Transformer, tokens_BT1: Tensor) -> Tensor:
    """Assignments (L, M, E) by layer and microbatch, counted from the experts that each token has chosen."""
    found, experts = [], model.config.moe.n_routed_experts
    if not model.routers():
        return torch.zeros(0, subject.keys.microbatches, experts, dtype=torch.int64)
    for part in tokens_BT1.chunk(subject.keys.microbatches):
        with same_dice():
            output = model(part[:, :-1], mtp=True, document_end=subject.keys.document_end)
        found.append(torch.stack([torch.bincount(r.experts_NK.flatten(), minlength=experts) for r in output.routings]))
    return torch.stack(found, dim=1)


def _asked(subject: Subject, tokens_BT1: Tensor) -> list[int]:
    """By layer: top-k experts for each token; the MTP module of depth k has k tokens fewer in each row, and experts
    wherever the model is not all dense by its kind."""
    keys, (rows, length) = subject.keys, (tokens_BT1.shape[0], tokens_BT1.shape[1] - 1)
    further = range(1, keys.model.mtp.blocks + 1) if keys.model.feed_forward == "moe" else ()
    lengths = [length] * keys.model.moe_layers + [length - k for k in further]
    return [rows * length * keys.model.moe.top_k for length in lengths]


def _after_steps(subject: Subject, tokens: Tensor) -> tuple[list[str], int]:
    """What is wrong with the biases after the first and the second step, and how many there are."""
    module = subject.module()
    model = module.transformer.train()
    biased = [router for router in model.routers() if router.balance.has_bias]
    tokens, wrong = tokens.to(subject.keys.train.device), list[str]()
    for step in range(2 if biased else 0):
        counted_LME = counted(subject, model, tokens)
        before = {router.row: router.e_score_correction_bias.clone() for router in biased}
        train_steps(module, [tokens], subject.keys, first=step)
        for router in biased:
            moved_E = (router.e_score_correction_bias - before[router.row]).double()
            reason = _against(router, moved_E, counted_LME[router.row], module.progress(step))
            if reason:
                wrong.append(f"in step {step + 1} the bias of layer {router.row + 1} with experts {reason}")
    return wrong, len(biased)


def _against(router: Router, moved_E: Tensor, counted_ME: Tensor, progress: float) -> str | None:
    """How a bias's move in the step that began at `progress` breaks its strategy's rule; None where it keeps it."""
    load_E, last_E = counted_ME.sum(dim=0), counted_ME[-1]
    step_E = router.balance.step(load_E, last_E, progress)
    expected_E = torch.zeros_like(moved_E) if step_E is None else step_E.double()
    if not torch.allclose(moved_E, expected_E, rtol=1e-5, atol=1e-7 * float(expected_E.abs().max())):
        return f"moves by {_told(moved_E)}, where its rule for this load says {_told(expected_E)}"
    if router.config.balance.load_scope == "batch":
        other_E = router.balance.step(load_E, last_E.flip(0), progress)
        if step_E is not None and (other_E is None or not torch.equal(step_E, other_E)):
            return "follows the last microbatch's load, where load_scope says the batch's"
    if float((expected_E * (load_E - load_E.double().mean())).sum()) > 0:
        return "moves towards the crowded experts"
    config, uneven = router.config.balance, bool((load_E != load_E[0]).any())
    amid, last = (_moves(router.balance.step(load_E, last_E, place)) for place in (0.4, 1.0))
    if last and config.frozen_fraction > 0:
        return "still moves in the part of the training where frozen_fraction holds it"
    if not amid and config.frozen_fraction < 0.6 and config.update_speed > 0 and uneven:
        return "does not move amid the training, where nothing holds it"
    return None


def _moves(step_E: Tensor | None) -> bool:
    return step_E is not None and bool(step_E.any())


@torch.no_grad()
def _what_a_bias_does(model: Transformer, tokens_BT: Tensor) -> list[str]:
    """Experts whose bias is far above the others' are chosen by every token, at gates that do not know of it."""
    biased = [router for router in model.routers() if router.balance.has_bias]
    if not biased:
        return []
    logits, loads = [], []
    for slope in (0.0, 1.0):
        for router in biased:
            router.e_score_correction_bias.copy_(forced(router, slope))
        output = model(tokens_BT)
        logits.append(output.logits)
        loads += [routing.load_E[: model.config.moe.top_k] for routing in output.routings]
    for router in biased:
        router.e_score_correction_bias.zero_()
    if any(bool((load_K != tokens_BT.numel()).any()) for load_K in loads):
        return ["a bias does not draw tokens to its expert"]
    change = float((logits[0] - logits[1]).abs().max())
    return [] if change <= 1e-9 else [f"biases that lead to the same experts change logits by {change:.1e}"]


def forced(router: Router, slope: float) -> Tensor:
    """A bias that makes every token choose the first top-k experts, whichever order it puts them in."""
    bias_E = torch.zeros_like(router.e_score_correction_bias)
    chosen = torch.arange(router.config.top_k, dtype=bias_E.dtype)
    bias_E[: router.config.top_k] = 1e4 * (1 + slope * chosen / router.config.top_k)
    return bias_E


def _what_a_loss_favours(model: Transformer) -> list[str]:
    """An auxiliary loss is lower for even loads, and a mean over sequences: the same ones twice have the same loss."""
    config, wrong = model.config.moe, list[str]()
    if config.balance.alpha == 0 or config.top_k == config.n_routed_experts:  # no loads are crowded, or none matter
        return wrong
    for router in [router for router in model.routers() if router.config.balance.has_loss][:1]:
        even, crowded = (_auxiliary(router, crowd, 1) for crowd in (0.0, 4.0))
        if not even < crowded:
            wrong.append(f"the auxiliary loss is {even:.4g} for even loads and {crowded:.4g} for crowded ones")
        twice = _auxiliary(router, 4.0, 2)
        if not abs(twice - crowded) <= 1e-9 * abs(crowded):
            wrong.append(f"the auxiliary loss of the same sequences twice is {twice / crowded:.4g} times theirs")
    return wrong


def _auxiliary(router: Router, crowd: float, times: int) -> float:
    """Of logits that are drawn, the first experts' raised by `crowd`; `times` the same sequences."""
    config, generator = router.config, torch.Generator().manual_seed(0)
    logits = torch.randn(2, 64, config.n_routed_experts, generator=generator, dtype=torch.float64)
    logits[..., : config.top_k] += crowd
    scores = (logits.sigmoid() if config.scoring == "sigmoid" else logits.softmax(dim=-1)).repeat(times, 1, 1)
    experts = scores.flatten(0, 1).topk(config.top_k, dim=-1).indices
    load_E = torch.bincount(experts.flatten(), minlength=config.n_routed_experts)
    routing = Routing(scores, experts, scores.flatten(0, 1).gather(1, experts), load_E)
    term = router.balance.loss(routing, load_E * len(load_E) / load_E.sum())
    return 0.0 if term is None else float(term)


def _told(move_E: Tensor) -> str:
    return "[" + ", ".join(f"{value:.3g}" for value in move_E[:4].tolist()) + (", ...]" if len(move_E) > 4 else "]")


def _buffers(model: Transformer) -> dict[str, Tensor]:
    return {name: buffer.clone() for name, buffer in model.named_buffers()}
