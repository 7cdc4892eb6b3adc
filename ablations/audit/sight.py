"""What a logit sees: no later token, no other row, no padding."""

import torch
from torch import Tensor

from ablations.audit.case import Case, fails, logits_of, passes, spread, untried
from ablations.audit.subject import Subject
from ablations.audit.tolerances import GRADIENT, LOGITS, USUAL
from ablations.guards.probes import (
    Gradients,
    Logits,
    change_by_rows,
    gradients,
    largest_change,
    others,
    usual_change,
)
from ablations.record.guardresult import Fact, GuardResult

MODES = {"in evaluation": False, "in training": True}
NO_GRADIENT = (
    "no gradient leads there, so it is a choice or a scale made over all of them: expert choice, a capacity of "
    "experts, one quantisation scale for the whole tensor"
)
BY_GRADIENT, OWN = ", by gradient", " in its own type"
"""Ways of looking besides by value in FP64."""
Found = dict[str, tuple[float, float]]
"""Where it was looked -> what changed, and the most that may."""


def causality(case: Case) -> GuardResult:
    """Later tokens change no logit: by value, and a logit's gradient in them is 0."""
    found, led = Found(), dict[str, Gradients]()
    for where, training in MODES.items():
        found[where] = _by_later(case.exact, case, training)
        if case.exact is not case.subject:
            found[where + OWN] = _by_later(case.subject, case, training)
        _by_gradient(case, where, training, led)
        if where in led:
            found[f"{where}{BY_GRADIENT}"] = (led[where].later / max(led[where].seen, 1e-300), GRADIENT)
    facts = _facts(found)
    if guilty := _guilty(found):
        return fails(
            "causality", f"later tokens reach logits: {_listed(found, guilty)}; {_why(case, guilty, led)}", facts
        )
    return passes("causality", f"later tokens change no logit ({_most(found, case)})", facts)


def rows(case: Case) -> GuardResult:
    """A row's logits are those of the row alone, and other rows' tokens change none of them."""
    if len(case.tokens_BT) < 2:
        return untried("rows", "rows=1: there is no other row; give rows=2 or more")
    found, led = Found(), dict[str, Gradients]()
    found["against each row alone"] = _alone(case)
    for where, training in MODES.items():
        logits = logits_of(case.exact, training)
        change = change_by_rows(logits, case.tokens_BT, case.vocab_size)
        found[where] = _relative(change, logits, case.tokens_BT)
        _by_gradient(case, where, training, led)
        if where in led:
            found[f"{where}{BY_GRADIENT}"] = (led[where].rows / max(led[where].seen, 1e-300), GRADIENT)
    facts = _facts(found)
    if guilty := _guilty(found):
        why = "a sum, a norm or a reshape goes over the batch"
        if led and all(seen.rows <= GRADIENT * seen.seen for seen in led.values()):
            why = NO_GRADIENT
        why = _batch_norm(case, guilty) or why
        return fails("rows", f"other rows reach logits: {_listed(found, guilty)}; {why}", facts)
    return passes("rows", f"each row is as it is alone ({_most(found, case)})", facts)


def padding(case: Case) -> GuardResult:
    """What is behind a text changes none of its logits, nor, where the model takes a mask, what is before it."""
    subject, tokens, found = case.exact, case.tokens_BT, Found()
    subject.module.eval()
    kept = tokens.shape[1] * 2 // 3
    text, filling = tokens[:, :kept], others(tokens[:, kept:], case.vocab_size)
    try:
        with torch.no_grad():
            alone = subject.logits(text)
    except Exception as error:  # of one length alone
        return untried("padding", f"it takes no rows of {kept} tokens ({type(error).__name__})")
    behind = torch.cat((text, filling), dim=1)
    before = torch.cat((filling, text), dim=1)
    seen = torch.ones_like(tokens, dtype=torch.bool)
    with torch.no_grad():
        found["behind a text"] = _apart(subject.logits(behind)[:, :kept], alone)
        if subject.masked is not None:
            seen[:, kept:] = False
            found["masked behind a text"] = _apart(subject.masked(behind, seen)[:, :kept], alone)
            found["masked before a text"] = _apart(subject.masked(before, seen.flip(1))[:, -kept:], alone)
    facts = _facts(found)
    if guilty := _guilty(found):
        why = "positions or mask take the padding for text"
        if "behind a text" in guilty:
            why = "later tokens, or how long a row is, change its logits"
        return fails("padding", f"padding reaches logits: {_listed(found, guilty)}; {why}", facts)
    told = "padding changes nothing" if subject.masked else "padding behind a text changes nothing; it takes no mask"
    return passes("padding", f"{told} ({_most(found, case)})", facts)


def _by_later(subject: Subject, case: Case, training: bool) -> tuple[float, float]:
    logits = logits_of(subject, training)
    with torch.no_grad():
        dtype = logits(case.tokens_BT)[0].dtype
    measure = usual_change if dtype in USUAL else largest_change
    return _relative(measure(logits, case.tokens_BT, case.vocab_size), logits, case.tokens_BT)


@torch.no_grad()
def _relative(change: float, logits: Logits, tokens_BT: Tensor) -> tuple[float, float]:
    made = logits(tokens_BT)[0]
    return change / spread(made), LOGITS[made.dtype]


def _apart(one: Tensor, other: Tensor) -> tuple[float, float]:
    """The largest difference, in coarse types the median over places of the largest."""
    off_BT = (one - other).abs().amax(dim=-1).float()
    worst = off_BT.median() if other.dtype in USUAL else off_BT.max()
    return float(worst) / spread(other), LOGITS[other.dtype]


def _alone(case: Case) -> tuple[float, float]:
    (whole,) = logits_of(case.exact, False)(case.tokens_BT)
    with torch.no_grad():
        each = [case.exact.logits(case.tokens_BT[row : row + 1]) for row in range(len(case.tokens_BT))]
    return _apart(torch.cat(each), whole.detach())


def _by_gradient(case: Case, where: str, training: bool, led: dict[str, Gradients]) -> None:
    """In the model's own type. Nothing where no gradient comes back at all, or no module embeds."""
    if case.embedding is not None:
        seen = gradients(case.embedding, logits_of(case.subject, training), case.tokens_BT)
        if seen.seen > 0:
            led[where] = seen


def _why(case: Case, guilty: list[str], led: dict[str, Gradients]) -> str:
    modes = [training for where, training in MODES.items() if any(name.startswith(where) for name in guilty)]
    only = "in training alone: " if modes == [True] else ""
    if norm := _batch_norm(case, guilty):
        return norm
    if led and all(seen.later <= GRADIENT * seen.seen for seen in led.values()):
        return only + NO_GRADIENT
    if all(BY_GRADIENT in where for where in guilty):
        return f"{only}too little to show in values, through a small gain"
    ahead = _reach(case, modes[0])
    if ahead is None:
        return f"{only}it sees to the end of the row: there is no causal mask"
    return f"{only}it sees {ahead} places ahead and no further: mask, or inputs, are off by one in as many layers"


@torch.no_grad()
def _reach(case: Case, training: bool) -> int | None:
    """How many places ahead of it a logit sees; None where that is most of the row."""
    logits, tokens, at = logits_of(case.exact, training), case.tokens_BT, case.tokens_BT.shape[1] // 4
    (old,) = logits(tokens)
    for ahead in range(1, tokens.shape[1] // 2):
        changed = tokens.clone()
        changed[:, at + 1 + ahead :] = others(changed[:, at + 1 + ahead :], case.vocab_size)
        if float((logits(changed)[0] - old)[:, : at + 1].abs().max()) <= LOGITS[old.dtype] * spread(old):
            return ahead
    return None


def _batch_norm(case: Case, guilty: list[str]) -> str | None:
    """The first one, if only training is at fault."""
    kind = torch.nn.modules.batchnorm._BatchNorm
    named = [name for name, module in case.subject.module.named_modules() if isinstance(module, kind)]
    if named and all(where.startswith("in training") for where in guilty):
        return f"in training {named[0]} takes statistics over the batch"
    return None


def _guilty(found: Found) -> list[str]:
    return [where for where, (off, limit) in found.items() if not off <= limit]


def _listed(found: Found, guilty: list[str]) -> str:
    """What was seen in the model's own type is told where it was not seen in FP64."""
    shown = [where for where in guilty if not (OWN in where and where.split(OWN)[0] in guilty)]
    values = [f"{found[where][0]:.1e} of their spread {where}" for where in shown if BY_GRADIENT not in where]
    led = [found[where][0] for where in shown if BY_GRADIENT in where]
    return ", ".join(values + ([f"a gradient of {max(led):.1e} of their own tokens'"] if led else []))


def _most(found: Found, case: Case) -> str:
    values = [(off, limit) for where, (off, limit) in found.items() if BY_GRADIENT not in where]
    off, limit = max(values, key=lambda pair: pair[0] / pair[1])
    told = f"{off:.1e} of their spread at most, limit {limit:.0e}"
    led = [off for where, (off, _) in found.items() if BY_GRADIENT in where]
    return told + (
        f"; gradients {max(led):.0e}" if led else "; gradients were not to be had" * (case.embedding is None)
    )


def _facts(found: Found) -> dict[str, Fact]:
    return {where: off for where, (off, _) in found.items()}
