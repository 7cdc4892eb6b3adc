"""What a W&B server is asked and sent, with every refusal in one line.

Who logs in, which project and which views there are is asked first, by ourselves: W&B's own client tries again for
minutes and does not say why. Then W&B's packages write the views, and its command sends the runs.
"""

import base64
import contextlib
import io
import json
import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ablations.board.result_run import result_id, trial_runs
from ablations.judge.result import Result
from ablations.launch.environment import worker_environment
from ablations.trial.mirror import URL, WHOLE
from ablations.trial.tracking import folders_of
from ablations.trial.uploads import api_key, host, server, wandb_places
from models.base.files import write_atomically
from models.base.typed import ConfigError

if TYPE_CHECKING:
    from wandb_workspaces.reports.v2 import Report
    from wandb_workspaces.workspaces import Workspace

SECONDS = 20.0
"""That an answer may take."""
NOTHING = "nothing was uploaded"

_VIEWER = "query Viewer { viewer { entity username } }"
_VIEWS = """query Views($entity: String!, $project: String!, $type: String!, $name: String) {
  project(name: $project, entityName: $entity) {
    id
    allViews(viewType: $type, viewName: $name, first: 500) { edges { node { id name displayName } } }
  }
}"""


def ask(query: str, **variables: Any) -> dict[str, Any]:
    """What the server answers to a GraphQL query of ours. Raises ConfigError, in one line, where it does not."""
    if not re.match(r"https?://[^/]", server()):
        raise ConfigError(f"WANDB_BASE_URL={server()}: expected http://HOST or https://HOST; {NOTHING}")
    token = base64.b64encode(f"api:{api_key()}".encode()).decode()
    body = json.dumps({"query": query, "variables": variables}).encode()
    try:
        request = urllib.request.Request(f"{server()}/graphql", body, {"Content-Type": "application/json"})
        request.add_unredirected_header("Authorization", f"Basic {token}")  # a key goes to no other host
        with urllib.request.urlopen(request, timeout=SECONDS) as response:
            answer = dict(json.load(response))
    except urllib.error.HTTPError as error:
        if error.code == 401:
            raise ConfigError(
                f"WANDB_API_KEY: {host()} does not take it (401; it may have expired); `wandb login --relogin` "
                f"brings a new one; {NOTHING}"
            ) from None
        raise ConfigError(f"{host()}: it answered {error.code} {error.reason}; {NOTHING}") from None
    except (OSError, ValueError, TypeError, HTTPException) as error:  # no network, no host, no answer, none of ours
        reason = getattr(error, "reason", None) or error
        raise ConfigError(
            f"{host()}: not reached ({reason}); without a network, WANDB_MODE=offline writes the workspace's "
            f"specification; {NOTHING}"
        ) from None
    if answer.get("errors"):
        said = "; ".join(str(one.get("message")) for one in answer["errors"])
        raise ConfigError(f"{host()}: {said}; {NOTHING}")
    found: dict[str, Any] = answer.get("data") or {}
    return found


def default_entity() -> str:
    """Of whoever is logged in."""
    viewer = ask(_VIEWER).get("viewer")
    if not viewer:
        raise ConfigError(f"WANDB_API_KEY: {host()} knows no such login; `wandb login --relogin`; {NOTHING}")
    return str(viewer.get("entity") or viewer["username"])


def views(entity: str, project: str, kind: str, name: str | None = None) -> list[dict[str, str]] | None:
    """id, name and displayName of a project's views; None where there is no such project. `kind`: `project-view` or
    `runs`, which is a report."""
    found = ask(_VIEWS, entity=entity, project=project, type=kind, name=name).get("project")
    return None if found is None else [edge["node"] for edge in (found.get("allViews") or {}).get("edges", [])]


@contextlib.contextmanager
def writing(entity: str, project: str, lost: str = NOTHING) -> Iterator[None]:
    """Whatever W&B's packages raise, in one line; `lost`: what has become of the rest."""
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # they also print, whatever they are asked
            yield
    except ConfigError:
        raise
    except Exception as error:  # of many classes, some of them private
        said = " ".join(str(error).removeprefix("input: ").split())[:200]
        raise ConfigError(
            f"project={project}: {host()} does not take what entity={entity} writes there ({said}); name a project "
            f"that you may write; {lost}"
        ) from None


def save_views(workspaces: Sequence["Workspace"], entity: str, project: str) -> list[str]:
    """URLs. A view that is there under its name is replaced."""
    import wandb

    with writing(entity, project):
        if views(entity, project, "project-view") is None:
            wandb.Api().create_project(project, entity)
    for done, workspace in enumerate(workspaces):
        lost = f"{done} of {len(workspaces)} views were saved, and the same command replaces them" if done else NOTHING
        with writing(entity, project, lost):
            there = views(entity, project, "project-view", workspace._internal_name) or []
            same = [view["id"] for view in there if view["name"] == workspace._internal_name]
            workspace._internal_id = same[0] if same else ""
            workspace.save()
    return [str(workspace.url) for workspace in workspaces]


def save_report(report: "Report") -> str:
    """Its URL. A report that is there under its title is replaced."""
    with writing(report.entity, report.project, "views and runs were, the report was not"):
        there = views(report.entity, report.project, "runs") or []
        report.id = next((view["id"] for view in there if view["displayName"] == report.title), "")
        report.save()
        return str(report.url)


def offline_runs(result: Result, runs: Path) -> tuple[dict[Path, str], int]:
    """Folders of this sweep's runs that wait for an upload, with the runs' ids; and how many have been uploaded.

    W&B marks what it has sent. A run that is not whole is still being written, or will be written again.
    """
    ids = [*trial_runs(result), result_id(result)]
    found = sorted((folder, own) for own in ids for folder in folders_of(runs / "wandb", own))
    whole = {f: own for f, own in found if f.name.startswith("offline-") and (f / WHOLE).is_file()}
    waiting = {folder: own for folder, own in whole.items() if not is_sent(folder)}
    return waiting, len(whole) - len(waiting)


def is_sent(folder: Path) -> bool:
    return any(folder.glob("*.wandb.synced"))


def upload(folders: Mapping[Path, str], runs: Path, entity: str, project: str) -> None:
    """`folders`: of runs, with their ids. Raises ConfigError where some did not arrive; those that did are not sent
    again, and their folders say where they are."""
    from wandb import Settings

    command = [sys.executable, "-P", "-m", "wandb", "sync", "--entity", entity, "--project", project]
    places = wandb_places(runs) | {"WANDB_DIR": str(runs)}  # its log would lie in this directory
    environment = worker_environment(os.environ, places)
    done = subprocess.run([*command, *map(str, folders)], capture_output=True, text=True, env=environment)
    for folder, own in folders.items():
        if is_sent(folder):
            place = Settings(base_url=server(), entity=entity, project=project, run_id=own)
            write_atomically(folder / URL, place.run_url)
    left = [folder for folder in folders if not is_sent(folder)]
    if done.returncode or left:
        said = [line for line in (done.stderr + done.stdout).splitlines() if "rror" in line] or ["no reason was given"]
        reason = said[-1].removeprefix("wandb: ").strip()[:200]
        raise ConfigError(
            f"wandb sync: {len(left)} of {len(folders)} runs were not uploaded ({reason}); the views are saved, and "
            "the same command sends the rest"
        )
