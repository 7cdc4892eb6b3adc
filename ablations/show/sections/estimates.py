"""Estimates over more than two arms, and what differences are on other text than the test split."""

from ablations import numbers
from ablations.config.schema import ContrastConfig
from ablations.judge.families import NOTHING
from ablations.judge.result import Result
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
    if any(name.endswith("_at") and _points(one) == 2 for name, one in result.plan.contrasts.items()):
        note += " Through two doses a straight line always goes: nothing here tests that what lies between is on it."
    return Table("Estimates", columns, rows, note, words=(0, 1, 2, 7))


def _points(contrast: ContrastConfig) -> int:
    return sum(weight != 0 for weight in contrast.weights.values())


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
