"""What is published in results/ is what the code makes of its records, and whole."""

import csv
import functools
import hashlib
import io
import math
from pathlib import Path

import pytest

from ablations.files import read_json
from ablations.home import ROOT
from ablations.judge.constraint import Constraint
from ablations.judge.gather import load_published
from ablations.judge.result import Result
from ablations.record.summary import summaries
from ablations.reproduce import main
from ablations.show.render import table_csv, table_md

PUBLISHED = {"/".join(path.parts[-3:-1]): path.parent for path in sorted((ROOT / "results").glob("*/*/plan.json"))}
"""`moe_balance/cpu_long` -> its folder."""


@functools.cache
def published(name: str) -> Result:
    return load_published(PUBLISHED[name])


@pytest.mark.parametrize("name", PUBLISHED)
def test_tables_are_made_of_the_records(name: str) -> None:
    """To the letter; the numbers of table.csv to nine digits, because sums differ between processors in the last."""
    folder, result = PUBLISHED[name], published(name)
    assert table_md(result) == (folder / "table.md").read_text(), (
        "`python -m ablations.report publish=again` renders it"
    )
    made, stored = (_rows(text) for text in (table_csv(result), (folder / "table.csv").read_text()))
    assert len(made) == len(stored)
    for left, right in zip(made, stored, strict=True):
        assert all(_same(a, b) for a, b in zip(left, right, strict=True)), (left, right)


@pytest.mark.parametrize("name", PUBLISHED)
def test_pages_and_figures_are_made_of_the_records(name: str, tmp_path: Path) -> None:
    """Byte for byte, on any processor."""
    assert main([str(PUBLISHED[name]), "tables_only=true", f"runs_dir={tmp_path}", "progress=none"]) == 0


@pytest.mark.parametrize("name", PUBLISHED)
def test_states_hold_what_is_read_of_them(name: str) -> None:
    """Facts of every guard, and the constrained metric's share of its maximum for each point of a search that had one;
    the maximum follows from sizes, so the confirmation's records have it too."""
    result = published(name)
    assert all(arm.guards and all(guard.facts for guard in arm.guards) for arm in result.arms.values())
    constraint = Constraint.of(result.plan.search_rule)
    for trial in result.search:
        most = result.arms[trial.arm].mean("max_vio_max")
        if constraint is None or most is None:
            assert trial.share is None
        else:
            assert trial.max_vio_global is not None and trial.share == pytest.approx(trial.max_vio_global / most)


def _rows(text: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text)))


def _same(made: str, stored: str) -> bool:
    if made == stored:
        return True
    try:
        return math.isclose(float(made), float(stored), rel_tol=1e-9, abs_tol=1e-12)
    except ValueError:
        return False


@pytest.mark.parametrize("name", PUBLISHED)
def test_manifests_name_every_file_with_its_hash(name: str) -> None:
    folder = PUBLISHED[name]
    files = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    del files["manifest.json"]
    hashes = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()}
    assert hashes == read_json(folder / "manifest.json")["files"]


def test_how_many_claims_are_settled_is_told_as_it_is() -> None:
    results = [found for _, found in summaries(ROOT / "results") if found.run == "cpu"]
    settled, claims = sum(result.settled for result in results), sum(result.claims for result in results)
    told = f"Of {claims} claims at `scale=cpu` {settled} are settled."
    assert told in (ROOT / "results" / "README.md").read_text(encoding="utf-8"), told


@pytest.mark.parametrize(
    ("sweep", "arm"), [("post_training", "base"), ("post_training", "sft"), ("sft_masking", "base"), ("grpo", "sft")]
)
def test_where_stages_began_is_told_as_the_records_have_it(sweep: str, arm: str) -> None:
    values = published(f"{sweep}/cpu").arms[arm].values
    columns = [", ".join(f"{values[name][seed]:.2f}" for seed in sorted(values[name])) for name in ("pass_1", "pass_8")]
    row = f"| `{sweep}` | `{arm}` | {' | '.join(columns)} |"
    assert row in (ROOT / "docs" / "stages.md").read_text(encoding="utf-8").splitlines(), row
