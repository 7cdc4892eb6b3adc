"""`python -m ablations.run sweep=NAME [KEY=VALUE ...]`: from a sweep's name to a result table."""

import shlex
import signal
import sys
from pathlib import Path
from typing import Any

from ablations.home import check_house
from models.base.streams import obeyed, spoken
from models.base.typed import ConfigError


def main(arguments: list[str] | None = None) -> int:
    """0 at the end of the sweep; 2 with one line on stderr for what cannot be obeyed; 130 after Ctrl-C."""
    words = sys.argv[1:] if arguments is None else arguments
    again = f"stopped; nothing finished is lost. The same command goes on from here:\n  {_command(words)}"
    return obeyed(lambda: _run(words), again)


def _run(words: list[str]) -> int:
    check_house()
    if not words:
        _list()
        return 0
    if {"-h", "--help"} & set(words):
        from ablations.config.help import help_text, sweep_help

        print(sweep_help() if "sweep" in words else help_text())
        return 0
    from ablations.config.compose import compose, config_yaml

    show = _take_cfg(words)
    overrides = [word for word in words if not show or word not in show]
    config = compose(overrides)
    if show:
        print(config_yaml(config), end="")
        return 0

    from ablations.sweep.announce import describe
    from ablations.sweep.conductor import Conductor
    from ablations.sweep.guarding import GuardFailed
    from ablations.sweep.planning import make_plan
    from ablations.sweep.preflight import check_start
    from tasks.evals.known import check_copies, check_tasks

    plan = make_plan(config)
    read_from: dict[str | None, dict[str, None]] = {}
    for arm in plan.arms.values():
        check_tasks(arm.keys.eval.tasks, arm.keys.eval.data_dir, arm.keys.eval.run_model_code)
        read_from.setdefault(arm.keys.eval.data_dir, {}).update(dict.fromkeys(arm.keys.eval.tasks))
    for data_dir, tasks in read_from.items():
        check_copies(list(tasks), data_dir)
    print(describe(plan), flush=True)
    if config.dry_run:
        return 0
    check_start(plan)
    conductor = Conductor(plan)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        conductor.run()
    except GuardFailed as error:
        print(f"error: guards: {error}; nothing was trained", file=sys.stderr)
        return 2
    return _report(conductor)


def _list() -> None:
    """Without a word: what could be asked, and what is known already."""
    from ablations.home import ROOT
    from ablations.show.table import Table
    from ablations.show.terminal import print_tables
    from ablations.sweep.listing import listing

    if sys.stderr.isatty():
        print("planning every sweep, for its minutes ...", file=sys.stderr)
    rows = [
        [one.sweep, f"{one.minutes:.0f}", "\n".join(f"{s.run}: {s.state}" for s in one.answers) or "-", one.question]
        for one in listing(Path("runs"), ROOT / "results")
    ]
    note = "python -m ablations.run sweep=NAME runs one (dry_run=true prints its plan); --help says what can be set."
    print_tables([Table("Sweeps", ["sweep", "minutes", "answers", "question"], rows, note, words=(0, 2, 3))])


def _report(conductor: Any) -> int:
    from ablations.board.result_run import mirror_result
    from ablations.record.record import RECORDS
    from ablations.report import RUN, print_result, results_of, write_report
    from ablations.trial.uploads import resolve_mode, written

    plan = conductor.plan
    result = write_report(conductor.runs, plan.sweep.name, conductor.folder.name, plan.config.results_dir)
    print_result(result)
    for name in RUN:
        print(conductor.folder / name)
    print(f"trials and checkpoints: {conductor.runs / 'trials'}")
    published = results_of(plan.config.results_dir) / plan.sweep.name / conductor.folder.name / RECORDS
    if said := mirror_result(result, conductor.runs, published):
        print(said)
    there = None if resolve_mode(plan.config.track.mode) == "disabled" else written(conductor.runs)
    if there:
        print(there)
    failed = [r for r in result.all_records if r.status == "failed"]
    return 1 if failed else 0


def _command(words: list[str]) -> str:
    return shlex.join(["python", "-m", "ablations.run", *words])


def _take_cfg(words: list[str]) -> list[str]:
    """The words of `--cfg job`, Hydra's way to show the composed keys."""
    if "--cfg" not in words:
        return []
    place = words.index("--cfg")
    if words[place + 1 : place + 2] != ["job"]:
        raise ConfigError("--cfg: expected `--cfg job`")
    return ["--cfg", "job"]


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(spoken(main))
