"""The tables of how evenly the experts are loaded, and of the limit that the search set on it."""

from ablations import numbers
from ablations.judge.result import Result
from ablations.metrics import indices, metric
from ablations.show.table import Table, difference_cells


def balance_table(result: Result) -> Table:
    rows = []
    for arm in result.arms.values():
        value, most = arm.mean("max_vio_global"), arm.mean("max_vio_max")
        rows.append(
            [
                arm.name,
                numbers.fixed(value, 3),
                numbers.percent(_share(value, most), 1),
                numbers.fixed(arm.mean("max_vio_floor"), 3),
                *difference_cells(result.usual(arm, "max_vio_global"), 3),
                numbers.fixed(arm.mean("max_vio_batch"), 3),
                numbers.fixed(arm.mean("routing_entropy"), 3),
            ]
        )
    columns = ["arm", "MaxVio_global", "of maximum", "floor", "difference", "95 % interval", "Holm p"]
    columns += ["MaxVio_batch", "routing entropy"]
    most = next((most for arm in result.arms.values() if (most := arm.mean("max_vio_max")) is not None), None)
    note = (
        f"MaxVio = max load / mean load - 1, mean over layers; its maximum is E/k - 1 = {numbers.fixed(most, 2)}; "
        + ("floor: what perfectly uniform routing shows on as many tokens. Entropy in nats.")
    )
    return Table("Balance", columns, rows if most is not None else [], note)


def layer_table(result: Result) -> Table:
    """MaxVio of each MoE layer, on the whole test split and on training batches."""
    rows = []
    for arm in result.arms.values():
        most = arm.mean("max_vio_max")
        for kind in ("global", "batch"):
            numbered = indices(f"max_vio_{kind}_layer<i>", arm.values)
            layers = [arm.mean(f"max_vio_{kind}_layer{i}") for i in numbered]
            if not layers or most is None:
                continue
            floor = arm.mean("max_vio_floor" if kind == "global" else "max_vio_batch_floor")
            cells = [f"{numbers.fixed(v, 3)} ({numbers.percent(_share(v, most), 1)})" for v in layers]
            rows.append([arm.name, f"MaxVio_{kind}", *cells, numbers.fixed(floor, 3)])
    columns = ["arm", "metric", *(f"layer {i}" for i in range(1, len(rows[0]) - 2)), "floor"] if rows else []
    return Table("Balance by MoE layer", columns, rows, "Value, and its share of the maximum.", words=(0, 1))


def constraint_table(result: Result) -> Table:
    """The search's limit on balance, judged again on the confirmation; empty where it had none."""
    kept = {name: arm.held for name, arm in result.arms.items() if arm.held is not None}
    rows = [
        [
            name,
            numbers.percent(held.mean, 1),
            numbers.percent(max(held.shares.values()), 1),
            f"{held.within}/{len(held.shares)}",
            "missed" if held.missed else "kept",
        ]
        for name, held in kept.items()
        if held.shares
    ]
    if not rows:
        return Table("Balance asked for", [], [])
    constraint = next(iter(kept.values())).constraint
    label, limit = metric(constraint.metric).label, numbers.percent(constraint.limit)
    columns = ["arm", f"{label} of maximum", "worst seed", "seeds within the limit", f"limit of {limit}"]
    note = (
        f"The search compared strengths among points with {label} at or under {limit} of its maximum; the limit is "
        "judged again on the confirmation, by the mean over seeds. Arms without a strength of their own were not bound "
        "by it. A claim about an arm that misses it is not one at equal balance."
    )
    return Table("Balance asked for", columns, rows, note, words=(0, 4))


def _share(value: float | None, most: float | None) -> float | None:
    if value is None or most is None:
        return None
    return value / most if most > 0 else 0.0
