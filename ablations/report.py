"""`python -m ablations.report sweep=NAME [scale=cpu] [publish=true|partial|again]`: a run's tables, figures and page.

Without `publish` they go into the run's own folder. `publish=true` copies a finished run into results/, with records,
plan and a manifest from which it can be repeated; `publish=partial` does so for what is finished so far.
`publish=again` needs no run: it renders what is published anew from its own records, after the code that shows them
has changed.
"""

import dataclasses
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from ablations.files import read_json, write_json
from ablations.home import ROOT, check_house
from ablations.records import RECORD, recorded_at
from ablations.show.results import Result, load_published, load_result
from models.files import whole_folder, write_atomically
from models.streams import spoken
from models.typed import ConfigError, build, closest

PACKAGES = (
    "torch", "lightning", "numpy", "scipy", "statsmodels", "optuna", "lm-eval", "tokenizers", "transformers", "wandb",
    "hydra-core", "matplotlib",
)  # fmt: skip

PAGES = ("table.md", "table.csv", "timings.csv", "page.html", "figures")
"""What `write_report` leaves in the run's folder."""


@dataclasses.dataclass(frozen=True)
class ReportConfig:
    """The command's keys."""

    sweep: str = ""
    scale: str = "cpu"
    runs_dir: str = "runs"
    results_dir: str | None = None
    publish: Literal["false", "true", "partial", "again"] = "false"


def write_report(runs_dir: str | Path, sweep: str, scale: str, results_dir: str | Path | None = None) -> Result:
    """Write table.md, table.csv, timings.csv, figures/ and page.html into the run's folder; works on unfinished runs.

    Records missing under `runs_dir` are looked for in `results_dir` (default: results/ of the checkout), where a
    partial result may have been published. Raises ConfigError where no such run was planned.
    """
    result = load_result(runs_dir, sweep, scale, _results(results_dir) / sweep / scale / "records")
    _write(result, Path(runs_dir) / sweep / scale)
    return result


def _write(result: Result, folder: Path) -> None:
    from ablations.show.figures import draw_figures
    from ablations.show.page import page_html
    from ablations.show.render import table_csv, table_md, timings_csv

    pictures = draw_figures(result)
    for picture in pictures:
        write_atomically(folder / "figures" / f"{picture.name}.svg", picture.svg)
        write_atomically(folder / "figures" / f"{picture.name}.png", picture.png)
    write_atomically(folder / "table.md", table_md(result))
    write_atomically(folder / "table.csv", table_csv(result))
    write_atomically(folder / "timings.csv", timings_csv(result))
    write_atomically(folder / "page.html", page_html(result, pictures, commands(result)))


def publish(
    runs_dir: str | Path, sweep: str, scale: str, results_dir: str | Path | None = None, partial: bool = False
) -> Path:
    """Write the report and copy it with records, plan and manifest.json to results_dir/<sweep>/<scale>/.

    Replaces what is there as a whole. Raises ConfigError where trials are missing and `partial` does not allow it.
    """
    target = _results(results_dir) / sweep / scale
    result = load_result(runs_dir, sweep, scale, target / "records")
    if result.missing and not partial:
        raise ConfigError(
            f"publish=true: {len(result.missing)} of {result.planned} trials of sweep={sweep} scale={scale} are "
            f"missing; finish them with `{commands(result)[0]}`, or publish=partial publishes what is finished"
        )
    run, trials = Path(runs_dir) / sweep / scale, Path(runs_dir) / "trials"
    _write(result, run)
    with whole_folder(target) as fresh:
        for name in PAGES:
            if (run / name).is_dir():
                shutil.copytree(run / name, fresh / name, ignore=shutil.ignore_patterns(".*"))
            elif (run / name).exists():
                shutil.copyfile(run / name, fresh / name)
        for name in ("plan.json", "trials.json"):
            if (run / name).exists():
                shutil.copyfile(run / name, fresh / name)
        (fresh / "records").mkdir()
        for trial_id in _trial_ids(result):
            source = recorded_at(trials / trial_id / RECORD, target / "records" / f"{trial_id}.json")
            if source is not None:
                shutil.copyfile(source, fresh / "records" / f"{trial_id}.json")
        write_json(fresh / "manifest.json", _manifest(result, fresh))
    return target


def publish_again(sweep: str, scale: str, results_dir: str | Path | None = None) -> Path:
    """Render a published result anew. Its manifest keeps the commit and versions that it was published from, and names
    the commit that it is `rendered` by. Raises ConfigError where nothing is published."""
    target = _results(results_dir) / sweep / scale
    result, earlier = load_published(target), read_json(target / "manifest.json")
    with whole_folder(target) as fresh:
        for name in ("plan.json", "trials.json"):
            shutil.copyfile(target / name, fresh / name)
        shutil.copytree(target / "records", fresh / "records")
        _write(result, fresh)
        kept = {name: earlier[name] for name in ("commit", "dirty", "versions")}
        write_json(fresh / "manifest.json", {**_manifest(result, fresh), **kept, "rendered": _commit()})
    return target


def commands(result: Result) -> list[str]:
    """What repeats this result: the plan's own command, or one that names arms and seeds; then the report."""
    own = [name for name, arm in result.arms.items() if arm.kind == "arm"]
    built = [
        "python -m ablations.run",
        f"sweep={result.sweep}",
        f"scale={result.scale}",
        f"search={result.plan.get('search', 'fresh')}",
        shlex.quote(f"arms=[{','.join(own)}]"),
        shlex.quote(f"seeds=[{','.join(map(str, result.seeds))}]"),
    ]
    run = result.plan.get("command") or " ".join(built)
    return [str(run), f"python -m ablations.report sweep={result.sweep} scale={result.scale}"]


def _results(results_dir: str | Path | None) -> Path:
    return Path(results_dir) if results_dir is not None else ROOT / "results"


def _trial_ids(result: Result) -> list[str]:
    """Confirmation and search, each once."""
    entries = [*result.trials.get("confirm", []), *result.trials.get("search", [])]
    return sorted({entry["id"] for entry in entries})


def _manifest(result: Result, folder: Path) -> dict[str, Any]:
    """Everything that repeating the result needs, and the hash of every file beside it."""
    records = result.all_records
    environments = [record.environment for record in records]
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    counts = {status: sum(r.status == status for r in records) for status in ("complete", "diverged", "failed")}
    return {
        "format": 1,
        "sweep": result.sweep,
        "scale": result.scale,
        "partial": bool(result.missing),
        "trials": {"planned": result.planned, "missing": len(result.missing), **counts},
        "search_trials": len(result.search),
        "commands": commands(result),
        **_commit(),
        "plan_sha256": result.plan_sha,
        "code": result.plan.get("code"),
        "data": result.plan.get("data"),
        "chosen": {name: arm.chosen for name, arm in result.arms.items()},
        "verdicts": [
            {"arm": v.arm, "against": v.against, "metric": v.metric, "kind": v.kind, "outcome": v.outcome}
            for v in result.verdicts
        ],
        "environments": [e for i, e in enumerate(environments) if e not in environments[:i]],
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        "files": {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files},
    }


def _commit() -> dict[str, Any]:
    """The checkout's commit and whether the tree (results/ aside) differs from it; None where there is no git."""
    try:
        commit = _git("rev-parse", "HEAD")
        return {"commit": commit, "dirty": bool(_git("status", "--porcelain", "--", ".", ":!results"))}
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "dirty": None}


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def parse(arguments: list[str]) -> ReportConfig:
    """`key=value` words. Raises ConfigError on anything else."""
    known = [field.name for field in dataclasses.fields(ReportConfig)]
    values: dict[str, Any] = {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if key not in known:
            raise ConfigError(f"{key}: no such key{closest(key, known)} (known: {', '.join(known)})")
        if not equals:
            raise ConfigError(f"{key}: expected {key}=VALUE")
        path = os.path.expanduser(value) if key in ("runs_dir", "results_dir") else value
        values[key] = None if key == "results_dir" and value == "null" else path
    if "publish" in values:
        values["publish"] = values["publish"].lower()
    config = build(ReportConfig, values)
    if not config.sweep:
        raise ConfigError("sweep: name the sweep to report on, as in `python -m ablations.report sweep=moe_balance`")
    return config


def print_result(result: Result) -> None:
    """The compact table and the sentence."""
    from rich.console import Console

    from ablations.show.render import summary_sentence
    from ablations.show.terminal import print_table

    console = Console(width=None if sys.stdout.isatty() else 120, soft_wrap=False, highlight=False)
    console.print()
    print_table(console, result)
    console.print(summary_sentence(result), markup=False)
    console.print()


def main(arguments: list[str] | None = None) -> int:
    """0, or 2 with one line on stderr where the command cannot be obeyed."""
    words = sys.argv[1:] if arguments is None else arguments
    if {"-h", "--help"} & set(words):
        print(
            f"{__doc__}\nKeys: sweep, scale=cpu, runs_dir=runs, results_dir=results, publish=false|true|partial|again"
        )
        return 0
    try:
        check_house()
        config = parse(words)
        if config.publish == "false":
            result = write_report(config.runs_dir, config.sweep, config.scale, config.results_dir)
            folder = Path(config.runs_dir) / config.sweep / config.scale
        elif config.publish == "again":
            folder = publish_again(config.sweep, config.scale, config.results_dir)
            result = load_published(folder)
        else:
            partial = config.publish == "partial"
            folder = publish(config.runs_dir, config.sweep, config.scale, config.results_dir, partial)
            result = load_result(config.runs_dir, config.sweep, config.scale, folder / "records")
        print_result(result)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {error.filename or 'files'}: {error.strerror or error}", file=sys.stderr)
        return 2
    for name in PAGES if config.publish == "false" else (*PAGES, "records", "manifest.json"):
        if (folder / name).exists():
            print(folder / name)
    return 0


if __name__ == "__main__":
    sys.exit(spoken(main))
