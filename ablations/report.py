"""`python -m ablations.report sweep=NAME [scale=cpu] [publish=true|partial|again]`: a run's tables, figures and page.

Without `publish` they go into the run's own folder. `publish=true` copies a finished run into results/, with records,
plan and a manifest from which it can be repeated; `publish=partial` does so for what is finished so far.
`publish=again` needs no run: it renders what is published anew from its own records, after the code that shows them
has changed. Where a scale has the results of several plans, `run=` names the folder of one, as in `run=cpu@1f3a9c2e`.
"""

import dataclasses
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ablations.home import ROOT, check_house
from ablations.judge.gather import load_published, load_result
from ablations.judge.result import Result
from ablations.record.audit import check_whole
from ablations.record.documents import JOURNAL, PLAN, STATE, PlanDocument
from ablations.record.manifest import MANIFEST, Manifest, strange
from ablations.record.record import RECORD, RECORDS, recorded_at
from ablations.record.rundir import differing, folders_of_scale, listed
from ablations.record.summary import SUMMARY
from ablations.show.provenance import commands, commit, manifest
from ablations.trial.identity import code_hash
from models.base.command import keys_of, parse
from models.base.files import whole_file, whole_folder, write_atomically
from models.base.reading import one_line
from models.base.streams import obeyed, spoken
from models.base.typed import ConfigError

if TYPE_CHECKING:
    from ablations.show.page import Link

PAGES = ("table.md", "table.csv", "timings.csv", "page.html", SUMMARY, "figures")
"""What `write_report` leaves in the run's folder, beside what it was made from."""
RUN = (PLAN, STATE, *PAGES)
INDEX = "index.html"
FRAME = "records.parquet"
PUBLISHED = (*RUN, RECORDS, FRAME, MANIFEST)
"""What a published folder holds; the journal of a search, too, where there was one."""


@dataclasses.dataclass(frozen=True)
class ReportConfig:
    """The command's keys."""

    sweep: str = ""
    scale: str = "cpu"
    run: str | None = None
    """The run's folder under runs/<sweep>, where that is not the scale's name alone."""
    runs_dir: Path = Path("runs")
    results_dir: Path | None = None
    """null: results/ of the checkout."""
    publish: Literal["false", "true", "partial", "again"] = "false"


def write_report(runs_dir: str | Path, sweep: str, run: str, results_dir: str | Path | None = None) -> Result:
    """Write table.md, table.csv, timings.csv, figures/ and page.html into the run's folder; works on unfinished runs.

    `run` is the folder's name: the scale, or `<scale>@<hash>` (ablations/record/rundir.py). Records missing under
    `runs_dir` are looked for in `results_dir` (default: results/ of the checkout), where a partial result may have been
    published. Raises ConfigError where no such run was planned.
    """
    from ablations.board.links import links_of

    result = load_result(runs_dir, sweep, run, results_of(results_dir) / sweep / run / RECORDS)
    write_pages(result, Path(runs_dir) / sweep / run, links=links_of(result, Path(runs_dir)))
    write_index(Path(runs_dir))
    return result


def write_index(root: Path) -> None:
    """index.html of runs/ or results/: all that was found, on one page."""
    from ablations.show.index import index_html

    write_atomically(root / INDEX, index_html(root))


def write_pages(
    result: Result, folder: Path, published: bool = False, links: "Mapping[str, Sequence[Link]] | None" = None
) -> None:
    """`links`: by arm, to its trials' runs in W&B; a published page, which its records alone make again, has none."""
    from ablations.show.figures.every import draw_figures
    from ablations.show.index import summary_of
    from ablations.show.page import page_html
    from ablations.show.render import table_csv, table_md, timings_csv

    pictures = draw_figures(result)
    for picture in pictures:
        write_atomically(folder / "figures" / f"{picture.name}.svg", picture.svg)
        write_atomically(folder / "figures" / f"{picture.name}.png", picture.png)
    write_atomically(folder / "table.md", table_md(result))
    write_atomically(folder / "table.csv", table_csv(result))
    write_atomically(folder / "timings.csv", timings_csv(result))
    write_atomically(folder / "page.html", page_html(result, pictures, commands(result, published), links))
    summary_of(result, [picture.name for picture in pictures]).write(folder)


def publish(
    runs_dir: str | Path, sweep: str, run: str, results_dir: str | Path | None = None, partial: bool = False
) -> Path:
    """Write the report and copy it with records, plan and manifest.json to results_dir/<sweep>/<run>/.

    Replaces what is there as a whole. Raises ConfigError where trials are missing and `partial` does not allow it, and
    where this checkout's code is not what trained them: the manifest would name a commit that cannot repeat them.
    """
    target = results_of(results_dir) / sweep / run
    result = load_result(runs_dir, sweep, run, target / RECORDS)
    if result.plan.code != code_hash():
        raise ConfigError(
            f"publish={'partial' if partial else 'true'}: the trials of sweep={sweep} run={run} are of another code "
            f"({result.plan.code[:8]}) than this checkout's ({code_hash()[:8]}), whose commit would be named; publish "
            "from the commit that they ran at, and render that here with publish=again"
        )
    if result.missing and not partial:
        raise ConfigError(
            f"publish=true: {len(result.missing)} of {result.planned} trials of sweep={sweep} run={run} are "
            f"missing; finish them with `{commands(result)[0]}`, or publish=partial publishes what is finished"
        )
    source, trials = Path(runs_dir) / sweep / run, Path(runs_dir) / "trials"
    write_pages(result, source, published=True)
    with whole_folder(target) as fresh:
        for name in (*RUN, JOURNAL):
            _copy(source / name, fresh / name)
        (fresh / RECORDS).mkdir()
        for trial_id in result.state.trial_ids:
            record = recorded_at(trials / trial_id / RECORD, target / RECORDS / f"{trial_id}.json")
            if record is not None:
                shutil.copyfile(record, fresh / RECORDS / f"{trial_id}.json")
        write_frame(fresh, result)
        manifest(result, fresh, commit()).write(fresh)
    write_index(results_of(results_dir))
    return target


def publish_again(sweep: str, run: str, results_dir: str | Path | None = None) -> Path:
    """Render a published result anew. Its manifest keeps the commit and versions that it was published from, and names
    the commit that it is `rendered` by. Raises ConfigError where nothing is published."""
    target = results_of(results_dir) / sweep / run
    for name, said in strange(target):
        raise ConfigError(f"{target / name}: {said}; remove it")
    if target.is_dir():
        check_whole(target, "it is not rendered anew")
    result, earlier = load_published(target), Manifest.read(target)
    with whole_folder(target) as fresh:
        for name in (PLAN, STATE, JOURNAL, RECORDS):
            _copy(target / name, fresh / name)
        write_pages(result, fresh, published=True)
        write_frame(fresh, result)
        again = manifest(result, fresh, earlier)
        dataclasses.replace(again, versions=earlier.versions, rendered=commit()).write(fresh)
    write_index(results_of(results_dir))
    return target


def write_frame(folder: Path, result: Result, of: Path | None = None) -> None:
    """The records as one table, for other tools; `of`: the folder that they are in, where that is another one."""
    import pyarrow

    from ablations import frames

    with whole_file(folder / FRAME) as temporary:
        frame = frames.published(of or folder, result.sweep, result.run)
        try:
            frame.to_parquet(temporary, index=False)
        except (pyarrow.ArrowException, OverflowError) as error:
            raise ConfigError(f"{of or folder}: its records make no table: {one_line(error)}") from None


def results_of(results_dir: str | Path | None) -> Path:
    return Path(results_dir) if results_dir is not None else ROOT / "results"


def _copy(source: Path, target: Path) -> None:
    """A file or a folder, where it is there."""
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns(".*"))
    elif source.exists():
        shutil.copyfile(source, target)


def _remarks(folder: Path, before: PlanDocument | None) -> list[str]:
    """What whoever publishes must know: that another plan's result is replaced, that the commit is not known."""
    lines, written = [], Manifest.read(folder)
    others = differing(before, PlanDocument.read(folder)) if before else []
    if others:
        lines.append(f"{folder}: replaces what was published of another plan ({listed(others)})")
    for which, found in (("", written), ("rendering ", written.rendered)):
        if found is not None and found.commit_unknown is not None:
            lines.append(f"warning: {folder / MANIFEST} has no {which}commit: {found.commit_unknown}")
    return lines


def asked(words: Sequence[str]) -> ReportConfig:
    """Raises ConfigError for anything but the command's keys."""
    config = parse(ReportConfig, words)
    if config.run is not None and (not config.run or Path(config.run).name != config.run or config.run[0] == "."):
        raise ConfigError(f"run={config.run}: expected the name of a folder under {config.runs_dir}/{config.sweep}")
    if not config.sweep:
        raise ConfigError("sweep: name the sweep to report on, as in `python -m ablations.report sweep=moe_balance`")
    for name, folder in (("runs_dir", config.runs_dir), ("results_dir", config.results_dir)):
        if folder is not None and folder.is_file():
            raise ConfigError(f"{name}={folder}: is a file; name a folder")
    for key, value in (("sweep", config.sweep), ("scale", config.scale)):
        if not value or Path(value).name != value or value[0] == ".":
            raise ConfigError(f"{key}={value}: expected a name, as in sweep=moe_balance scale=cpu, and no path")
    return config


def print_result(result: Result) -> None:
    """The compact table, a line for each claim, and the answer."""
    from rich.console import Console

    from ablations.show.answer import answer, findings
    from ablations.show.terminal import print_table

    console = Console(width=None if sys.stdout.isatty() else 120, soft_wrap=False, highlight=False)
    console.print()
    print_table(console, result)
    for line in (*findings(result), "", answer(result)):
        console.print(line, markup=False)
    console.print()


def main(arguments: list[str] | None = None) -> int:
    """0, or 2 with one line on stderr where the command cannot be obeyed."""
    words = sys.argv[1:] if arguments is None else arguments
    if {"-h", "--help"} & set(words):
        print(f"{__doc__}\nKeys: {' '.join(keys_of(ReportConfig))}")
        return 0

    def work() -> int:
        check_house()
        _report(asked(words))
        return 0

    return obeyed(work)


def _report(config: ReportConfig) -> None:
    run, runs, results = config.run or config.scale, config.runs_dir, config.results_dir
    published = results_of(results) / config.sweep / run
    before = PlanDocument.read(published) if config.publish != "false" and (published / PLAN).is_file() else None
    if config.publish == "false":
        folder = runs / config.sweep / run
        result = write_report(runs, config.sweep, run, results)
    elif config.publish == "again":
        folder = publish_again(config.sweep, run, results)
        result = load_published(folder)
    else:
        folder = publish(runs, config.sweep, run, results, config.publish == "partial")
        result = load_result(runs, config.sweep, run, folder / RECORDS)
    from ablations.board.result_run import mirror_result

    remarks = _remarks(folder, before) if config.publish != "false" else []
    print_result(result)
    for name in PAGES if config.publish == "false" else PUBLISHED:
        if (folder / name).exists():
            print(folder / name)
    if config.publish == "false" and (said := mirror_result(result, runs, published / RECORDS)):
        print(said)
    others = [f.name for f in folders_of_scale(folder.parent, result.scale) if f.name != run]
    if others:
        print(f"of other plans: {' '.join(f'run={name}' for name in others)}")
    for line in remarks:
        print(line, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(spoken(main))
