"""A stand-in for a W&B server, on the loopback address: the GraphQL and file calls that our commands make.

It keeps projects, views, runs and files, and forgets them with its end. Operations that it does not know are refused,
as by a server of another version, so that a new call is seen.
"""

import contextlib
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

KEY = "0" * 40
ENTITY = "team"
TELEMETRY = "/sdk/otel/"


@dataclass
class Refusal:
    """How it answers an operation that it refuses: the HTTP status, and GraphQL's message."""

    status: int
    message: str


@dataclass
class Double:
    """The server. `projects` may be written unless an operation is in `refused`."""

    projects: set[str] = field(default_factory=set)
    views: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By id."""
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By id: what `UpsertBucket` said last of it, and its `history`, a row for each line."""
    files: dict[str, bytes] = field(default_factory=dict)
    """By the path that they were put to."""
    artifacts: list[dict[str, Any]] = field(default_factory=list)
    operations: list[str] = field(default_factory=list)
    """The names of GraphQL operations, in order."""
    refused: dict[str, Refusal] = field(default_factory=dict)
    url: str = ""

    def __enter__(self) -> "Double":
        double = self

        class Handler(_Handler):
            server_state = double

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: Any) -> None:
                """A client that has gone is none."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, operation: str, given: dict[str, Any]) -> dict[str, Any]:
        """Raises KeyError for an operation that is not known."""
        return {
            "Viewer": self._viewer,
            "ArtifactType": lambda _: {"project": {"artifact": None}},
            "Views": self._views,
            "ServerFeaturesQuery": lambda _: {"serverInfo": {"features": []}},
            "CreateProject": self._project,
            "UpsertView2": self._view,
            "upsertView": self._view,
            "ProjectInternalId": self._project_id,
            "GetProjects": self._projects,
            "RunResumeStatus": self._resume,
            "UpsertBucket": self._run,
            "CreateRunFiles": self._run_files,
            "CreateArtifact": self._artifact,
            "CreateArtifactManifest": self._manifest,
            "CreateArtifactFiles": self._artifact_files,
            "CommitArtifact": lambda _: {"commitArtifact": {"artifact": {"id": "a", "digest": "d"}}},
        }[operation](given)

    def _viewer(self, _: Any) -> dict[str, Any]:
        teams: dict[str, Any] = {"edges": []}
        viewer = {"id": "u", "username": "me", "entity": ENTITY, "name": "Me", "email": "", "admin": False}
        return {"viewer": {**viewer, "flags": "{}", "teams": teams, "apiKeys": {"edges": []}}}

    def _views(self, given: dict[str, Any]) -> dict[str, Any]:
        found = [
            {"node": {"id": id, "name": view["name"], "displayName": view["displayName"]}}
            for id, view in self.views.items()
            if view["type"] == given["type"] and given["name"] in (None, view["name"])
        ]
        return {"project": {"id": "p", "allViews": {"edges": found}} if given["project"] in self.projects else None}

    def _project(self, given: dict[str, Any]) -> dict[str, Any]:
        self.projects.add(given["input"]["name"])
        return {"result": {"project": None, "model": None, "inserted": True}}

    def _projects(self, _: Any) -> dict[str, Any]:
        known = {"__typename": "Project", "createdAt": "2026-01-01T00:00:00", "isBenchmark": False, "user": None}
        nodes = [{"node": {"id": "p", "name": name, "entityName": ENTITY, **known}} for name in sorted(self.projects)]
        page = {"__typename": "PageInfo", "endCursor": None, "hasNextPage": False}
        return {"models": {"edges": nodes, "pageInfo": page}}

    def _project_id(self, given: dict[str, Any]) -> dict[str, Any]:
        known = given["projectName"] in self.projects
        return {"project": {"id": "p", "internalId": "cA=="} if known else None}

    def _view(self, given: dict[str, Any]) -> dict[str, Any]:
        id = given.get("id") or f"view{len(self.views)}"
        inserted = id not in self.views
        self.views[id] = given
        project = {"id": "p", "name": given["projectName"], "entityName": given["entityName"]}
        shown = {name: given.get(name) for name in ("type", "name", "displayName", "description", "spec")}
        view = {"id": id, **shown, "project": project, "updatedAt": "2026-01-01T00:00:00"}
        return {"upsertView": {"view": view, "inserted": inserted}}

    def _resume(self, given: dict[str, Any]) -> dict[str, Any]:
        return {"model": {"id": "p", "name": given["project"], "entity": {"id": "e", "name": ENTITY}, "bucket": None}}

    def _run(self, given: dict[str, Any]) -> dict[str, Any]:
        said = {name: value for name, value in given.items() if value is not None}
        run = self.runs.setdefault(given["name"], {"history": []})
        run |= said
        project = {"id": "p", "name": given["project"], "entity": {"id": "e", "name": ENTITY}}
        empty = {"description": None, "config": None, "sweepName": None, "historyLineCount": 0}
        bucket = {"id": given["name"], "name": given["name"], "displayName": run.get("displayName"), **empty}
        return {"upsertBucket": {"bucket": {**bucket, "project": project}, "inserted": True}}

    def _run_files(self, given: dict[str, Any]) -> dict[str, Any]:
        files = [{"name": name, "uploadUrl": f"{self.url}/put/{given['run']}/{name}"} for name in given["files"]]
        return {"createRunFiles": {"runID": given["run"], "uploadHeaders": [], "files": files}}

    def _artifact(self, given: dict[str, Any]) -> dict[str, Any]:
        self.artifacts.append(given["input"])
        found = {"id": "a", "state": "PENDING", "artifactSequence": {"latestArtifact": None}}
        return {"createArtifact": {"artifact": found}}

    def _manifest(self, _: Any) -> dict[str, Any]:
        file = {"id": "f", "uploadUrl": f"{self.url}/put/manifest{len(self.artifacts)}.json", "uploadHeaders": []}
        return {"createArtifactManifest": {"artifactManifest": {"id": "m", "file": file}}}

    def _artifact_files(self, given: dict[str, Any]) -> dict[str, Any]:
        nodes = [
            {
                "node": {
                    "storagePath": file["name"],
                    "uploadUrl": f"{self.url}/put/artifact/{file['name']}",
                    "uploadHeaders": [],
                    "uploadMultipartUrls": None,
                    "artifact": {"id": "a"},
                }
            }
            for file in given["input"]["artifactFiles"]
        ]
        return {"createArtifactFiles": {"files": {"edges": nodes}}}


@contextlib.contextmanager
def logged_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[Double]:
    """A server with a project `p`, and a login there."""
    import wandb

    with Double(projects={"p"}) as double:
        monkeypatch.setenv("WANDB_BASE_URL", double.url)
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        wandb.teardown()  # its service remembers another server
        yield double
        wandb.teardown()


class _Handler(BaseHTTPRequestHandler):
    server_state: Double
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None: ...

    def do_POST(self) -> None:
        body = self._body()
        if self.path == "/graphql":
            self._graphql(json.loads(body))
        else:
            if match := re.fullmatch(r"/files/[^/]+/[^/]+/([^/]+)/file_stream", self.path):
                lines = json.loads(body).get("files", {}).get("wandb-history.jsonl", {}).get("content", [])
                self.server_state.runs[match[1]]["history"] += map(json.loads, lines)
            self._say(200, {})

    def do_PUT(self) -> None:
        self.server_state.files[self.path.removeprefix("/put/")] = self._body()
        self._say(200, {})

    def _graphql(self, asked: dict[str, Any]) -> None:
        double, query = self.server_state, asked["query"]
        match = re.search(r"(?:query|mutation)\s+(\w+)", query)
        operation = match[1] if match else query[:80]
        double.operations.append(operation)
        refusal = double.refused.get(operation)
        if refusal is None:
            try:
                self._say(200, {"data": double.answer(operation, asked.get("variables") or {})})
                return
            except KeyError as error:
                refusal = Refusal(400, f"{operation}: {error} is not known here")
        self._say(refusal.status, {"errors": [{"message": refusal.message}], "data": None})

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = list[bytes]()
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _say(self, status: int, answer: dict[str, Any]) -> None:
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
