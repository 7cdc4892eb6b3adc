"""index.html and the list of sweeps: what was asked, what was answered, and how far."""

import dataclasses
import html.parser
import re
from pathlib import Path
from typing import Any

import pytest

from ablations import run
from ablations.config.sweepfile import sweep_files
from ablations.files import read_json
from ablations.home import ROOT
from ablations.judge.gather import load_result
from ablations.record.documents import PLAN, PlanDocument
from ablations.record.summary import SUMMARY, Summary, summaries
from ablations.report import INDEX, main
from ablations.show.answer import answer
from ablations.show.index import index_html, summary_of
from ablations.sweep.listing import listing

SHORT = Summary("a_sweep", "cpu", "cpu", "Is it so?", "It is.", {"agrees": 2, "not resolved": 1}, 8, 12, 12)


def test_a_summary_says_what_the_result_does(finished_run: Path) -> None:
    result = load_result(finished_run, "moe_balance", "cpu")
    found = summary_of(result, ["differences", "loss"])
    outcomes = [verdict.outcome for verdict in result.verdicts]
    assert (found.answer, found.picture) == (answer(result), "figures/differences.svg")
    assert found.claims == 4 and all(count == outcomes.count(outcome) for outcome, count in found.outcomes.items())
    assert summary_of(result, []).picture is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "2 of 3 claims settled, 8 seeds"),
        ({"trials": 7}, "2 of 3 claims settled, 8 seeds, 7 of 12 trials"),
        ({"outcomes": {}}, "no claims, 8 seeds"),
        ({"outcomes": {"void": 1, "disagrees": 1, "no signal here": 1}}, "1 of 3 claims settled, 8 seeds"),
        ({"outcomes": {"depends on the length": 1}}, "1 of 1 claims settled, 8 seeds"),
    ],
)
def test_what_is_settled(changes: dict[str, Any], said: str) -> None:
    assert dataclasses.replace(SHORT, **changes).state == said


def put(root: Path, **changes: Any) -> None:
    one = dataclasses.replace(SHORT, **changes)
    one.write(root / one.sweep / one.run)


def test_what_cannot_be_read_is_left_out(tmp_path: Path) -> None:
    put(tmp_path)
    put(tmp_path, sweep="b_sweep")
    put(tmp_path, sweep="c_sweep")
    (tmp_path / "b_sweep" / "cpu" / SUMMARY).write_text("{")
    (tmp_path / "c_sweep" / "cpu" / SUMMARY).write_text('{"sweep": "c", "format": 2}')
    assert [found.sweep for _, found in summaries(tmp_path)] == ["a_sweep"]


class Page(html.parser.HTMLParser):
    """Links, sources and the text of an index."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.places, self.tags, self.words = list[str](), list[str](), list[str]()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.places += [value for name, value in attrs if name in ("href", "src") and value]

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_an_index_links_what_is_there_and_nothing_elsewhere(tmp_path: Path) -> None:
    put(tmp_path, picture="figures/loss.svg")
    put(tmp_path, run="cpu@12345678", scale="cpu", outcomes={"not resolved": 2})
    page = Page(index_html(tmp_path))
    assert page.tags.count("article") == 2
    folders = {place.rpartition("/")[0] for place in page.places}
    assert folders == {"a_sweep/cpu", "a_sweep/cpu/figures", "a_sweep/cpu@12345678"}
    assert not [place for place in page.places if re.match(r"\w+:|//", place)]
    words = "".join(page.words)
    assert "Is it so?" in words and "2 of 5 claims settled" in words


def test_questions_that_nobody_has_asked_are_listed(tmp_path: Path) -> None:
    put(tmp_path, sweep="gating")
    text = index_html(tmp_path)
    told = set(re.findall(r"<code>python -m ablations.run sweep=(\w+)</code>", text))
    assert told == sweep_files(None).keys() - {"gating"} and "Not asked here yet" in text


def test_text_stays_text(tmp_path: Path) -> None:
    put(tmp_path, question="<script>alert(1)</script>", answer='"a" & <b>, -0.01')
    text = index_html(tmp_path)
    assert "<script>alert" not in text and "&quot;a&quot; &amp; &lt;b&gt;, \N{MINUS SIGN}0.01" in text
    assert Page(text).tags.count("script") == 1


def test_a_note_of_the_scale_stands_apart_from_the_answer(tmp_path: Path) -> None:
    put(tmp_path, scale="smoke", answer="It is. Numbers mean nothing.", note="Numbers mean nothing.")
    assert '<p>It is.</p><p class="warning">Numbers mean nothing.</p>' in index_html(tmp_path)


@pytest.mark.usefixtures("without_figures")
def test_reporting_and_publishing_keep_the_lists(sweep_run: Any, tmp_path: Path, capsys: Any) -> None:
    runs, results = tmp_path / "runs", tmp_path / "results"
    sweep_run(runs, seeds=2)
    words = ["sweep=moe_balance", f"runs_dir={runs}", f"results_dir={results}"]
    for own, root in (([], runs), (["publish=true"], results), (["publish=again"], results)):
        (root / INDEX).unlink(missing_ok=True)
        assert main([*words, *own]) == 0
        assert "moe_balance/cpu/page.html" in (root / INDEX).read_text()


def test_the_published_lists_are_of_what_is_published() -> None:
    """`python -m ablations.report publish=again` makes them anew."""
    found = dict(summaries(ROOT / "results"))
    assert set(found) == {path.parent for path in (ROOT / "results").glob(f"*/*/{PLAN}")}
    assert all(PlanDocument.read(folder).question == summary.question for folder, summary in found.items())
    assert (ROOT / "results" / INDEX).read_text() == index_html(ROOT / "results")


def test_a_page_leads_to_its_place_in_the_list_and_to_the_sweeps_file() -> None:
    """Which is made from the page's own folder, and which the list has."""
    index = (ROOT / "results" / INDEX).read_text()
    pages = sorted((ROOT / "results").glob("*/*/page.html"))
    for path in pages:
        text = path.read_text()
        name = path.parent.relative_to(ROOT / "results").as_posix()
        places = Page(text).places
        assert f"../../index.html#{name}" in places and index.count(f'<article id="{name}"') == 1
        assert [place for place in places if place.startswith("#") and f'id="{place[1:]}"' not in text] == []
        assert ("#sweep-file" in places) == bool(read_json(path.parent / PLAN).get("sweep_file"))
    assert pages


def test_a_list_of_sweeps_has_minutes_and_the_nearest_answers(tmp_path: Path) -> None:
    put(tmp_path / "results", sweep="gating", seeds=4)
    put(tmp_path / "results", sweep="gating", run="cpu_long", scale="cpu_long")
    put(tmp_path / "runs", sweep="gating", seeds=16)
    found = {one.sweep: one for one in listing(tmp_path / "runs", tmp_path / "results")}
    assert list(found) == list(sweep_files(None)) and all(one.minutes > 1 for one in found.values())
    assert [(summary.run, summary.seeds) for summary in found["gating"].answers] == [("cpu", 16), ("cpu_long", 8)]
    assert found["attention"].answers == []


def test_run_without_a_word_lists_the_sweeps(capsys: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run.main([]) == 0
    out, err = capsys.readouterr()
    assert err == "" and all(name in out for name in sweep_files(None))
    assert "claims settled" in out and "--help" in out and list(tmp_path.iterdir()) == []


def test_a_summary_of_no_claim_that_counts_ends_no_list(tmp_path: Path) -> None:
    put(tmp_path, outcomes={"agrees": 0})
    assert "0 of 0 claims settled" in index_html(tmp_path)
