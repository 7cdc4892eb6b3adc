"""The same again, and the same in pieces."""

from typing import Any

import torch
from torch import Tensor, nn

from ablations.audit.case import Case, fails, logits_of, passes, spread, untried
from ablations.audit.learning import total_of
from ablations.audit.tolerances import LOGITS, USUAL
from ablations.guards.probes import same_dice
from ablations.record.guardresult import Fact, GuardResult


def determinism(case: Case) -> GuardResult:
    """Evaluation throws no dice and keeps nothing of training; training with the same dice is the same to the bit."""
    subject, tokens, facts = case.subject, case.tokens_BT, dict[str, Fact]()
    module = subject.module.eval()
    made = list[Tensor]()
    with torch.no_grad():
        for seed in (0, 1):
            with same_dice(seed):
                made.append(subject.logits(tokens))
    facts["change by dice"] = off = float((made[0] - made[1]).abs().max()) / spread(made[0])
    if not torch.equal(*made):
        return fails(
            "determinism", f"evaluation twice differs by {off:.1e} of the logits' spread; {_dice(module)}", facts
        )
    steps = [_step(case), _step(case)]
    facts["training repeats"] = same = all(torch.equal(a, b) for a, b in zip(*steps, strict=True))
    module.eval()
    with torch.no_grad():
        traces = float((subject.logits(tokens) - made[0]).abs().max()) / spread(made[0])
    facts["change by training"] = traces
    if not traces <= LOGITS[made[0].dtype]:
        said = f"passes in training mode change evaluation by {traces:.1e} of the logits' spread"
        return fails("determinism", f"{said}; the model keeps something of them (running statistics, a cache)", facts)
    if not same:
        said = "a training step with the same dice twice gives other bits"
        return fails("determinism", f"{said}; dice of its own, or a product that is not deterministic", facts)
    said = "evaluation twice, and a training step's loss and gradients twice: the same bits"
    return passes("determinism", said, facts)


def _step(case: Case) -> list[Tensor]:
    module = case.subject.module.train()
    module.zero_grad(set_to_none=True)
    loss = total_of(case.subject, case.tokens_BT)()
    loss.backward()
    return [loss.detach(), *(p.grad.clone() for p in module.parameters() if p.grad is not None)]


def _dice(module: nn.Module) -> str:
    left = [n for n, m in module.named_modules() if isinstance(m, nn.modules.dropout._DropoutNd) and m.training]
    if left:
        return f"{left[0]} is still in training mode after eval()"
    return "something is drawn: a functional dropout without training=self.training, or noise"


def cache(case: Case) -> GuardResult:
    """Read token by token, and a prompt first, the logits are those of reading all at once."""
    subject, tokens = case.exact, case.tokens_BT
    if subject.cached is None:
        return untried("cache", "it offers no cache (a method `decode(tokens, state)`, or arguments `past_key_values` "
                       "and `use_cache`)")  # fmt: skip
    (whole,) = logits_of(subject, False)(tokens)
    half, length = tokens.shape[1] // 2, tokens.shape[1]
    pieces = {
        "token by token": [1] * length,
        "a prompt, then token by token": [half] + [1] * (length - half),
        "a prompt in two pieces": [half, length - half],
    }
    off = {how: _apart(subject.cached, tokens, widths, whole.detach()) for how, widths in pieces.items()}
    limit = LOGITS[whole.dtype]
    facts: dict[str, Fact] = {how: float(off_T.max()) for how, off_T in off.items()}
    told = (lambda o: o.median()) if whole.dtype in USUAL else (lambda o: o.max())
    wrong = [how for how, off_T in off.items() if not float(told(off_T)) <= limit]
    if not wrong and not (in_turns := _in_turns(case, subject.cached)) <= limit:
        facts["two texts in turns"] = in_turns
        said = f"with a cache the logits differ by {in_turns:.1e} of their spread, where two texts are read in turns"
        return fails(
            "cache", f"{said}; what was read is kept in the model, and not in the state that it returns", facts
        )
    if not wrong:
        most = max(float(off_T.max()) for off_T in off.values())
        return passes(
            "cache", f"with a cache the logits differ by {most:.1e} of their spread at most, limit {limit:.0e}", facts
        )
    how = wrong[0]
    first = int((off[how] > limit).nonzero()[0])
    why = f"from place {first} on: position or mask is off by one, or a state is not kept"
    if first == 0:
        why = "its first read is another function already, as where all tokens are not seen at once"
    if wrong == ["a prompt in two pieces"]:
        why = "several tokens behind a cache: their mask, or their positions, begin anew"
    said = f"with a cache the logits differ by {float(off[how].max()):.1e} of their spread, read {how}"
    return fails("cache", f"{said}; {why}", facts)


@torch.no_grad()
def _in_turns(case: Case, cached: Any) -> float:
    """How far the second piece of one text is off, when another text's first piece was read in between."""
    one, other = case.tokens_BT, case.more_tokens(1)
    half = one.shape[1] // 2
    (whole,) = logits_of(case.exact, False)(one)
    _, state = cached(one[:, :half], None)
    cached(other[:, :half], None)
    off_BT = (cached(one[:, half : half + 1], state)[0] - whole[:, half : half + 1]).abs().amax(dim=-1).double()
    return float(off_BT.median() if whole.dtype in USUAL else off_BT.max()) / spread(whole)


@torch.no_grad()
def _apart(cached: Any, tokens_BT: Tensor, widths: list[int], whole_BTV: Tensor) -> Tensor:
    """(T,): the largest difference at each place, over the spread."""
    state, place, parts = None, 0, list[Tensor]()
    for width in widths:
        logits, state = cached(tokens_BT[:, place : place + width], state)
        parts.append(logits)
        place += width
    return (torch.cat(parts, dim=1) - whole_BTV).abs().amax(dim=(0, 2)).double() / spread(whole_BTV)
