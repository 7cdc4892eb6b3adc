"""A trial as a run of Weights & Biases: the mirror of our own step log and record, which are the truth.

A run holds what these say, and nothing else but how fast it went: while the trial trains it is fed from them; it can be
written from them later as well. Its test numbers stand under `test/`; under `paired/` stands what the trial differs by
from the baseline's of the same seed.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ablations.judge.result import score_values
from ablations.metrics import METRICS
from ablations.record.record import Record, read_record
from models.base.files import write_atomically
from models.post_training.config import OF_ANSWERS

log = logging.getLogger(__name__)

POINTS = 200
"""Steps of a trial that its run shows, at most about."""
WHOLE = "whole"
"""The file that marks a run's folder when everything is in it; it says PAIRED where the differences are, too."""
PAIRED = "paired"
URL = "url"
"""The file in a run's folder that says where it is, of one that is on a server."""


def close_folder(run: Any, said: str = "") -> None:
    """Mark a finished run's folder as whole, and say in it where the run is, where a server has it."""
    folder = Path(run.dir).parent
    if not folder.name.startswith("offline-"):
        write_atomically(folder / URL, run.url or "")
    write_atomically(folder / WHOLE, said)


class Mirror:
    """A trial as a W&B run. Whatever fails in it is passed to `failed`, once, and the trial goes on without.

    open_run: opens it (None: there is none). steps: of the whole training. against: where the record lies, or will lie,
    of the baseline's trial of the same seed.
    """

    def __init__(
        self,
        open_run: Callable[[], Any] | None,
        steps: int = 1,
        failed: Callable[[str], None] = log.warning,
        against: Path | None = None,
    ) -> None:
        self._run: Any = None
        self._every, self._steps, self._failed = max(1, steps // POINTS), steps, failed
        self._against = against
        self._before: tuple[float, float] | None = None
        """Clock and tokens of the step that was logged last, as it happened."""
        if open_run is not None:
            self._try(lambda: setattr(self, "_run", open_run()))

    @property
    def is_open(self) -> bool:
        return self._run is not None

    def replay(self, rows: Sequence[Mapping[str, Any]], validation: Mapping[str, Sequence[float]]) -> None:
        """What a step log and a record's validation hold, in order."""
        self._try(lambda: self._replay(rows, validation))

    def _replay(self, rows: Sequence[Mapping[str, Any]], validation: Mapping[str, Sequence[float]]) -> None:
        columns = (validation.get(name, []) for name in ("step", "tokens", "loss", "max_vio_global"))
        found = {int(step): (tokens, loss, vio) for step, tokens, loss, vio in zip(*columns, strict=True)}
        for row in rows:
            self._step(row)
            if row["step"] in found:
                self.validation(row["step"], *found[row["step"]])

    def step(self, row: Mapping[str, Any]) -> None:
        """A row of the step log, as it happens."""
        now, before = time.monotonic(), self._before
        speed = {}
        if self._shows(row["step"]):
            if before is not None and now > before[0]:
                speed["train/tokens_per_second"] = (row["tokens"] - before[1]) / (now - before[0])
            self._before = (now, row["tokens"])
        self._step(row, speed)

    def _step(self, row: Mapping[str, Any], speed: Mapping[str, float] | None = None) -> None:
        if self._shows(row["step"]):
            layers = enumerate(row.get("max_vio_layers", []), start=1)
            norm = {"train/gradient_norm": row["gradient_norm"]} if row.get("gradient_norm") is not None else {}
            values = {
                "tokens": row["tokens"],
                "train/policy_loss" if "reward" in row else "train/loss": row["loss"],
                "train/aux_loss": row["aux_loss"],
                "train/max_vio_batch": row["max_vio"],
                "train/lr": row["lr"],
                **norm,
                **{f"train/{name}": row[name] for name in (*OF_ANSWERS, "distil_loss") if name in row},
                **(speed or {}),
                **{f"train/max_vio_batch_layer{i}": value for i, value in layers},
            }
            self._log(values, row["step"])

    def _shows(self, step: int) -> bool:
        return step % self._every == 0 or step == self._steps

    def validation(self, step: int, tokens: float, loss: float, max_vio: float) -> None:
        self._log({"tokens": tokens, "validation/loss": loss, "validation/max_vio_global": max_vio}, step)

    def finish(self, record: Record | None) -> None:
        """End the run with what the record says; None: the trial failed, or was stopped."""
        paired = list[bool]()
        if record is not None:
            self._try(lambda: paired.append(self._pair(record)))
        if self._run is not None and record is not None:
            self._try(lambda: self._run.summary.update(_summary(record)))
        if self._run is not None:
            self._try(lambda: self._run.finish(exit_code=0 if record and record.status == "complete" else 1))
        if self._run is not None and record is not None:
            self._try(lambda: close_folder(self._run, PAIRED if any(paired) else ""))
        self._run = None

    def _pair(self, record: Record) -> bool:
        """The differences to the baseline's trial of the same seed, where that has ended: what verdicts are about, so
        that means and spreads over seeds show it. Its curves come after all others, at their own tokens."""
        if self._run is None or self._against is None or not self._against.is_file():
            return False
        rival = read_record(self._against)
        if rival.status == "complete" and record.status == "complete":
            rows = [
                {"tokens": tokens, f"paired/{name}_loss": difference}
                for name in ("train", "validation")
                for tokens, difference in _differences(_curves(record, name), _curves(rival, name))
            ]
            for step, row in enumerate(rows, start=self._steps + 1):
                self._log(row, step)
            ours, theirs = _numbers(record), _numbers(rival)
            found = {f"paired/test/{name}": ours[name] - theirs[name] for name in ours if name in theirs}
            self._try(lambda: self._run.summary.update(found))
        return True

    def _log(self, values: dict[str, float], step: int) -> None:
        if self._run is not None:
            self._try(lambda: self._run.log(values, step=step))

    def _try(self, act: Callable[[], Any]) -> None:
        try:
            act()
        except Exception as error:  # a tracker must never fail a trial, whatever it raises
            self._run = None
            self._failed(" ".join(f"{type(error).__name__}: {error}".split())[:200])


def _curves(record: Record, name: str) -> dict[str, list[float]]:
    return record.text_history if name == "train" else record.validation


def _differences(one: Mapping[str, Sequence[float]], other: Mapping[str, Sequence[float]]) -> list[tuple[float, float]]:
    """(tokens, difference in loss) wherever both have a point."""
    ours, theirs = (dict(zip(side.get("tokens", []), side.get("loss", []), strict=True)) for side in (one, other))
    return [(tokens, loss - theirs[tokens]) for tokens, loss in ours.items() if tokens in theirs]


def _numbers(record: Record) -> dict[str, float]:
    """Metrics and `task/metric` scores."""
    return {**record.metrics, **score_values(record)}


def _summary(record: Record) -> dict[str, Any]:
    reason = {"reason": record.reason} if record.reason else {}
    loads = {
        f"test/load_{name}_layer{i}": of(layer)
        for i, layer in enumerate(record.load, start=1)
        for name, of in (("largest", max), ("smallest", min))
    }
    scored = {f"test/{name}": value for name, value in _numbers(record).items()}
    return {"status": record.status, **reason, **scored, **loads, **record.timings}


def goals() -> dict[str, str]:
    """`test/NAME` -> minimize or maximize, for whoever sorts runs: W&B keeps no goals of metrics any more."""
    words = {"lower": "minimize", "higher": "maximize"}
    return {f"test/{m.name}": words[m.better] for m in METRICS if m.better is not None and m.index is None}


def define_metrics(run: Any) -> None:
    """Tokens are the axis of every curve, since a step is another amount of text in another arm."""
    run.define_metric("tokens", hidden=True)
    for group in ("train", "validation", "paired"):
        run.define_metric(f"{group}/*", step_metric="tokens", step_sync=False)
