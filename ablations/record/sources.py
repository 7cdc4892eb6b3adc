"""Where records lie, and what each is in the sweeps that use it: a runs folder, results/, one result or one run."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ablations.record.documents import PLAN, STATE, SweepState, sha_of
from ablations.record.manifest import Manifest, hashes
from ablations.record.record import RECORD, RECORDS
from ablations.record.summary import SUMMARY, summary_in
from models.base.typed import ConfigError

SAYING = (PLAN, STATE, SUMMARY)
"""The files that say what a record is in its sweep."""


@dataclass(frozen=True)
class Use:
    """What a trial is in one run of a sweep."""

    sweep: str
    run: str
    """The scale, or `<scale>@<hash>` for another plan than the first."""
    arm: str
    phase: str
    """`confirm` or `search`."""
    share: float
    """Of the tokens, where the arm is finished at several lengths."""
    guards: str
    """`passed`, or the names of those that the arm has not passed."""

    @property
    def tabled(self) -> bool:
        """Whether the tables' means are over it."""
        return self.phase == "confirm" and self.share == 1

    def __str__(self) -> str:
        return f"{self.sweep}/{self.run}/{self.arm}/{self.phase}"


@dataclass(frozen=True)
class Source:
    """Records that lie side by side, and what is known of them."""

    records: list[Path]
    uses: Mapping[str, list[Use]]
    """By a trial's id."""


def sources(place: Path) -> Iterator[Source]:
    if (place / "trials").is_dir():
        yield Source(
            _files(place.glob(f"trials/*/{RECORD}")),
            _uses({path.parent: None for path in place.glob(f"*/*/{STATE}")}),
        )
    elif (place / PLAN).is_file():
        yield of_run(place)
    else:
        runs = sorted(path.parent for path in [*place.glob(f"*/{PLAN}"), *place.glob(f"*/*/{PLAN}")])
        if not runs:
            raise ConfigError(f"{place}: no records here; name a runs folder, results/, or one result in it")
        yield from map(of_run, runs)


def of_run(folder: Path, names: tuple[str, str] | None = None) -> Source:
    """Of one published result, or of one run, whose trials lie beside all others. `names`: of its sweep and itself."""
    uses = _uses({folder: names})
    if (folder / RECORDS).is_dir():
        if names is None:
            _check_whole(folder)
        return Source(_files((folder / RECORDS).glob("*.json")), uses)
    trials = folder.parent.parent / "trials"
    return Source([path for id in sorted(uses) if (path := trials / id / RECORD).is_file()], uses)


def _files(found: Iterable[Path]) -> list[Path]:
    """To read a pipe may never end."""
    return sorted((path for path in found if path.is_file()), key=str)


def _check_whole(folder: Path) -> None:
    """Raise ConfigError where what rows are made of is not what a published result's manifest names."""
    files = Manifest.read(folder).files
    named = {name: digest for name, digest in files.items() if name.startswith(f"{RECORDS}/") or name in SAYING}
    there = hashes(folder, RECORDS) | {name: sha_of(folder / name) for name in SAYING if (folder / name).is_file()}
    for name in sorted(named.keys() | there.keys()):
        if named.get(name) != there.get(name):
            what = "missing" if name not in there else "not in its manifest" if name not in named else "changed"
            raise ConfigError(
                f"{folder / name}: {what} since it was published; `python -m ablations.reproduce {folder} "
                "tables_only=true` says all that is"
            )


def _names(folder: Path) -> tuple[str, str]:
    """Of a run's sweep and of itself: what it says, and not what somebody has called a copy; else as it lies."""
    summary = summary_in(folder)
    return (summary.sweep, summary.run) if summary is not None else (folder.parent.name, folder.name)


def _uses(folders: Mapping[Path, tuple[str, str] | None]) -> dict[str, list[Use]]:
    """By a trial's id; `folders` are of runs, which say their sweep's name and their own unless they are given them."""
    found: dict[str, list[Use]] = {}
    for folder, names in sorted(folders.items()):
        state = SweepState.read(folder)
        sweep, run = names or _names(folder)
        guards = {
            arm: ", ".join(g.name for g in results if not g.holds) or "passed" for arm, results in state.guards.items()
        }
        named = [("confirm", trial.arm, trial.id, trial.share) for trial in state.confirm]
        named += [("search", trial.arm, trial.id, 1.0) for trial in state.search]
        for phase, arm, id, share in named:
            use = Use(sweep, run, arm, phase, share, guards.get(arm, ""))
            if use not in found.setdefault(id, []):
                found[id].append(use)
    return found
