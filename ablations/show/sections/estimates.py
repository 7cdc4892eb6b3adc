"""Estimates over more than two arms, and what differences are on other text than the test split."""

import statistics

from ablations import numbers
from ablations.judge.families import NOTHING
from ablations.judge.loss_curve import Fall, steepest_fall
from ablations.judge.result import ArmResult, Result
from ablations.metrics import at_shares
from ablations.metrics import metric as metric_of
from ablations.show.table import Table, difference_cells

OTHER_TEXT = ("loss_by_file", "train_loss")


def estimates_table(result: Result) -> Table:
    """Contrasts: slopes over doses, main effects of factors, whatever a sweep weighs itself."""
    metrics = dict.fromkeys([result.primary, *(claim.metric for claim in result.expected)])
    rows = []
    for name, contrast in result.plan.contrasts.items():
        for metric in metrics:
            d, places = result.difference(name, metric, against=NOTHING), metric_of(metric).digits
            if d is not None:
                resolvable = numbers.fixed(d.resolvable, places)
                rows.append(
                    [name, contrast.about, metric_of(metric).label, *difference_cells(d, places), resolvable, d.kind]
                )
    columns = ["estimate", "of", "metric", "value", "95 % interval", "Holm p", "resolvable", "family"]
    note = "Each is a weighted sum of the arms' values at a seed, and its interval is over seeds."
    if any(name.endswith("_at") for name in result.plan.contrasts):
        note += (
            " What follows at a dose that no arm has is read off a straight line through those that arms have: its "
            "interval is the line's, and says nothing of whether the line goes on."
        )
    return Table("Estimates", columns, rows, note, words=(0, 1, 2, 7))


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
        rows.append([name, where, *steepness, "falling" if fall.lasts else "past it"])
    note = (
        "In nats per e-fold of the tokens, of the training loss over seeds, after the warmup. Most trainings fall most "
        "steeply at their beginning: a later jump that is less steep, or that seeds make at different times, is not "
        "seen here, but in how a difference changes with the length, where a sweep has horizons."
    )
    columns = ["arm", "steepest fall at tokens", "there", "at the end", "the end is"]
    return Table("Where the loss falls", columns, rows, note, words=(0, 4), folded=True)


def still_falling(result: Result) -> str:
    """A warning where the training ends within the steepest fall of some arms and past that of others, or of all."""
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


def other_text_table(result: Result) -> Table:
    """The loss on text of other kinds: a difference that holds on one alone is no difference of the models."""
    known = [m for m in OTHER_TEXT if any(numbers.present(arm.mean(m)) for arm in result.arms.values())]
    rows, columns = [], ["arm"]
    for metric in known:
        columns += [metric_of(metric).label, "difference", "95 % interval"]
    for arm in result.arms.values():
        cells = []
        for metric in known:
            d, places = result.usual(arm, metric), metric_of(metric).digits
            cells += [numbers.fixed(arm.mean(metric, result.common_seeds), places), *difference_cells(d, places)[:2]]
        rows.append([arm.name, *cells])
    held_out = (
        "Files of the training packages: held out file by file, hence nearer to what is learned than the test split."
    )
    note = held_out if "loss_by_file" in known else ""
    return Table("The loss on other text", columns, rows if known else [], note)
