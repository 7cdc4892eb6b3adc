"""What would settle the claims that a run leaves open."""

import math
import shlex
import statistics

from ablations import numbers
from ablations.config.schema import ExpectedConfig
from ablations.judge.counts import seeds_telling
from ablations.judge.jumps import seeds_within
from ablations.judge.power import seeds_clear_of
from ablations.judge.result import Result
from ablations.judge.stats import Difference
from ablations.judge.verdicts import Verdict, region_of
from ablations.metrics import COUNTED
from ablations.metrics import metric as metric_of
from ablations.numbers import ABSENT
from ablations.record.documents import ArmDocument
from ablations.show.answer import clause
from ablations.show.table import Table

MOST_SEEDS = 64
"""More than so many are no advice: the question needs another design, or more tokens."""
LONGER = "longer trainings (train.tokens): between the last two lengths the sign turns round"
UNSEEN = "a control that does harm here (control), or scores above chance: more tokens (train.tokens), easier items"
TAKEN = ("train_s", "eval_s")
SWITCHED = (
    *("model.moe.balance.", "model.moe.scoring", "model.moe.normalise", "model.moe.routed_scaling_factor"),
    *("model.moe.n_group", "model.moe.topk_group", "model.mtp.", "model.precision.", "optim."),
    *("data.mask_documents", "data.fim_rate"),
)
"""What can be another way from the middle of a training on: nothing that gives parameters another shape, or text
another order."""


def remedies_table(result: Result) -> Table:
    """What would settle each claim that is not resolved: seeds for the paper's effect, or for the measured one where
    the paper names none, and the command."""
    rows = []
    for expected, verdict in zip(result.expected, result.verdicts, strict=True):
        d, told = verdict.difference, clause(expected, result)
        if verdict.outcome in ("no signal here", "depends on the length") and d is not None:
            longer = verdict.outcome != "no signal here"
            rows.append([told, *([ABSENT] * 4 + [LONGER] if longer else _to_be_seen(result, expected, d))])
            continue
        if verdict.outcome != "not resolved":
            continue
        if left_out := [name for name in result.plan.members(expected) if name not in result.arms]:
            how = f"{' and '.join(left_out)}: not run; {_typed(result, arms='all')}"
            rows.append([told, ABSENT, ABSENT, ABSENT, ABSENT, how])
            continue
        if d is None or not numbers.present(d.mean):
            continue
        if gone := [name for name in result.plan.members(expected) if result.arms[name].of_status("diverged")]:
            how = f"mend the training of {' and '.join(gone)}, which diverged; more seeds do not"
            rows.append([told, ABSENT, ABSENT, ABSENT, ABSENT, how])
            continue
        if expected.metric == COUNTED:
            rows.append([told, "as many, as measured", *_by_counting(result, expected, d)])
            continue
        if d.low is None:
            continue
        rooms, what = _rooms(expected, d, verdict)
        if verdict.mistuned or (verdict.slack and not all(rooms)):
            how = f"search more finely: more points or seeds under `search` in sweeps/{result.sweep}.yaml"
            rows.append([told, what, ABSENT, ABSENT, ABSENT, how])
            continue
        seeds = _seeds_clear(rooms, d)
        if seeds is None or seeds > MOST_SEEDS:
            how = _other_design(expected, result)
            rows.append([told, what, numbers.count(seeds), ABSENT, ABSENT, how])
        else:
            rows.append([told, what, *_more(result, seeds, d.n)])
    columns = ["claim", "to see", "seeds", "as long as this", "minutes", "how"]
    note = (
        "Seeds with which an interval of this family ends before the region's edges with 80 % power, at the spread "
        "seen; what a learning rate may cost is taken off first. Minutes: of one worker, for all of those seeds, as "
        "long as this run's trials took; a search and what branches go on from are not in them. Where counts of seeds "
        "make an interval wider: seeds that would do if as large a share of them came halfway again."
    )
    if any(row[1].endswith("the control's") for row in rows):
        note += " Where a known harm is not seen yet: seeds with which it would be."
    return Table("What would settle the rest", columns, rows, note, words=(0, 1, 5))


def _to_be_seen(result: Result, expected: ExpectedConfig, d: Difference) -> list[str]:
    """So many seeds that the control's harm would be; nothing where it does none, or scores are those of a guess."""
    control = result.diagnostic("control", result.is_branched(d))
    harm = result.difference(control.name, expected.metric) if control else None
    if harm is None or harm.low is None or metric_of(expected.metric).better not in ("lower", "higher"):
        return [ABSENT] * 4 + [UNSEEN]
    worse = harm.mean if metric_of(expected.metric).better == "lower" else -harm.mean
    seeds = seeds_clear_of([worse], harm.sd, harm.comparisons, harm.alpha) if worse > 0 else None
    if seeds is None or not d.n < seeds <= MOST_SEEDS:
        return [ABSENT] * 4 + [UNSEEN]
    what = f"{numbers.signed(harm.mean, metric_of(expected.metric).digits)}, the control's"
    return [what, *_more(result, seeds, d.n)]


def _more(result: Result, seeds: int, now: int) -> list[str]:
    longer = f"{max(1.0, seeds / max(1, len(result.seeds))):.1f}x"
    asked = max(seeds, now + 1)
    return [str(seeds), longer, numbers.count(_minutes(result, asked)), _with_seeds(result, asked)]


def _minutes(result: Result, seeds: int) -> int | None:
    """Of one worker, for all arms; None where a trial's time is not on record."""
    each = list[float]()
    for arm in result.arms.values():
        records = [record for record in arm.records.values() if {*TAKEN} <= {*record.timings}]
        if not records:
            return None
        each.append(statistics.fmean(math.fsum(record.timings[name] for name in TAKEN) for record in records))
    return math.ceil(seeds * math.fsum(each) / 60)


def _by_counting(result: Result, expected: ExpectedConfig, d: Difference) -> list[str]:
    shares = [result.arms[name].mean(COUNTED) or 0.0 for name in result.plan.members(expected)]
    seeds = seeds_telling(shares[0], shares[1], d.alpha / d.comparisons / 2)
    if seeds is None or seeds > MOST_SEEDS:
        return [
            numbers.count(seeds),
            ABSENT,
            ABSENT,
            "more seeds than pay; ask where fewer seeds, or more, come halfway",
        ]
    return _more(result, seeds, d.n)


def _seeds_clear(rooms: tuple[float, float], d: Difference) -> int | None:
    """By the t; and by counts of seeds, where those leave more open, at the shares that came halfway."""
    distances = [room for room in rooms if not math.isinf(room)]
    seeds = seeds_clear_of(distances, d.sd, d.comparisons, d.alpha)
    if not d.shares or seeds is None:
        return seeds
    by_counts = seeds_within(rooms, d.shares, d.alpha / d.comparisons, MOST_SEEDS)
    return None if by_counts is None else max(seeds, by_counts)


def _with_seeds(result: Result, seeds: int) -> str:
    """What was typed, with so many seeds."""
    if result.plan.looks and not result.state.settled:
        return _typed(result)
    return _typed(result, seeds=seeds)


def _typed(result: Result, **words: object) -> str:
    """What was typed, with these words in the place of its own."""
    typed = result.plan.command or f"python -m ablations.run sweep={result.sweep} scale={result.scale}"
    kept = [word for word in shlex.split(typed) if word.partition("=")[0] not in words]
    return shlex.join([*kept, *(f"{key}={value}" for key, value in words.items())])


def _rooms(expected: ExpectedConfig, d: Difference, verdict: Verdict) -> tuple[tuple[float, float], str]:
    """How far below and above the difference lies what its interval must end before, when what learning rates may cost
    is taken off, 0 where nothing is left: both edges of the region where it lies within, else the nearer one. Infinite
    where it may end anywhere."""
    digits = metric_of(expected.metric).digits
    value, whose = expected.paper_value, "the paper's"
    if value is None or verdict.without_paper:
        value, whose = d.mean, "as measured"
    low, high = region_of(expected)
    below, above = value - low, high - value
    if value <= low:
        below, above = math.inf, low - value
    elif value >= high:
        below, above = value - high, math.inf
    rooms = max(0.0, below - verdict.slack), max(0.0, above - verdict.slack)
    return rooms, f"{numbers.signed(value, digits)}, {whose}"


def _other_design(expected: ExpectedConfig, result: Result) -> str:
    members = [name for name in result.plan.members(expected) if name in result.arms]
    base = result.arms[result.baseline].plan
    staged = any(len(record.stages) > 1 for name in members for record in result.arms[name].records.values())
    fits = all(_fits_a_trunk(result.arms[name].plan, base) for name in members)
    branches = any(result.arms[name].plan.branched for name in members if name != result.baseline)
    if fits and not staged and not branches:
        return "more seeds than pay; branch the arms off a trunk (design: branch), or take a dose"
    return "more seeds than pay; train longer (train.tokens), or ask where the effect is larger"


def _fits_a_trunk(arm: ArmDocument, base: ArmDocument) -> bool:
    """Whether nothing that it sets otherwise than the baseline gives parameters another shape, or other text."""
    keys = {*arm.set, *arm.solved} | {*base.set}
    changed = [key for key in keys if {**arm.set, **arm.solved}.get(key) != {**base.set, **base.solved}.get(key)]
    return arm.total_params == base.total_params and all(key.startswith(SWITCHED) for key in changed)
