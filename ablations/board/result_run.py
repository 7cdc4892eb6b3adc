"""A sweep's result as one run of Weights & Biases, beside those of its trials.

It holds what the run's folder holds: verdicts and table as W&B tables, figures, page, and as an artifact plan, table
and records. A run of ours has the same id whenever it is written, so that a later report updates it. Trials log no
artifacts and an offline run can name none, so its lineage is in its config and its artifact's metadata.
"""

import contextlib
import io
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ablations import numbers
from ablations.config.schema import TrackConfig
from ablations.files import sha
from ablations.judge.result import Result
from ablations.launch.environment import worker_environment
from ablations.record.documents import PLAN, STATE
from ablations.record.record import RECORD, RECORDS, recorded_at
from ablations.show.answer import answer, claim
from ablations.show.provenance import commands
from ablations.show.render import table_rows
from ablations.trial.mirror import close_folder
from ablations.trial.requests import Labels
from ablations.trial.tracking import begin_run, folders_of, id_of
from ablations.trial.uploads import Settled, mode_later, mode_now, remembered, wandb_places

JOB_TYPE = "result"
FIGURES = "figures"
CHECKPOINT = "checkpoint"
"""Of a trial's folder: kept where its model is scored on tasks."""
FILES = (PLAN, STATE, "table.csv", "timings.csv", "page.html")
"""Of the run's folder, in the artifact."""


def result_id(result: Result) -> str:
    """Of the result's run: one for each folder under runs/<sweep>, and for each plan where a project is shared."""
    return sha([result.sweep, result.run, result.plan_sha, JOB_TYPE])[:16]


def trial_runs(result: Result) -> dict[str, dict[str, Any]]:
    """By the id of its run: arm, seed, phase and id of every trial that the result rests on."""
    confirm = [(Labels(result.sweep, result.scale, t.arm, t.seed, "confirm"), t.id) for t in result.state.confirm]
    search = [(Labels(result.sweep, result.scale, t.arm, t.seed, "search"), t.id) for t in result.state.search]
    return {
        id_of(labels, trial): {"trial": trial, "arm": labels.arm, "seed": labels.seed, "phase": labels.phase}
        for labels, trial in confirm + search
    }


def mirror_result(result: Result, runs: Path, published: Path) -> str | None:
    """Write the run of a result whose pages are in its folder, where the runs of its trials went.

    Returns what to say of it, whatever failed included; None where those went nowhere. `published`: a folder of records
    to fall back on.
    """
    folder, own, failed = runs / result.sweep / result.run, result_id(result), list[str]()
    try:
        track = remembered(folder)
        mode = "disabled" if track is None else mode_now(mode_later(track), runs / "wandb")
        if track is None or mode == "disabled":
            return None
        for tried in ("online", "offline") if mode == "online" else (mode,):
            try:
                with _apart(runs, own):
                    place = _write(tried, result, folder, runs, track, published)
                return "; ".join([*failed, f"W&B run of the result: {place}"])
            except Exception as error:
                failed.append(f"the result's W&B run could not be written {tried}: {_reason(error)}")
                _let_go()
    except Exception as error:  # a tracker must never fail a sweep, whatever it raises
        failed.append(f"no W&B run of the result: {_reason(error)}")
    return f"note: {'; '.join(failed)}"


def _reason(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


def _let_go() -> None:
    """W&B's service holds on to the id of a run that it could not open, or end."""
    with contextlib.suppress(Exception, SystemExit):  # it exits where its service does
        import wandb

        wandb.teardown()


@contextlib.contextmanager
def _apart(runs: Path, own: str) -> Iterator[None]:
    """What W&B keeps of no run lies beside the runs, as that of the workers, and what it says in spite of its settings
    is not heard. Copies of files that wait for an upload get a folder of this run's own, in place of the last time's.
    No variable that another program has left makes this run a part of something else.
    """
    before = dict(os.environ)
    added = wandb_places(runs)
    if "WANDB_DATA_DIR" in added:
        copies = Path(added["WANDB_DATA_DIR"]) / own
        shutil.rmtree(copies, ignore_errors=True)
        added["WANDB_DATA_DIR"] = str(copies)
    _become(worker_environment(before, added))
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        _become(before)


def _become(variables: Mapping[str, str]) -> None:
    for name in os.environ.keys() - variables.keys():
        del os.environ[name]
    os.environ.update(variables)


def _write(mode: Settled, result: Result, folder: Path, runs: Path, track: TrackConfig, published: Path) -> str:
    """Returns where it is. What was written before, here, is gone then."""
    own = result_id(result)
    earlier = folders_of(runs / "wandb", own)
    if mode == "offline":  # of two of an id, which is to be sent?
        _remove(earlier)
    run = begin_run(
        mode,
        runs,
        own,
        track,
        name=f"{result.sweep} {result.run}",
        group=f"{result.sweep}/{result.scale}",
        job_type=JOB_TYPE,
        tags=[result.sweep, result.scale, JOB_TYPE],
        notes=result.plan.question,
        config={
            "sweep": result.sweep,
            "scale": result.scale,
            "run": result.run,
            "baseline": result.baseline,
            "plan": result.plan_sha,
            "seeds": result.seeds,
            "trials": sorted({trial["trial"] for trial in trial_runs(result).values()}),
            "commands": commands(result),
        },
    )
    try:
        run.log(_shown(result, folder))
        run.summary.update(_summary(result))
        run.log_artifact(_artifact(result, folder, runs, track, published))
    except BaseException:
        with contextlib.suppress(Exception):  # what stopped it is what is told
            run.finish(exit_code=1)
        raise
    run.finish(exit_code=0)
    close_folder(run)
    _remove(earlier, but=Path(run.dir).parent)  # of the same second it has the same name
    return str(run.url if mode == "online" else Path(run.dir).parent)


def _remove(folders: Iterable[Path], but: Path | None = None) -> None:
    for folder in folders:
        if but is None or folder.absolute() != but.absolute():
            shutil.rmtree(folder, ignore_errors=True)


def _shown(result: Result, folder: Path) -> dict[str, Any]:
    import wandb

    pictures = sorted((folder / FIGURES).glob("*.png"))
    return {
        "verdicts": _table(verdict_rows(result)),
        "table": _table(table_rows(result)),
        **{f"{FIGURES}/{picture.stem}": wandb.Image(str(picture)) for picture in pictures},
        "page": wandb.Html((folder / "page.html").read_text(), inject=False, data_is_not_path=True),
    }


def verdict_rows(result: Result) -> list[dict[str, Any]]:
    """A claim each, with its numbers whole."""
    rows = []
    for expected, verdict in zip(result.expected, result.verdicts, strict=True):
        d = verdict.difference
        rows.append(
            {
                "claim": claim(expected, result.plan.rival(expected)),
                "arm": verdict.arm,
                "against": verdict.against,
                "metric": verdict.metric,
                "outcome": verdict.outcome,
                "caveat": verdict.caveat,
                "paper": expected.paper,
                "paper_value": expected.paper_value,
                **{name: getattr(d, name) if d else None for name in ("n", "mean", "low", "high", "p_holm")},
                "why": verdict.why,
            }
        )
    return rows


def _table(rows: list[dict[str, Any]]) -> Any:
    """A column may lack numbers, and what is not finite is none."""
    import wandb

    cells = [[v if not isinstance(v, float) or numbers.present(v) else None for v in row.values()] for row in rows]
    return wandb.Table(columns=list(rows[0]) if rows else [], data=cells, allow_mixed_types=True)


def _summary(result: Result) -> dict[str, Any]:
    outcomes = [verdict.outcome for verdict in result.verdicts]
    return {
        "answer": answer(result),
        "trials": {"planned": result.planned, "missing": len(result.missing)},
        "claims": {outcome.replace(" ", "_"): outcomes.count(outcome) for outcome in dict.fromkeys(outcomes)},
    }


def _artifact(result: Result, folder: Path, runs: Path, track: TrackConfig, published: Path) -> Any:
    import wandb

    metadata = {"plan": result.plan_sha, "trials": trial_runs(result), "deviations": result.deviations}
    artifact = wandb.Artifact(f"{result.sweep}-{result.run}".replace("@", "-"), type=JOB_TYPE, metadata=metadata)
    for name in FILES:
        if (folder / name).is_file():
            artifact.add_file(str(folder / name), name=name)
    for trial in result.state.trial_ids:
        record = recorded_at(runs / "trials" / trial / RECORD, published / f"{trial}.json")
        if record is not None:
            artifact.add_file(str(record), name=f"{RECORDS}/{trial}.json")
    for trial in sorted({trial.id for trial in result.state.confirm}) if track.checkpoints else []:
        for file in sorted((runs / "trials" / trial / CHECKPOINT).glob("*")):  # never written again: no copy is made
            artifact.add_file(str(file), name=f"{CHECKPOINT}s/{trial}/{file.name}", policy="immutable")
    return artifact
