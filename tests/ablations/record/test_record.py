"""A record may be anybody's: what its readers rely on is looked at where it is read."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from ablations.record.record import Needles, Record, read_record
from models.base.typed import ConfigError

WHOLE = Record(
    id="a1",
    seed=0,
    status="complete",
    config={"before": [{"until": 1.0}]},
    history={"step": [1, 2], "loss": [3.0, 2.0]},
    needles=Needles([64, 128], [0.0, 1.0], [[1.0, 2.0]] * 2, [[0.0, 0.0]] * 2),
    answering={"step": [1], "reward": [0.5]},
)


def test_a_whole_record_comes_back(tmp_path: Path) -> None:
    WHOLE.write(tmp_path / "record.json")
    assert read_record(tmp_path / "record.json") == WHOLE


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"config": {"before": 3}}, "config.before: must be a list of stages"),
        ({"config": {"before": [{}]}}, "config.before: must be a list of stages"),
        ({"history": {"step": [1, 2], "loss": [3.0]}}, "history: its columns must be of one length"),
        ({"validation": {"step": [], "loss": [3.0]}}, "validation: its columns must be of one length"),
        ({"answering": {"reward": [0.5]}}, "answering.step: is missing"),
        ({"answering": {"step": []}}, "answering.step: is missing"),
        ({"needles": {"lengths": [64], "depths": [0.0], "nats": [], "margins": [[1.0]]}}, "needles: needs a row"),
        ({"needles": {"lengths": [64], "depths": [0.0], "nats": [[1.0]], "margins": [[]]}}, "needles: needs a row"),
        ({"metrics": {"loss": "low"}}, "metrics.loss=low: expected a number"),
        ({"status": "won"}, "status=won: expected one of"),
        ({"reason": "\x1b[31m", "seed": "\x1b"}, "seed=\\x1b: expected a whole number"),
    ],
)
def test_what_a_reader_could_not_take_is_one_line(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    (tmp_path / "record.json").write_text(json.dumps(dataclasses.asdict(WHOLE) | changes))
    with pytest.raises(ConfigError) as caught:
        read_record(tmp_path / "record.json")
    assert str(caught.value).startswith(f"{tmp_path / 'record.json'}") and said in str(caught.value)
    assert "\n" not in str(caught.value)
