"""`python -m ablations.compare A B`: two trials, two arms or two sweeps, side by side.

A and B are of one kind: a sweep's run (`moe_balance`, `moe_balance/cpu`, `results/moe_balance/cpu`), an arm of one
(`moe_balance/cpu/bias`), or a trial (its id, or the beginning of it, or its record's file); what lies under runs/ comes
before what is published. Shown is what is set otherwise, key by key, what came out otherwise (paired by seed, where
both learned from the same batches, with a 95 % interval of this one comparison; scores also item by item, over seeds
and items crossed), and where they ran otherwise.
"""

import os
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ablations import numbers
from ablations.home import ROOT, check_house
from ablations.judge.crossed import item_by_item
from ablations.judge.gather import load_published, load_result
from ablations.judge.result import ArmResult, Result
from ablations.judge.sidebyside import ABSENT, Changed, changed, claims, outcomes, same_batches, shared_arms
from ablations.metrics import metric as metric_of
from ablations.numbers import ABSENT as NOTHING
from ablations.record.audit import check_whole
from ablations.record.documents import PLAN
from ablations.record.record import RECORD, RECORDS, Record, read_record
from ablations.show.table import Table
from ablations.show.terminal import print_tables
from models.base.command import is_pair, keys_of, parse
from models.base.streams import obeyed, spoken
from models.base.typed import ConfigError, closest

ID = re.compile("[0-9a-f]{6,16}")
KINDS = {Record: "a trial", ArmResult: "an arm", Result: "a sweep"}


@dataclass(frozen=True)
class CompareConfig:
    """The command's keys."""

    runs_dir: Path = Path("runs")
    results_dir: Path = ROOT / "results"


@dataclass(frozen=True)
class Side:
    """What was named, and what it is."""

    name: str
    what: Record | ArmResult | Result
    run: str = ""
    """`sweep/run` of an arm."""

    @property
    def kind(self) -> str:
        return KINDS[type(self.what)]

    @property
    def head(self) -> str:
        """Which of the runs that a short name may mean."""
        if isinstance(self.what, Result):
            return f"{self.what.sweep}/{self.what.run}"
        return f"{self.run}/{self.what.name}" if isinstance(self.what, ArmResult) else self.name

    @property
    def records(self) -> list[Record]:
        if isinstance(self.what, Record):
            return [self.what]
        if isinstance(self.what, ArmResult):
            return [self.what.records[seed] for seed in sorted(self.what.records)]
        return self.what.all_records


def find(name: str, places: CompareConfig) -> Side:
    """Raises ConfigError where nothing, or more than one thing, has this name."""
    if ID.fullmatch(name) and "/" not in name:
        return Side(name, _trial(name, places))
    path = Path(os.path.expanduser(name))
    if path.suffix == ".json" and path.is_file():
        return Side(name, read_record(path))
    for place in (Path(), places.runs_dir, places.results_dir):
        for folder, arm in ((place / path, ""), ((place / path).parent, path.name)):
            if (folder / PLAN).is_file():
                result = _result(folder, places)
                return Side(name, _arm(result, arm, name) if arm else result, f"{result.sweep}/{result.run}")
        runs = sorted(found.parent for found in (place / path).glob(f"*/{PLAN}"))
        if len(runs) == 1:
            return Side(name, _result(runs[0], places))
        if runs:
            listed = ", ".join(f"{name}/{folder.name}" for folder in runs)
            raise ConfigError(f"{name}: fits several runs; name one of {listed}")
    known = sorted({p.parent.parent.name for where in _places(places) for p in where.glob(f"*/*/{PLAN}")})
    raise ConfigError(
        f"{name}: no sweep, arm or trial of this name under {places.runs_dir} or {places.results_dir}"
        f"{closest(name.split('/')[0], known)} (sweeps: {', '.join(known) or 'none'}; of a trial's id, "
        "give six digits or more)"
    )


def _places(places: CompareConfig) -> tuple[Path, Path]:
    return places.runs_dir, places.results_dir


def _result(folder: Path, places: CompareConfig) -> Result:
    if (folder / RECORDS).is_dir():
        check_whole(folder, "it is not compared")
        return load_published(folder)
    sweep, run = folder.parent.name, folder.name
    return load_result(folder.parent.parent, sweep, run, places.results_dir / sweep / run / RECORDS)


def _arm(result: Result, arm: str, name: str) -> ArmResult:
    if arm not in result.arms:
        raise ConfigError(f"{name}: no such arm{closest(arm, result.arms)} (arms: {', '.join(result.arms)})")
    if not result.arms[arm].records:
        raise ConfigError(f"{name}: no trial of this arm has ended yet")
    return result.arms[arm]


def _trial(id: str, places: CompareConfig) -> Record:
    found = {path.parent.name: path for path in places.runs_dir.glob(f"trials/{id}*/{RECORD}")}
    for path in sorted(places.results_dir.glob(f"*/*/{RECORDS}/{id}*.json")):
        found.setdefault(path.stem, path)
    if len(found) != 1:
        why = f"fits {len(found)} trials ({', '.join(sorted(found))}); give more of it" if found else "no such trial"
        raise ConfigError(f"{id}: {why} (under {places.runs_dir} or {places.results_dir})")
    return read_record(next(iter(found.values())))


def tables(one: Side, other: Side) -> list[Table]:
    """What differs. Raises ConfigError where a trial is compared with a sweep, and the like."""
    if one.kind != other.kind:
        raise ConfigError(f"{one.name} is {one.kind} and {other.name} is {other.kind}: name two of a kind")
    heads = [one.head, other.head]
    if heads[0] == heads[1]:
        heads = [one.name, other.name]
    if isinstance(one.what, Result) and isinstance(other.what, Result):
        found = [_plans(one.what, other.what, heads), *_sweeps(one.what, other.what, heads)]
    else:
        found = [
            _changes("Set otherwise", "key", changed(_config(one), _config(other)), heads),
            _outcomes(one.records, other.records, heads),
            *_items(one.records, other.records, heads),
        ]
    environments = changed(_environment(one), _environment(other))
    return [*found, _changes("Where they ran otherwise", "", environments, heads)]


def _config(side: Side) -> dict[str, Any]:
    return side.records[0].config


def _environment(side: Side) -> dict[str, Any]:
    """Where records differ in a part, all that they have of it."""
    found: dict[str, list[Any]] = {}
    for record in side.records:
        for name, value in record.environment.items():
            if record.status == "complete" and value not in found.setdefault(name, []):
                found[name].append(value)
    return {name: values[0] if len(values) == 1 else values for name, values in found.items()}


def _changes(title: str, head: str, found: Sequence[Changed], heads: Sequence[str]) -> Table:
    rows = [[change.name, _value(change.one), _value(change.other)] for change in found]
    return Table(title, [head, *heads], rows, "" if rows else "Nothing.", words=(0, 1, 2))


MOST = 40
"""Characters of a value; of a list as many elements as fit, whole."""


def _value(value: Any) -> str:
    if value is ABSENT:
        return NOTHING
    if isinstance(value, list) and value and not isinstance(value[0], dict):
        parts = [_value(part) for part in value]
        shown = [part for i, part in enumerate(parts) if len(", ".join(parts[: i + 1])) <= MOST] or parts[:1]
        more = len(parts) - len(shown)
        return ", ".join(shown) + (f" and {more} more" if more else "")
    if isinstance(value, list):
        return f"{len(value)} entries" if value else "[]"
    if isinstance(value, int | float):
        return f"{value:g}" if isinstance(value, float) else str(value)
    text = str(value)
    return text if len(text) <= MOST else f"{text[: MOST - 4]}..."


def _outcomes(one: Sequence[Record], other: Sequence[Record], heads: Sequence[str]) -> Table:
    rows, both = [], outcomes(one, other)
    for found in both:
        metric = metric_of(found.metric)
        cells = [numbers.fixed(found.one, metric.digits), numbers.fixed(found.other, metric.digits)]
        difference = numbers.signed(found.difference, metric.digits)
        rows.append([metric.label, *cells, difference, numbers.interval(found.low, found.high, metric.digits)])
    pairs = max((found.pairs for found in both), default=0)
    note = "Nothing that both have." if not rows else _how(pairs, same_batches(one, other))
    return Table("What came out", ["metric", *heads, "second - first", "95 %"], rows, note)


def _items(one: Sequence[Record], other: Sequence[Record], heads: Sequence[str]) -> list[Table]:
    """Nothing where no outcomes of items were kept, as of trials of an earlier version."""
    rows, found = [], item_by_item(one, other)
    for score in found:
        means = [numbers.fixed(value, 4) for value in (score.one, score.other)]
        interval = numbers.interval(score.low, score.high, 4)
        rows.append([score.score, *means, numbers.signed(score.difference, 4), interval, f"{score.p:.3f}"])
        rows[-1].append(str(score.items))
    if not rows:
        return []
    note = "Over seeds and items crossed: would other seeds, asked other items, differ as well?"
    if found[0].seeds == 1:
        note = "Of these two checkpoints, over items: McNemar's test, and of documents a t. Nothing is said of seeds."
    return [Table("Item by item", ["score", *heads, "second - first", "95 %", "p", "items"], rows, note)]


def _how(pairs: int, same: bool) -> str:
    if pairs > 1:
        return f"Paired by seed, {pairs} of them; each interval is of its own comparison alone."
    if pairs == 1:
        return "One seed on each side: no interval."
    return "Not paired: " + ("no seed is common." if same else "they learned from other batches.")


NOT_COMPARED = ("arms", "expected", "decision_rule", "command", "sweep_file", "contrasts")
"""Parts of a plan that tables of their own, or the sweeps' files, show better."""


def _plans(one: Result, other: Result, heads: Sequence[str]) -> Table:
    found = changed(asdict(one.plan), asdict(other.plan))
    rows = [replace(c, name=c.name.removeprefix("keys.")) for c in found if c.name.split(".")[0] not in NOT_COMPARED]
    left, right = ({*result.arms} - {*twin.arms} for result, twin in ((one, other), (other, one)))
    if left or right:
        rows.append(Changed("arms of one alone", *(", ".join(sorted(own)) or ABSENT for own in (left, right))))
    return _changes("Planned otherwise", "", rows, heads)


def _sweeps(one: Result, other: Result, heads: Sequence[str]) -> list[Table]:
    """Arms that both have, by the first one's primary metric, and the claims that both judge."""
    metric, rows = metric_of(one.primary), []
    for arm, twin in shared_arms(one, other):
        left, right = ([a.records[seed] for seed in sorted(a.records)] for a in (arm, twin))
        for found in outcomes(left, right, one.primary):
            means = [numbers.fixed(value, metric.digits) for value in (found.one, found.other)]
            interval = numbers.interval(found.low, found.high, metric.digits)
            paired = f"{found.pairs} seeds" if found.pairs else "no"
            rows.append([arm.name, *means, numbers.signed(found.difference, metric.digits), interval, paired])
    judged = [[claim.claim, claim.one, claim.other] for claim in claims(one, other)]
    return [
        Table(
            metric.label.capitalize(),
            ["arm", *heads, "second - first", "95 %", "paired"],
            rows,
            "" if rows else "No arm is in both.",
        ),
        Table("Verdicts", ["claim", *heads], judged, "" if judged else "No claim is in both.", words=(0, 1, 2)),
    ]


def main(arguments: list[str] | None = None) -> int:
    """0, or 2 with one line on stderr where the command cannot be obeyed."""
    words = sys.argv[1:] if arguments is None else arguments
    if not words or {"-h", "--help"} & set(words):
        print(f"{__doc__}\nKeys: {' '.join(keys_of(CompareConfig))}")
        return 0

    def work() -> int:
        check_house()
        names = [word for word in words if not is_pair(word)]
        if len(names) != 2 or not all(names):
            given = len(names) if all(names) else "an empty one"
            raise ConfigError(
                f"compare: expected two names, as in `moe_balance/cpu/bias moe_balance/cpu/none`, not {given}"
            )
        places = parse(CompareConfig, [word for word in words if is_pair(word)])
        one, other = (find(name, places) for name in names)
        print_tables(tables(one, other))
        return 0

    return obeyed(work)


if __name__ == "__main__":
    sys.exit(spoken(main))
