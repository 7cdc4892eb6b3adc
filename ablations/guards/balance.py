"""Every assignment is counted once, and a bias moves once a step, by the whole batch's load and against it."""

import torch
from torch import Tensor

from ablations.guards.subject import Subject, same_dice
from ablations.record.guardresult import Fact, GuardResult
from ablations.trial.bare import train_steps
from models.moe import Router
from models.transformer import Transformer


def load(subject: Subject) -> GuardResult:
    """The executor's loads against those of the model's own choices, the buffers after its passes, and every router's
    bias after one step against its strategy's rule."""
    model, tokens = subject.exact().train(), subject.few
    routers = model.routers()
    if not routers:
        return GuardResult("load", True, "no experts", {})
    counted_LME, before = counted(subject, model, tokens), _buffers(model)
    with same_dice():
        result = subject.executor(model).step(tokens)
    wrong: list[str] = []
    if not torch.equal(result.load_LE, counted_LME.sum(dim=1)):
        said, true = int(result.load_LE.sum()), int(counted_LME.sum())
        wrong.append(f"{said} assignments are counted of {true}" if said != true else "assignments are miscounted")
    asked = _asked(subject, tokens)
    if counted_LME.sum(dim=(1, 2)).tolist() != asked:
        wrong.append(
            f"tokens choose {counted_LME.sum(dim=(1, 2)).tolist()} experts by layer, and {asked} are asked for"
        )
    moved = [name for name, buffer in _buffers(model).items() if not torch.equal(buffer, before[name])]
    if moved:
        wrong.append(f"{moved[0]} moves before the optimizer's step")
    still, biased = _after_a_step(subject, tokens)
    facts: dict[str, Fact] = {"assignments": int(counted_LME.sum()), "biases": biased, "wrong_biases": len(still)}
    if wrong or still:
        return GuardResult("load", False, "; ".join([*wrong, *still[:1]]), facts)
    moves = f", {biased} biases move by their rule" if biased else ""
    return GuardResult("load", True, f"{int(counted_LME.sum()):,} assignments counted{moves}", facts)


@torch.no_grad()
def counted(subject: Subject, model: Transformer, tokens_BT1: Tensor) -> Tensor:
    """Assignments (L, M, E) by layer and microbatch, counted from the experts that each token has chosen."""
    found = []
    for part in tokens_BT1.chunk(subject.keys.microbatches):
        with same_dice():
            output = model(part[:, :-1], mtp=True, document_end=subject.keys.document_end)
        experts = model.config.moe.n_routed_experts
        found.append(torch.stack([torch.bincount(r.experts_NK.flatten(), minlength=experts) for r in output.routings]))
    return torch.stack(found, dim=1)


def _asked(subject: Subject, tokens_BT1: Tensor) -> list[int]:
    """By layer: top-k experts for each token; the MTP module of depth k has k tokens fewer in each row."""
    keys, (rows, length) = subject.keys, (tokens_BT1.shape[0], tokens_BT1.shape[1] - 1)
    lengths = [length] * keys.model.moe_layers + [length - k for k in range(1, keys.model.mtp.depth + 1)]
    return [rows * length * keys.model.moe.top_k for length in lengths]


def _after_a_step(subject: Subject, tokens: Tensor) -> tuple[list[str], int]:
    """What is wrong with the biases after one step, and how many there are."""
    module = subject.module()
    model = module.transformer.train()
    biased = [router for router in model.routers() if router.balance.has_bias]
    if not biased:
        return [], 0
    tokens = tokens.to(subject.keys.train.device)
    counted_LME = counted(subject, model, tokens)
    before = {router.row: router.e_score_correction_bias.clone() for router in biased}
    train_steps(module, [tokens], subject.keys)
    wrong = []
    for router in biased:
        moved_E = (router.e_score_correction_bias - before[router.row]).double()
        reason = _against(router, moved_E, counted_LME[router.row])
        if reason:
            wrong.append(f"the bias of layer {router.row + 1} of {len(model.routers())} with experts {reason}")
    return wrong, len(biased)


def _against(router: Router, moved_E: Tensor, counted_ME: Tensor) -> str | None:
    """How a bias's first move breaks its strategy's rule; None where it keeps it."""
    load_E, last_E = counted_ME.sum(dim=0), counted_ME[-1]
    step_E = router.balance.step(load_E, last_E, 0.0)
    expected_E = torch.zeros_like(moved_E) if step_E is None else step_E.double()
    if not torch.allclose(moved_E, expected_E, rtol=1e-5, atol=1e-7 * float(expected_E.abs().max())):
        return f"moves by {_told(moved_E)}, where its rule for this load says {_told(expected_E)}"
    if router.config.balance.load_scope == "batch":
        other_E = router.balance.step(load_E, last_E.flip(0), 0.0)
        if step_E is not None and (other_E is None or not torch.equal(step_E, other_E)):
            return "follows the last microbatch's load, where load_scope says the batch's"
    if float((expected_E * (load_E - load_E.double().mean())).sum()) > 0:
        return "moves towards the crowded experts"
    return None


def _told(move_E: Tensor) -> str:
    return "[" + ", ".join(f"{value:.3g}" for value in move_E[:4].tolist()) + (", ...]" if len(move_E) > 4 else "]")


def _buffers(model: Transformer) -> dict[str, Tensor]:
    return {name: buffer.clone() for name, buffer in model.named_buffers()}
