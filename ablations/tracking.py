"""Where a trial's numbers go while it trains: our own JSONL, which is the truth, and Weights & Biases, its mirror."""

import json
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

from models.files import write_atomically

log = logging.getLogger(__name__)


class StepLog:
    """`steps.jsonl`: one line per optimizer step, flushed per line. A resumed trial cuts it back to its checkpoint."""

    def __init__(self, path: Path, keep_steps: int = 0) -> None:
        rows = [row for row in read_steps(path) if row["step"] <= keep_steps] if keep_steps else []
        if len(rows) != keep_steps:
            raise ValueError(f"{path} lacks steps that the checkpoint has")
        self.rows: list[dict[str, Any]] = rows
        write_atomically(path, "".join(json.dumps(row) + "\n" for row in rows))
        self._file: IO[str] = path.open("a")

    def add(self, row: dict[str, Any]) -> None:
        self.rows.append(row)
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def read_steps(path: Path) -> list[dict[str, Any]]:
    """Whole lines of a step log; a line that a kill cut short is left out."""
    rows = []
    for line in path.read_text().splitlines() if path.is_file() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


class Mirror:
    """A W&B run through Lightning's WandbLogger. Whatever fails in it is noted once, and the trial goes on without."""

    def __init__(self, open_run: Callable[[], Any] | None) -> None:
        self._logger: Any = None
        if open_run is not None:
            self._try(lambda: setattr(self, "_logger", open_run()))

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        if self._logger is not None:
            self._try(lambda: self._logger.log_metrics(dict(metrics), step=step))

    def summary(self, values: Mapping[str, Any]) -> None:
        if self._logger is not None:
            self._try(lambda: self._logger.experiment.summary.update(dict(values)))

    def table(self, name: str, columns: list[str], rows: list[list[Any]]) -> None:
        if self._logger is not None:
            self._try(lambda: self._logger.log_table(name, columns=columns, data=rows))

    def finish(self, exit_code: int = 0) -> None:
        if self._logger is not None:
            self._try(lambda: self._logger.experiment.finish(exit_code=exit_code))
            self._logger = None

    def _try(self, act: Callable[[], Any]) -> None:
        try:
            act()
        except Exception as error:  # a tracker must never fail a trial, whatever it raises
            self._logger = None
            log.warning("Weights & Biases is left out from here on: %s: %s", type(error).__name__, error)


def open_mirror(
    track: Mapping[str, Any], folder: Path, labels: Mapping[str, Any], config: Mapping[str, Any], run_id: str
) -> Mirror:
    """The mirror of one trial (`labels`: sweep, scale, arm, seed, phase), or one that does nothing.

    Group = sweep, job_type = arm. Offline runs are under `folder`/wandb; `wandb sync` sends them.
    """
    mode = resolve_mode(track["mode"])
    if mode == "disabled":
        return Mirror(None)

    def open_run() -> Any:
        import wandb
        from lightning.pytorch.loggers import WandbLogger

        settings = wandb.Settings(
            silent=True,
            console="off",
            x_disable_stats=True,
            x_disable_meta=True,
            disable_git=True,
            disable_code=True,
            x_disable_machine_info=True,
            init_timeout=20,
        )
        folder.mkdir(parents=True, exist_ok=True)
        logger = WandbLogger(
            name=f"{labels['arm']}-s{labels['seed']}",
            id=run_id,
            save_dir=str(folder),
            offline=mode == "offline",
            project=track["project"],
            entity=track["entity"],
            group=labels["sweep"],
            job_type=labels["arm"],
            tags=[str(labels[key]) for key in ("scale", "phase")],
            config={**config, **labels},
            settings=settings,
            reinit="create_new",
        )
        _ = logger.experiment  # starts the run now, so that a failure shows here
        return logger

    return Mirror(open_run)


def resolve_mode(mode: str) -> str:
    """`auto`: online with a login, else offline; `disabled` where wandb is not installed."""
    import importlib.util

    if mode == "disabled" or importlib.util.find_spec("wandb") is None:
        return "disabled"
    if mode != "auto":
        return mode
    if os.environ.get("WANDB_MODE") in ("offline", "disabled", "online"):
        return os.environ["WANDB_MODE"]
    import netrc

    if os.environ.get("WANDB_API_KEY"):
        return "online"
    try:
        return "online" if netrc.netrc().authenticators("api.wandb.ai") else "offline"
    except (OSError, netrc.NetrcParseError):
        return "offline"
