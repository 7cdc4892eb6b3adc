"""`python -m ablations.reproduce RESULT [KEY=VALUE ...]`: run a published result again, and compare it cell by cell.

RESULT is the folder of one result, as in results/moe_balance/cpu, or a zip file of one; it may be anybody's. First it
is looked through: files, hashes, plan and records. Then its trials run again from the sweep's file and the command in
its plan, by the commit in its manifest (in a worktree, where that is not this checkout's code; by this code, where that
commit cannot: both are said). Where a trial is the same trial (code, data, versions, instruction set), every number
must be equal; elsewhere it must lie where a second estimate would, for all cells together in 95 % of reruns.

  arm=NAME          only this arm, and what it is compared with
  seed=N            only this seed
  quick=true        one seed of two arms; where arms are finished at several lengths, the shortest
  tables_only=true  nothing is trained: tables, page and figures from the published records, byte for byte
  code=here         by this checkout's code, whatever the manifest says
  anyway=true       although the folder is not as it was published
  trust=true        also where its plan names files of tasks or of text, which can run their author's code, or its
                    manifest a commit that is not in this checkout's history
  workers=N  runs_dir=runs/reproduced  progress=auto

Exit code 0 where everything matches, 1 where something does not, 2 for what cannot be obeyed: a folder that is not as
it was published, too.
"""

import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
import tempfile
import typing
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from ablations import numbers
from ablations.archives import opened
from ablations.commits import code_of, is_before, is_here, worktree
from ablations.home import ROOT, check_house
from ablations.judge.gather import load_published, load_with
from ablations.judge.repeated import RIGHT, Again, Cell, Mark, cells, csv_cells
from ablations.judge.result import Result
from ablations.metrics import metric as metric_of
from ablations.record.audit import audit
from ablations.record.documents import ConfirmTrial, PlanDocument, SweepState
from ablations.record.manifest import MANIFEST, Manifest
from ablations.record.record import RECORDS, Record, read_record
from ablations.record.summary import summary_in
from ablations.report import FRAME, PAGES, write_frame, write_pages
from ablations.show.provenance import manifest
from ablations.show.render import table_csv
from ablations.show.table import Table
from models.base.command import is_pair, parse
from models.base.streams import obeyed, spoken
from models.base.typed import AtLeast, ConfigError, closest

if typing.TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class ReproduceConfig:
    """The command's keys."""

    arm: str | None = None
    seed: int | None = None
    quick: bool = False
    tables_only: bool = False
    code: Literal["published", "here"] = "published"
    anyway: bool = False
    trust: bool = False
    workers: Annotated[int, AtLeast(1)] | None = None
    runs_dir: Path = Path("runs/reproduced")
    progress: Literal["auto", "rich", "plain", "none"] = "auto"


OF_THE_RECORDS = ("partial", "trials", "search_trials", "sweep_file", "chosen", "verdicts", "environments")
"""What a manifest says that follows from plan, state and records."""


def reproduce(folder: Path, config: ReproduceConfig, words: Sequence[str], place: Path | None = None) -> int:
    """The exit code. `words`: the command's, for the same command in a worktree. `place`: what the folder is of, where
    it is an archive's."""
    shown = folder if place is None else place
    of_some = {"arm": config.arm is not None, "seed": config.seed is not None, "quick": config.quick}
    if config.tables_only and any(of_some.values()):
        given = next(name for name, asked in of_some.items() if asked)
        raise ConfigError(f"tables_only=true: rebuilds whole tables, of every arm and seed; leave {given} out")
    findings = audit(folder)
    for finding in findings:
        print(str(finding).replace(str(folder), str(shown)))
    if findings and not config.anyway:
        raise ConfigError(
            f"{shown}: not as it was published ({len(findings)} of the findings above), so nothing is run; "
            "anyway=true goes on all the same"
        )
    if not findings:
        print(f"{shown}: whole, every file as the manifest has it")
    if config.tables_only:
        return 0 if _tables(folder) and not findings else 1
    said, document, state = Manifest.read(folder), PlanDocument.read(folder), SweepState.read(folder)
    wanted = chosen(document, state, config)
    if said.partial:
        wanted = [trial for trial in wanted if _place(folder, trial.id).is_file()]
    if not wanted:
        raise ConfigError(f"{folder}: has no record of these trials, so there is nothing to compare with")
    if not document.sweep_file:
        document = _with_origin(said, document, folder)
    elif config.code == "published" and not _is_here(document):
        if (code := _in_worktree(said, document, folder, words, config.trust)) is not None:
            return code
        print("runs by this checkout's code instead", flush=True)
    return 0 if _run(folder, document, state, wanted, config) and not findings else 1


@contextlib.contextmanager
def naming(folder: Path, place: Path) -> Iterator[None]:
    """An error names the archive that somebody has, and not the folder that it was unpacked to."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(str(error).replace(str(folder), str(place))) from None


def chosen(document: PlanDocument, state: SweepState, config: ReproduceConfig) -> list[ConfirmTrial]:
    """The trials that are asked for, those of the arm that they are compared with among them. Raises ConfigError for an
    arm or a seed that is not there."""
    arms, seeds = list(document.arms), sorted({trial.seed for trial in state.confirm})
    if config.arm is not None and config.arm not in arms:
        raise ConfigError(f"arm={config.arm}: no such arm{closest(config.arm, arms)} (arms: {', '.join(arms)})")
    if config.seed is not None and config.seed not in seeds:
        raise ConfigError(f"seed={config.seed}: not among this result's seeds ({', '.join(map(str, seeds))})")
    own = {document.arms[config.arm].onto or document.baseline, config.arm} if config.arm else set(arms)
    if config.quick:
        claimed = [name for claim in document.expected for name in document.members(claim) if name in arms]
        arm = next(name for name in (config.arm, *claimed, *arms) if name not in (None, document.baseline))
        own = {document.arms[arm].onto or document.baseline, arm}
        seeds = seeds[:1]
    if config.seed is not None:
        seeds = [config.seed]
    found = [trial for trial in state.confirm if trial.arm in own and trial.seed in seeds]
    shortest = min((trial.share for trial in found), default=1.0)
    return [trial for trial in found if trial.share == shortest] if config.quick else found


def _is_here(document: PlanDocument) -> bool:
    from ablations.trial.identity import code_hash

    return document.code == code_hash()


def _tables(folder: Path) -> bool:
    """Tables, page and figures, made anew from the records, against those that are published."""
    result, right, summary = load_published(folder), True, summary_in(folder)
    if summary is not None:  # a copy may have another name than the result had
        result = dataclasses.replace(result, run=summary.run)
    with tempfile.TemporaryDirectory(prefix="reproduce-") as scratch:
        fresh = Path(scratch)
        write_pages(result, fresh, published=True)
        for name in sorted({str(p.relative_to(root)) for root in (folder, fresh) for p in _pages(root)}):
            one, other = (root / name for root in (folder, fresh))
            same = one.is_file() and other.is_file() and one.read_bytes() == other.read_bytes()
            right &= same
            print(f"{'equal' if same else 'DIFFERS':8}{name}")
        write_frame(fresh, result, folder)
        same = (folder / FRAME).is_file() and _frame(folder / FRAME).equals(_frame(fresh / FRAME))
        print(f"{'equal' if same else 'DIFFERS':8}{FRAME}")
    own = Manifest.read(folder)
    again = manifest(result, folder, own)
    others = [name for name in OF_THE_RECORDS if getattr(own, name) != getattr(again, name)]
    print(f"DIFFERS {MANIFEST}: {', '.join(others)}" if others else f"{'equal':8}{MANIFEST}")
    return right and same and not others


def _frame(path: Path) -> "pandas.DataFrame":
    import pandas

    return pandas.read_parquet(path)


def _pages(folder: Path) -> Iterator[Path]:
    for name in PAGES:
        yield from (path for path in [folder / name, *(folder / name).rglob("*")] if path.is_file())


def _run(
    folder: Path, document: PlanDocument, state: SweepState, wanted: Collection[ConfirmTrial], config: ReproduceConfig
) -> bool:
    from ablations.sweep.again import Rerun, planned_again, run_again, why_other

    rerun = Rerun(document, state, config.runs_dir.absolute(), config.workers, config.progress, config.trust)
    plan = planned_again(rerun)
    search = f"; the search's {len(state.search)} trials stand as published" if state.search else ""
    for reason in dict.fromkeys(why_other(_record(folder, trial.id)) for trial in wanted):
        print(
            "as its records have it: code, versions and instruction set" if reason is None else f"otherwise: {reason}"
        )
    print(f"runs {len(wanted)} of {len(state.confirm)} trials again, in {rerun.runs}{search}", flush=True)
    trials = run_again(rerun, plan, wanted, lambda id: _record(folder, id))
    result = load_published(folder)
    found = cells(result, trials)
    _show(result, trials, found)
    if not found:
        print("nothing could be compared: no trial is complete on both sides")
        return False
    right = all(cell.mark in RIGHT for cell in found) and not any(t.same_trial and t.differing for t in trials)
    if len(trials) == len(state.confirm) and all(trial.same_trial for trial in trials):
        right &= _table(folder, trials)
    return right and all(t.rerun.status == t.published.status for t in trials)


def _table(folder: Path, trials: Sequence[Again]) -> bool:
    """table.csv, made of the trials that ran again, against the published one."""
    again = table_csv(load_with(folder, {trial.published.id: trial.rerun for trial in trials}))
    equal, differing = csv_cells((folder / "table.csv").read_text(), again)
    print(f"table.csv: {equal} of {equal + len(differing)} cells equal")
    for line in differing:
        print(f"  {line}")
    return not differing


def _place(folder: Path, id: str) -> Path:
    return folder / RECORDS / f"{id}.json"


def _record(folder: Path, id: str) -> Record:
    path = _place(folder, id)
    if not path.is_file():
        raise ConfigError(f"{path}: is missing, so there is nothing to compare with; leave its arm or its seed out")
    return read_record(path)


def _show(result: Result, trials: Sequence[Again], found: Sequence[Cell]) -> None:
    from ablations.show.terminal import print_tables
    from ablations.sweep.again import why_other

    rows = [_row(cell) for cell in found if cell.mark != "equal"]
    if rows:
        columns = ["arm", "metric", "published", "again", "must lie in", ""]
        note = "Differences to the baseline (published: over all seeds), else means over the same seeds."
        print_tables([Table("Cells that are not equal", columns, rows, note, words=(0, 1, 5))])
    others = dict.fromkeys(why_other(trial.published) for trial in trials if not trial.same_trial)
    for reason in others:
        print(f"other trials than the published ones: {reason or 'their keys are written otherwise'}")
    for trial in trials:
        if trial.same_trial and trial.differing:
            print(f"{trial.arm} seed {trial.seed}: the same trial, and other numbers: {', '.join(trial.differing)}")
        if trial.rerun.status != trial.published.status:
            print(f"{trial.arm} seed {trial.seed}: {trial.rerun.status} here, {trial.published.status} as published")
    counts = {mark: sum(cell.mark == mark for cell in found) for mark in typing.get_args(Mark)}
    same = sum(trial.same_trial for trial in trials)
    said = ", ".join(f"{count} {mark}" for mark, count in counts.items() if count or mark == "equal")
    print(
        f"{result.sweep} ({result.run}): {len(trials)} trials, {same} of them the very same; {len(found)} cells: {said}"
    )


def _row(cell: Cell) -> list[str]:
    metric = metric_of(cell.metric)
    name = f"{cell.arm} - {cell.against}" if cell.against else cell.arm
    values = [numbers.signed(value, metric.digits) for value in (cell.published, cell.rerun)]
    return [name, metric.label, *values, numbers.interval(cell.low, cell.high, metric.digits), cell.mark]


def _with_origin(said: Manifest, document: PlanDocument, folder: Path) -> PlanDocument:
    """A plan of an earlier version, which holds neither: with the sweep's file as its commit has it, and the manifest's
    command. That commit has no `reproduce`, so that these are run by this checkout's code."""
    commit, name = said.commit, f"sweeps/{said.sweep}.yaml"
    commands = [command for command in said.commands if " -m ablations.run " in command]
    if commit is None or not commands or not is_here(commit):
        raise ConfigError(
            f"{folder}: its plan is of an earlier version, without the sweep's file, and its commit ({commit}) is not "
            "in this clone; fetch it, or rebuild its tables alone, tables_only=true"
        )
    shown = subprocess.run(["git", "-C", str(ROOT), "show", f"{commit}:{name}"], capture_output=True, text=True)
    if shown.returncode:
        raise ConfigError(f"{folder}: commit {commit[:12]} has no {name}, which its plan was made of")
    print(f"its plan is of an earlier version: {name} is that of commit {commit[:12]}, and the code this checkout's")
    return dataclasses.replace(document, sweep_file=shown.stdout, command=commands[0])


def _in_worktree(said: Manifest, document: PlanDocument, folder: Path, words: Sequence[str], trust: bool) -> int | None:
    """The exit code of the same command by the commit that the result was published from; None where that commit has
    no such command, or its own cannot obey. A clone has others' commits too, of branches that were fetched to be read:
    what runs here is of this checkout's own history, or trusted."""
    commit = said.commit
    if commit is None:
        raise ConfigError(
            f"{folder}: its code is not this checkout's, and its commit is not known "
            f"({said.commit_unknown or 'nobody says why'}); "
            "code=here runs it by this code"
        )
    if not is_here(commit):
        raise ConfigError(
            f"{folder}: was published from commit {commit}, which is not in this clone; fetch it, or code=here runs it "
            "by this code"
        )
    if not trust and not is_before(commit):
        raise ConfigError(
            f"{folder}: was published from commit {commit}, which is not in the history of this checkout, so that its "
            "code may be anybody's; check out a branch that has it, trust=true runs it all the same, or code=here runs "
            "by this code"
        )
    print(f"its code is not this checkout's: runs by commit {commit[:12]}, in a worktree", flush=True)
    with worktree(commit) as tree:
        if not (tree / "ablations" / "reproduce.py").is_file():
            print(f"commit {commit[:12]} has no such command yet")
            return None
        environment = {**os.environ, "PYTHONPATH": str(tree)}
        if (own := code_of(environment)) != document.code:
            raise ConfigError(
                f"{folder}: commit {commit[:12]} trains by other code ({own[:12]}) than its plan names "
                f"({document.code[:12]}); code=here runs it by this checkout's"
            )
        command = [sys.executable, "-P", "-m", "ablations.reproduce", *words, "code=here"]
        code = subprocess.run(command, env=environment).returncode
        if code == 2:
            print(f"commit {commit[:12]} could not, as the line above says")
        return None if code == 2 else code


def main(arguments: list[str] | None = None) -> int:
    """0, 1 or 2: see above; 130 after Ctrl-C."""
    words = sys.argv[1:] if arguments is None else arguments
    if not words or {"-h", "--help"} & set(words):
        print(__doc__)
        return 0

    def work() -> int:
        check_house()
        signal.signal(signal.SIGTERM, _interrupt)
        places = [word for word in words if not is_pair(word)]
        if len(places) != 1:
            raise ConfigError(f"reproduce: expected one result, as in results/moe_balance/cpu, not {len(places)}")
        config = parse(ReproduceConfig, [word for word in words if is_pair(word)])
        place = Path(os.path.expanduser(places[0]))
        with opened(place) as folder, naming(folder, place):
            own = [word for word in words if is_pair(word) and word.partition("=")[0] not in ("code", "runs_dir")]
            again = [str(folder.absolute()), f"runs_dir={config.runs_dir.absolute()}", *own]
            return reproduce(folder, config, again, place)

    return obeyed(work, "stopped; what is finished is kept, and the same command goes on from here")


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(spoken(main))
