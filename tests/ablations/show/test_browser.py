"""Pages in a browser: they fetch nothing and fail nowhere, tables sort, arms hide, the index filters, a phone fits.

One Chromium opens all pages, each in a frame of one harness; browser.js uses them there and says what it saw.
"""

import csv
import dataclasses
import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from ablations.home import ROOT
from ablations.judge.gather import load_result
from ablations.show.figures.every import draw_figures
from ablations.show.page import page_html
from ablations.show.stylesheet import SCRIPT

NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next((path for path in map(shutil.which, NAMES) if path), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason=f"none of {', '.join(NAMES)} is here")

PUBLISHED = ROOT / "results" / "attention" / "cpu"
PICTURES = ("differences", "loss", "max_vio", "frontier", "load", "timelines")
"""In the order in which the odd page has them."""
ODD = "<script>alert(1)</script>"
WIDTHS = {"page": 1280, "phone": 390, "sizes": 600, "published": 390, "index": 1280, "index_phone": 390}
LISTEN = """<script>
window.failures = [];
addEventListener("error", event => failures.push(event.message));
addEventListener("unhandledrejection", event => failures.push(String(event.reason)));
console.error = console.warn = window.alert = (...said) => failures.push(said.join(" "));
</script>"""
MINUS = "\N{MINUS SIGN}"
CELLS = ["1.43M", "-", "832k", f"{MINUS}2e-5", "<0.001", "+0.5", f"[{MINUS}0.2, +0.3]", "\N{PLUS-MINUS SIGN}0.01", "12"]
ASCENDING = [6, 3, 4, 7, 5, 8, 2, 0, 1]
"""Places of `CELLS` by value, what is absent last."""
DESCENDING = [*reversed(ASCENDING[:-1]), 1]

Seen = dict[str, Any]


def sizes() -> str:
    rows = "".join(f"<tr><td>{html.escape(cell)}</td></tr>" for cell in CELLS)
    head = '<thead><tr><th aria-sort="none">size</th></tr></thead>'
    return f"<head></head><table>{head}<tbody>{rows}</tbody></table><script>{SCRIPT}</script>"


@pytest.fixture(scope="module")
def odd_page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Of a result one of whose arms has markup for a name."""
    import conftest

    runs = tmp_path_factory.mktemp("odd")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(conftest.ARMS, ODD, conftest.ARMS["batch_aux_loss"])
        arms, long = ("aux_loss", "bias", ODD, "control", "aa"), {"arm": ODD, "kind": "better", "margin": 0.0025}
        claims = [claim for claim in conftest.EXPECTED if {claim["arm"], claim.get("against", "bias")} <= {*arms}]
        conftest.write_run(runs, seeds=3, arms=arms, expected=[*claims, long], diverged=(("bias", 2),))
        patch.setattr("ablations.record.documents.NAME", re.compile(".*"))  # it would be refused where it is read,
        patch.setattr("models.base.typed.Fits.broken", lambda *_: None)  # and so would its trials' ids
        result = load_result(runs, "moe_balance", "cpu")
    pictures = draw_figures(result)
    pictures.append(dataclasses.replace(pictures[1], name=PICTURES[-1], narrow=None))  # as one that has no narrow form
    assert {picture.name for picture in pictures} == set(PICTURES)
    return page_html(result, pictures, [f"echo {ODD}"])


@pytest.fixture(scope="module")
def seen(odd_page: str, tmp_path_factory: pytest.TempPathFactory) -> Seen:
    published, index = ((ROOT / "results" / at).read_text() for at in ("attention/cpu/page.html", "index.html"))
    pages = dict(zip(WIDTHS, [odd_page, odd_page, sizes(), published, index, index], strict=True))
    frames = "".join(
        f'<iframe id="{name}" width="{WIDTHS[name]}" height="900" '
        f'srcdoc="{html.escape(text.replace("<head>", f"<head>{LISTEN}", 1))}"></iframe>'
        for name, text in pages.items()
    )
    script = (Path(__file__).parent / "browser.js").read_text()
    scratch = tmp_path_factory.mktemp("browser")
    harness = scratch / "harness.html"
    harness.write_text(f'<!doctype html><meta charset="utf-8"><body>{frames}<script>{script}</script>')
    command = [
        str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP * ~NOTFOUND",
        f"--user-data-dir={scratch}", "--virtual-time-budget=5000", "--dump-dom", harness.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    answer = re.search(r"<pre>(.*)</pre>", done.stdout, re.DOTALL)
    assert answer, done.stderr[-2000:]
    found: Seen = json.loads(html.unescape(answer[1]))
    return found


@pytest.mark.parametrize("name", WIDTHS)
def test_nothing_fails_and_nothing_is_fetched(seen: Seen, name: str) -> None:
    assert seen[name]["failures"] == []
    assert [place for place in seen[name]["fetched"] if "index" not in name or not place.endswith(".svg")] == []


@pytest.mark.parametrize("name", WIDTHS)
def test_nothing_but_tables_and_figures_is_wider_than_the_window(seen: Seen, name: str) -> None:
    assert seen[name]["overflow"] == [] and seen[name]["scrolls"] <= 0


def test_a_phone_shows_each_picture_whole_or_says_that_there_is_more(seen: Seen) -> None:
    phone, page = seen["phone"]["layout"]["pictures"], seen["page"]["layout"]["pictures"]
    assert len(phone) == len(page) == len(PICTURES), "one form of each"
    for picture, name in zip(phone, PICTURES, strict=True):
        assert picture["hinted"] == (name == "timelines")
        assert picture["left"] >= 0 and (picture["right"] > WIDTHS["phone"]) == picture["hinted"]
    assert not any(picture["hinted"] for picture in page)


def test_the_first_picture_stands_within_a_phones_first_screens(seen: Seen) -> None:
    assert seen["phone"]["layout"]["pictures"][0]["top"] <= 1250


def test_pictures_are_as_broad_as_the_column(seen: Seen) -> None:
    layout = seen["page"]["layout"]
    assert layout["column"] > 1100
    assert all(picture["width"] >= 0.98 * layout["column"] for picture in layout["pictures"])


def test_a_claim_has_one_line_and_on_a_phone_at_most_two(seen: Seen) -> None:
    page, phone = (seen[name]["layout"]["claims"] for name in ("page", "phone"))
    assert len(page) == len(phone) >= 3
    assert max(page) < 2 and max(phone) < 3, "in lines, padding included"


def test_tables_sort_by_value_and_back(seen: Seen) -> None:
    (column,) = seen["sizes"]["sorting"]
    assert column["seen"] == [CELLS, [CELLS[i] for i in ASCENDING], [CELLS[i] for i in DESCENDING], CELLS]


def test_every_column_sorts(seen: Seen) -> None:
    columns = seen["page"]["sorting"]
    assert {"arm", "loss", "difference", "95 % interval", "guard"} <= {column["head"] for column in columns}
    for column in columns:
        stood, up, down, back = column["seen"]
        assert sorted(stood) == sorted(up) == sorted(down) and back == stood
        given = [cell for cell in up if cell != "-"]
        assert up[len(given) :] == down[len(given) :], "what is absent stays last"
        if column["head"] in ("arm", "guard"):
            assert up == sorted(stood) and down == up[::-1]
        if column["head"] in ("loss", "difference"):
            assert list(map(number, given)) == sorted(map(number, given))


def number(cell: str) -> float:
    return float(cell.replace(MINUS, "-"))


def test_an_arm_that_is_switched_off_is_drawn_nowhere(seen: Seen) -> None:
    boxes = seen["page"]["hiding"]
    assert {box["label"] for box in boxes} == {"aux_loss", "bias", ODD, "control", "aa"}
    for box in boxes:
        own = box["arm"]
        for arm, before in box["before"].items():
            hidden, shown = box["hidden"][arm], box["shown"][arm]
            assert shown == before and before["rows"] and set(before["rows"]) == {1}
            if arm == own:
                assert any(before["drawn"]) and not any(hidden["drawn"]) and max(hidden["rows"]) < 1
            elif arm == "aux_loss":  # with which all are compared, so that a row of differences is not its own
                assert hidden == before
    (bias,) = (box for box in boxes if box["label"] == "bias")
    assert all(bias["before"]["bias"]["drawn"]), "in every figure"


def test_a_seeds_point_says_its_value_to_a_pointer_beside_it(seen: Seen) -> None:
    found = seen["page"]["hovering"]
    assert {f"bias, seed {seed}" for seed in (0, 1)} <= {title.partition(":")[0] for title, _ in found}
    assert all(hit.partition(", seed ")[0] == title.partition(", seed ")[0] for title, hit in found), "or a neighbour's"


def test_markup_in_a_name_is_text(seen: Seen) -> None:
    page = seen["page"]
    assert page["scripts"] == 2, "the page's own and the harness's"
    assert ODD in [row[0] for row in page["tables"]["Loss"]]


COLUMNS = {
    "Loss": {
        "loss": "loss", "difference": "loss_difference_mean", "Holm p": "loss_difference_p_holm",
        "bits per byte": "bits_per_byte", "correlation": "loss_difference_correlation",
    },
    "Balance": {"MaxVio_global": "max_vio_global", "difference": "max_vio_global_difference_mean"},
}  # fmt: skip


def test_a_published_pages_numbers_are_those_of_its_csv(seen: Seen) -> None:
    stored = {row["arm"]: row for row in csv.DictReader((PUBLISHED / "table.csv").open())}
    for title, columns in COLUMNS.items():
        head, *rows = seen["published"]["tables"][title]
        assert [row[0] for row in rows] != [] and {row[0] for row in rows} == set(stored)
        for row in rows:
            of_row, interval = stored[row[0]], row[head.index("95 % interval")]
            for column, key in columns.items():
                assert agree(row[head.index(column)], of_row[key]), (title, row[0], column)
            metric = "loss" if title == "Loss" else "max_vio_global"
            ends = re.findall(r"[^][, ]+", interval) if interval != "-" else ["-", "-"]
            for end, key in zip(ends, ("low", "high"), strict=True):
                assert agree(end, of_row[f"{metric}_difference_{key}"]), (title, row[0], interval)


def agree(cell: str, stored: str) -> bool:
    """Whether a cell is what is stored, rounded to its own digits."""
    if cell == "-" or not stored:
        return (cell == "-") == (not stored)
    if cell.startswith("<"):
        return float(stored) < float(cell[1:])
    digits = len(cell.partition(".")[2])
    exact = "e" in cell or abs(number(cell) - float(stored)) <= 0.5001 * 10**-digits
    return exact and ("e" not in cell or abs(number(cell) / float(stored) - 1) < 0.5)


@pytest.mark.parametrize("name", ["index", "index_phone"])
def test_the_index_filters(seen: Seen, name: str) -> None:
    found = seen[name]["filtering"]
    every = found["all"]
    assert len(every) >= 10 and found["again"] == found["every"] == [every, str(len(every))]
    assert found["none"] == [[], "0"]
    assert "attention" in found["mla"][0] and len(found["mla"][0]) < len(every)
    assert sorted(found["open"][0] + found["settled"][0]) == sorted(every) and found["settled"][0]
