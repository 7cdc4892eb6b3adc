"""Estimates over more than two arms, and what differences are on other text than the test split."""

from ablations import numbers
from ablations.judge.families import NOTHING
from ablations.judge.result import Result
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


def other_text_table(result: Result) -> Table:
    """The loss on text of other kinds: a difference that holds on one alone is no difference of the models."""
    rows = []
    for arm in result.arms.values():
        cells = []
        for metric in OTHER_TEXT:
            d, places = result.usual(arm, metric), metric_of(metric).digits
            cells += [numbers.fixed(arm.mean(metric, result.common_seeds), places), *difference_cells(d, places)[:2]]
        rows.append([arm.name, *cells])
    known = [m for m in OTHER_TEXT if any(arm.mean(m) is not None for arm in result.arms.values())]
    columns = ["arm"]
    for metric in OTHER_TEXT:
        columns += [metric_of(metric).label, "difference", "95 % interval"]
    note = "Files of the training packages: held out file by file, hence nearer to what is learned than the test split."
    return Table("The loss on other text", columns, rows if known else [], note)
