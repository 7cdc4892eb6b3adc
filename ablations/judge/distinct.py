"""Whether every toggle did something, and nothing was chosen on the seeds that judge it: seen on finished trials.

Before the training two arms may rightly be alike, as pipelines' schedules are at first. At its end, arms with other
keys and the same numbers to the last bit are one arm under two names: a toggle that nothing reads, a loss that was
detached, a perturbation that was ignored.
"""

from collections.abc import Collection, Iterable, Mapping

from ablations.judge.result import ArmResult
from ablations.record.documents import PlanDocument
from ablations.record.guardresult import GuardResult
from ablations.record.record import Record


def distinct(arms: Mapping[str, ArmResult], plan: PlanDocument) -> dict[str, GuardResult]:
    """By arm, the baseline aside, of those that have finished a seed. Arms that a claim calls identical may be so."""
    group, found = _groups(plan), dict[str, GuardResult]()
    for name, arm in arms.items():
        if name == plan.baseline:
            continue
        others = [o for o in arms.values() if o is not arm and group.get(name, name) != group.get(o.name, o.name)]
        compared = [other for other in others if _common(arm, other)]
        if not compared:
            continue
        twins = [other.name for other in compared if same_numbers(arm, other)]
        detail = f"ends in the same bits as {' and '.join(twins)} in every seed"
        if not twins:
            detail = f"ends in other numbers than each of {len(compared)} arms"
        found[name] = GuardResult("distinct", not twins, detail, {"twin": ", ".join(twins), "compared": len(compared)})
    return found


def same_numbers(arm: ArmResult, other: ArmResult) -> bool:
    """Whether two arms with other keys end alike in every seed that both have ended, to the last bit in all metrics
    that both have. (Arms whose search has led them to the same keys share a trial, and are one by right.)"""
    pairs = [(arm.records[seed], other.records[seed]) for seed in sorted(arm.records.keys() & other.records.keys())]
    if any(a.status != b.status for a, b in pairs):
        return False
    done = [(a, b) for a, b in pairs if a.status == "complete"]
    return bool(done) and all(a.config != b.config and _alike(a, b) for a, b in done)


def _alike(a: Record, b: Record) -> bool:
    both = a.metrics.keys() & b.metrics.keys()
    loads = not a.load or not b.load or a.load == b.load
    return bool(both) and all(a.metrics[name] == b.metrics[name] for name in both) and loads


def _common(arm: ArmResult, other: ArmResult) -> list[int]:
    return sorted(set(arm.of_status("complete")) & set(other.of_status("complete")))


def _groups(plan: PlanDocument) -> dict[str, str]:
    """Arm -> a name for those that claims call identical to it, of any metric."""
    group: dict[str, str] = {}
    for claim in plan.expected:
        if claim.kind == "identical":
            ends = plan.members(claim)
            joined = {group.get(name, name) for name in ends}
            first = min(joined)
            group |= dict.fromkeys([*ends, *(name for name, own in group.items() if own in joined)], first)
    return group


def apart(used: Collection[int], seeds: Collection[int]) -> GuardResult | None:
    """Whether the search has `used` a seed of the confirmation; None where nothing was searched."""
    if not used:
        return None
    both = set(used) & set(seeds)
    detail = f"searched on seeds {_listed(used)}, confirmed on {_listed(seeds)}"
    if both:
        detail += f": {_listed(both)} in both, so that the luck of what was chosen is in its score; take other seeds"
    return GuardResult("seeds", not both, detail, {"shared": _listed(both), "searched": len(used)})


def _listed(seeds: Iterable[int]) -> str:
    return ", ".join(str(seed) for seed in sorted(seeds))
