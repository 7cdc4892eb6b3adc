"""The table of recipes is of one scale, and a recipe under which arms diverge has no row."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from ablations.files import read_json, write_json
from ablations.home import ROOT
from ablations.judge.gather import load_result
from benchmarks import noise
from models.base.typed import ConfigError


def test_a_recipe_without_a_spread_is_one_line(sweep_run: Any, tmp_path: Path) -> None:
    sweep_run(tmp_path)
    result = load_result(tmp_path, "moe_balance", "cpu")
    with pytest.raises(ConfigError, match="^recipes=pilot: fewer than two seeds of finer and of the baseline came to"):
        noise.summed_up("pilot", result)


def test_rows_of_another_scale_stay_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = read_json(ROOT / "results/noise/noise.json")
    write_json(tmp_path / "noise.json", rows)
    row = noise.Noise(**{**rows[0], "recipe": "pilot"})
    monkeypatch.setattr(noise, "measured", lambda recipe, asked: dataclasses.replace(row, scale=asked.scale))
    with pytest.raises(ConfigError, match="its table is of scale=cpu, not of smoke; name another folder"):
        noise.main([f"out={tmp_path}", "recipes=[pilot]", "scale=smoke"])
    assert read_json(tmp_path / "noise.json") == rows
    assert noise.main([f"out={tmp_path / 'smoke'}", "recipes=[pilot]", "scale=smoke"]) == 0
    assert "`scale=cpu` takes" not in (tmp_path / "smoke/table.md").read_text()
    assert noise.main([f"out={tmp_path}", "recipes=[pilot]"]) == 0
    assert "`scale=cpu` takes" in (tmp_path / "table.md").read_text()
