"""When a difference was taken: whether it may be one of how early each arm learns, and not of how well."""

import statistics

from ablations import numbers
from ablations.judge.loss_curve import Fall, steepest_fall
from ablations.judge.result import ArmResult, Result
from ablations.metrics import COUNTED, at_shares
from ablations.record.documents import shape_of
from ablations.show.table import Table, difference_cells


def lengths_table(result: Result) -> Table:
    """The effect against the length of the training: whether it fades, grows or turns round."""
    names = [*at_shares(result.plan.horizons), "loss"] if result.plan.horizons else []
    rows = []
    for arm in result.arms.values():
        cells = []
        for metric in names:
            d = result.usual(arm, metric)
            cells += [numbers.fixed(arm.mean(metric, result.common_seeds), 4), *difference_cells(d, 4)[:2]]
        rows.append([arm.name, *cells])
    columns = ["arm"]
    for share in (*sorted(result.plan.horizons), 1.0):
        columns += [f"loss at {numbers.count(share * result.arms[result.baseline].plan.tokens)} tokens", "difference"]
        columns += ["95 % interval"]
    note = "Each length has a decay of its own, off one constant trunk."
    return Table("Effect against length", columns, rows if names else [], note)


def falls_table(result: Result) -> Table:
    """Where each arm's loss fell most steeply: arms that end before and after such a fall differ by when, not by what
    they are."""
    found = _falls(result)
    rows = []
    for name, fall in found.items():
        where = f"{'up to ' if fall.begins else ''}{numbers.count(fall.tokens)}"
        steepness = [numbers.fixed(fall.steepest, 2), numbers.fixed(fall.last, 2)]
        rows.append([name, where, *steepness, "falling" if fall.lasts else _late(result.arms[name]) or "past it"])
    note = (
        "In nats per e-fold of the tokens, of the training loss over seeds, after the warmup. Most trainings fall most "
        "steeply at their beginning: a later jump that is less steep, or that seeds make at different times, is not "
        "seen here, but in how a difference changes with the length, where a sweep has horizons."
    )
    columns = ["arm", "steepest fall at tokens", "there", "at the end", "the end is"]
    return Table("Where the loss falls", columns, rows, note, words=(0, 4), folded=True)


def remarks(result: Result) -> str:
    """What a reader of the differences has to know of when they were taken; empty where there is nothing."""
    return " ".join(said for said in (_still_falling(result), _not_halfway(result), _one_length(result)) if said)


def _still_falling(result: Result) -> str:
    """Where the training ends within the steepest fall of some arms and past that of others, or of all."""
    found = _falls(result)
    still = [name for name, fall in found.items() if fall.lasts]
    if not still:
        return ""
    if len(still) == len(found):
        return "The end lies within the steepest fall of every arm: their differences may be a matter of when."
    return (
        f"The end lies within the steepest fall of {', '.join(still)}, and past that of the others: their differences "
        "may be a matter of when."
    )


def _not_halfway(result: Result) -> str:
    """Of a skill that is learned at once: the arms with seeds that had not come to it."""
    late = [f"{arm.name} ({said})" for arm in _asked(result) if (said := _late(arm))]
    if not late:
        return ""
    return f"At the end not all seeds had come halfway, where more tokens may bring them: {', '.join(late)}."


def _late(arm: ArmResult) -> str:
    """`3/8 halfway`, where that is not all of them."""
    came = list(arm.values.get(COUNTED, {}).values())
    return f"{sum(came):.0f}/{len(came)} halfway" if sum(came) < len(came) else ""


def _one_length(result: Result) -> str:
    """Of whole trainings of other shapes that end at one length, whose order may be another at the next."""
    if result.plan.horizons:
        return ""
    arms = result.plan.arms
    whole = [arm for arm in _asked(result) if not arm.plan.branched]
    other = [arm.name for arm in whole if shape_of(arm.plan) != shape_of(arms[arm.plan.onto or result.baseline])]
    if not other:
        return ""
    do = "differs in shape and stands" if len(other) == 1 else "differ in shape and stand"
    return f"{', '.join(other)} {do} at one length: after more tokens an order may be another."


def _asked(result: Result) -> list[ArmResult]:
    return [arm for arm in result.arms.values() if arm.kind == "arm"]


def _falls(result: Result) -> dict[str, Fall]:
    return {name: fall for name, arm in result.arms.items() if (fall := _fall(arm)) is not None}


def _fall(arm: ArmResult) -> Fall | None:
    """Of the mean curve over the seeds whose points are the same; None of chains, which fall from stage to stage."""
    records = [arm.records[seed] for seed in arm.of_status("complete")]
    histories = [record.text_history for record in records if not record.chained]
    histories = [history for history in histories if history.get("tokens") == histories[0].get("tokens")]
    if not histories or not histories[0].get("tokens"):
        return None
    losses = [statistics.fmean(at) for at in zip(*(history["loss"] for history in histories), strict=True)]
    return steepest_fall(histories[0]["tokens"], losses)
