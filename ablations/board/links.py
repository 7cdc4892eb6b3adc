"""Where the W&B runs of a result are, as far as their folders here say."""

import contextlib
from pathlib import Path

from ablations.board.result_run import result_id, trial_runs
from ablations.judge.result import Result
from ablations.show.page import Link
from ablations.trial.mirror import URL
from ablations.trial.tracking import folders_of


def links_of(result: Result, runs: Path) -> dict[str, list[Link]]:
    """By arm, its confirmation trials' by seed; the result's own comes first. Runs that no server has are left out."""
    whole = {trial.id for trial in result.state.confirm if trial.share == 1}
    links = {"all": [Link("result", _place(runs, result_id(result)))]} | {arm: [] for arm in result.arms}
    for own, trial in trial_runs(result).items():
        if trial["phase"] == "confirm" and trial["trial"] in whole:
            links[trial["arm"]].append(Link(f"seed {trial['seed']}", _place(runs, own)))
    there = {name: [link for link in own if link.url] for name, own in links.items()}
    return {name: own for name, own in there.items() if own}


def _place(runs: Path, own: str) -> str:
    """Empty where there is none."""
    for folder in folders_of(runs / "wandb", own):
        with contextlib.suppress(OSError, UnicodeDecodeError):
            said = (folder / URL).read_text().strip()
            if said.startswith(("https://", "http://")):
                return said
    return ""
