"""The notebook runs, from its first cell to its last."""

import json
from pathlib import Path

import matplotlib
import pytest
import torch

from ablations.home import ROOT

NOTEBOOK = ROOT / "docs" / "records.ipynb"


def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With fewer steps, and a cache of the test's own; elsewhere than in the checkout."""
    matplotlib.use("Agg")
    torch.set_num_threads(1)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "__main__"}
    for cell in json.loads(NOTEBOOK.read_text())["cells"]:
        assert cell.get("outputs", []) == [], "outputs are the reader's to make"
        if cell["cell_type"] == "code":
            source = "".join(cell["source"]).replace("STEPS = 60", "STEPS = 3").replace("2_000_000", "400_000")
            exec(compile(source, str(NOTEBOOK), "exec"), names)
    losses = names["losses"]
    assert list(losses.index) == sorted(names["frame"]["seed"].unique())  # type: ignore[attr-defined, index]
    assert 5.0 < names["learned"]("mla") < 7.5  # type: ignore[operator]
