"""What the README says of results is what their manifests say."""

import re
from collections import Counter

from ablations.files import read_json
from ablations.home import ROOT

ROW = re.compile(r"^\| `(\w+)` \| .* \| (?:\[(.*)\]\(results/(\w+)/cpu/table\.md\)|(not asked yet)) \|$", re.MULTILINE)


def said_of(sweep: str) -> str:
    """`1 agree, 2 disagree, 3 open`, without those that are none."""
    outcomes = Counter(
        verdict["outcome"] for verdict in read_json(ROOT / f"results/{sweep}/cpu/manifest.json")["verdicts"]
    )
    counts = {"agree": outcomes.pop("agrees", 0), "disagree": outcomes.pop("disagrees", 0), "open": outcomes.total()}
    return ", ".join(f"{count} {word}" for word, count in counts.items() if count)


def test_every_sweep_is_listed_with_how_its_claims_came_out() -> None:
    rows = ROW.findall((ROOT / "README.md").read_text())
    assert {row[0] for row in rows} == {path.stem for path in (ROOT / "sweeps").glob("*.yaml")}
    for sweep, counts, place, nothing in rows:
        if (ROOT / f"results/{sweep}/cpu").is_dir():
            assert (counts, place) == (said_of(sweep), sweep), f"{sweep}: README.md must say {said_of(sweep)}"
        else:
            assert nothing, f"{sweep} has no result"
