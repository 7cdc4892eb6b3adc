"""The report command: files, publishing, refusals, and a page that stands alone."""

import dataclasses
import hashlib
import html
import json
import re
import shutil
import subprocess
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from ablations.files import read_json, write_json
from ablations.judge.gather import load_published
from ablations.record.documents import STATE, PlanDocument, SweepState
from ablations.report import PUBLISHED, asked, main, publish, write_report
from ablations.show.page import FILES
from ablations.show.provenance import commands, commit
from models.base.typed import ConfigError


@pytest.fixture(scope="module")
def published(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return publish(finished_run, "moe_balance", "cpu", tmp_path_factory.mktemp("results"))


@pytest.fixture(scope="module")
def page(published: Path) -> str:
    return (published / "page.html").read_text()


def test_published_folder_is_whole(published: Path) -> None:
    names = {path.name for path in published.iterdir()}
    assert names == set(PUBLISHED) == {
        "table.md", "table.csv", "timings.csv", "page.html", "figures", "plan.json", "state.json", "records",
        "summary.json", "records.parquet", "manifest.json",
    }  # fmt: skip
    assert len(list((published / "records").iterdir())) == 36
    assert {path.suffix for path in (published / "figures").iterdir()} == {".svg", ".png"}
    assert [path.name for path in published.parent.iterdir()] == ["cpu"]


def test_manifest_hashes_every_file(published: Path) -> None:
    manifest = read_json(published / "manifest.json")
    files = {str(p.relative_to(published)) for p in published.rglob("*") if p.is_file()} - {"manifest.json"}
    assert set(manifest["files"]) == files
    for name, digest in manifest["files"].items():
        assert hashlib.sha256((published / name).read_bytes()).hexdigest() == digest
    assert manifest["partial"] is False and manifest["trials"]["complete"] == 36
    assert manifest["chosen"]["bias"]["model.moe.balance.update_speed"] == 0.01
    assert manifest["plan_sha256"] == hashlib.sha256((published / "plan.json").read_bytes()).hexdigest()


def test_a_published_result_reads_back(published: Path, finished_run: Path) -> None:
    from ablations.show.render import table_csv

    assert table_csv(load_published(published)) == (published / "table.csv").read_text()


@pytest.mark.usefixtures("without_figures")
def test_incomplete_is_refused_and_partial_is_not(sweep_run: Any, tmp_path: Path) -> None:
    sweep_run(tmp_path / "runs", seeds=2, missing=(("bias", 0), ("none", 1)))
    with pytest.raises(ConfigError, match=r"2 of 12 trials .* publish=partial"):
        publish(tmp_path / "runs", "moe_balance", "cpu", tmp_path / "results")
    assert not (tmp_path / "results").exists()
    target = publish(tmp_path / "runs", "moe_balance", "cpu", tmp_path / "results", partial=True)
    manifest = read_json(target / "manifest.json")
    assert manifest["partial"] is True and manifest["trials"]["missing"] == 2
    assert len(list((target / "records").iterdir())) == 10
    assert "2 of 12 trials are missing" in (target / "page.html").read_text()


@pytest.mark.usefixtures("without_figures")
@pytest.mark.parametrize("partial", [False, True])
def test_what_other_code_trained_is_not_published_under_this_commit(
    sweep_run: Any, tmp_path: Path, partial: bool
) -> None:
    folder = sweep_run(tmp_path / "runs", seeds=2)
    write_json(folder / "plan.json", read_json(folder / "plan.json") | {"code": "d" * 64})
    with pytest.raises(ConfigError, match=r"publish=(true|partial): .* another code \(dddddddd\) .* publish=again"):
        publish(tmp_path / "runs", "moe_balance", "cpu", tmp_path / "results", partial)
    assert not (tmp_path / "results").exists()


@pytest.mark.usefixtures("without_figures")
def test_publishing_keeps_records_that_only_results_has(sweep_run: Any, tmp_path: Path) -> None:
    folder = sweep_run(tmp_path / "runs", seeds=2)
    target = publish(tmp_path / "runs", "moe_balance", "cpu", tmp_path / "results")
    before = (target / "table.csv").read_bytes()
    trial = SweepState.read(folder).confirm[3]
    (tmp_path / "runs" / "trials" / trial.id / "record.json").unlink()
    publish(tmp_path / "runs", "moe_balance", "cpu", tmp_path / "results")
    assert (target / "table.csv").read_bytes() == before and (target / "records" / f"{trial.id}.json").is_file()


@pytest.mark.usefixtures("without_figures")
def test_publishing_again_renders_and_keeps_where_it_came_from(
    sweep_run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep_run(tmp_path / "runs", seeds=2)
    (tmp_path / "runs/moe_balance/cpu/optuna.journal").write_text("of a search\n")
    target = publish(tmp_path / "runs", "moe_balance", "cpu", tmp_path / "results")
    assert (target / "optuna.journal").read_text() == "of a search\n"
    whole = {p.relative_to(target): p.read_bytes() for p in target.rglob("*") if p.is_file()}
    manifest = read_json(target / "manifest.json")
    write_json(target / "manifest.json", manifest | {"commit": "0" * 40, "versions": {"torch": "of then"}})
    (target / "table.md").write_text("older words")
    words = ["sweep=moe_balance", "publish=again", f"results_dir={tmp_path / 'results'}", f"runs_dir={tmp_path / 'no'}"]
    assert main(words) == 0 and str(target / "table.md") in capsys.readouterr().out
    again = read_json(target / "manifest.json")
    assert again["commit"] == "0" * 40 and again["versions"] == {"torch": "of then"}
    assert again["rendered"]["commit"] == manifest["commit"] and again["files"] == manifest["files"]
    now = {p.relative_to(target): p.read_bytes() for p in target.rglob("*") if p.is_file()}
    assert {name for name in whole if now.get(name) != whole[name]} == {
        Path("manifest.json")
    } and now.keys() == whole.keys()
    assert main(["sweep=packing", "publish=again", f"results_dir={tmp_path / 'results'}"]) == 2
    assert "holds no plan.json, so it is no published result" in capsys.readouterr().err


@pytest.mark.usefixtures("without_figures")
def test_what_is_not_as_it_was_published_is_not_rendered_anew(
    sweep_run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its new manifest would call an edited number whole."""
    sweep_run(tmp_path / "runs", seeds=2)
    target = publish(tmp_path / "runs", "moe_balance", "cpu", tmp_path / "results")
    words = ["sweep=moe_balance", "publish=again", f"results_dir={tmp_path / 'results'}"]
    record, whole = sorted((target / "records").iterdir())[0], (target / "manifest.json").read_bytes()
    kept = record.read_bytes()
    for edit, told in (
        (lambda: record.write_bytes(kept.replace(b'"loss":', b'"loss": 1', 1)), "changed: records/"),
        (record.unlink, "missing: records/"),
        (lambda: (target / "plan.json").write_bytes((target / "plan.json").read_bytes() + b" "), "plan.json"),
    ):
        edit()
        assert main(words) == 2
        line = capsys.readouterr().err
        assert line.count("\n") == 1 and told in line and "not rendered anew" in line
        assert (target / "manifest.json").read_bytes() == whole
        record.write_bytes(kept)


@pytest.mark.usefixtures("without_figures")
def test_report_without_publish_stays_in_the_run(
    sweep_run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = sweep_run(tmp_path / "runs", seeds=2)
    code = main(["sweep=moe_balance", f"runs_dir={tmp_path / 'runs'}", f"results_dir={tmp_path / 'results'}"])
    printed = capsys.readouterr().out
    assert code == 0 and not (tmp_path / "results").exists()
    for name in ("table.md", "table.csv", "timings.csv", "page.html"):
        assert (folder / name).is_file() and str(folder / name) in printed
    assert "bias against aux_loss" in printed


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["sweep=else"], "python -m ablations.run sweep=else scale=cpu"),
        (["sweeps=moe_balance"], "did you mean sweep?"),
        (["sweep=moe_balance", "publish=partly"], "did you mean partial?"),
        (["publish"], "expected publish=VALUE"),
        ([], "name the sweep"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str], finished_run: Path
) -> None:
    assert main([*arguments, f"runs_dir={finished_run}"]) == 2
    captured = capsys.readouterr()
    assert words in captured.err and captured.err.count("\n") == 1 and not captured.out


def test_publish_is_spelled_either_way() -> None:
    assert asked(["sweep=a", "publish=True"]).publish == "true"


@pytest.mark.usefixtures("without_figures")
def test_the_true_command_and_the_sweeps_file_are_published(sweep_run: Any, tmp_path: Path) -> None:
    folder = sweep_run(tmp_path / "runs", seeds=2)
    command = "python -m ablations.run sweep=moe_balance scale=cpu search=fresh 'arms=[bias]' optim.lr=0.003"
    text = "question: is a < b & c?\n"
    dataclasses.replace(PlanDocument.read(folder), command=command, sweep_file=text).write(folder)
    target = publish(tmp_path / "runs", "moe_balance", "cpu", tmp_path / "results")
    manifest, page = read_json(target / "manifest.json"), (target / "page.html").read_text()
    assert (manifest["commands"][0], manifest["sweep_file"]) == (command, text)
    assert html.escape(command) in page and html.escape(text) in page and "moe_balance.yaml" in page


@pytest.mark.usefixtures("without_figures")
def test_a_run_of_another_plan_is_named_reported_and_published_beside(
    sweep_run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    usual = sweep_run(tmp_path / "runs", seeds=2)
    publish(tmp_path / "runs", "moe_balance", "cpu", tmp_path / "results")
    shutil.move(usual, usual.with_name("cpu@1f3a9c2e"))
    sweep_run(tmp_path / "runs", seeds=3)
    words = ["sweep=moe_balance", f"runs_dir={tmp_path / 'runs'}", f"results_dir={tmp_path / 'results'}"]
    assert main([*words, "run=cpu@1f3a9c2e"]) == 0
    out = capsys.readouterr().out
    assert str(usual.with_name("cpu@1f3a9c2e") / "table.md") in out and "of other plans: run=cpu\n" in out
    assert main(words) == 0 and "of other plans: run=cpu@1f3a9c2e\n" in capsys.readouterr().out
    whole = (tmp_path / "results/moe_balance/cpu/table.csv").read_bytes()
    assert main([*words, "run=cpu@1f3a9c2e", "publish=true"]) == 0
    captured = capsys.readouterr()
    assert (tmp_path / "results/moe_balance/cpu@1f3a9c2e/table.csv").read_bytes() == whole
    assert "replaces" not in captured.err
    assert main([*words, "publish=true"]) == 0
    said = f"{tmp_path}/results/moe_balance/cpu: replaces what was published of another plan (seeds)\n"
    assert said in capsys.readouterr().err, "asked for, and said"


@pytest.mark.parametrize("run", ["..", "a/b", ".hidden", ""])
def test_a_run_is_a_folder_of_its_sweep(run: str) -> None:
    with pytest.raises(ConfigError, match="^run="):
        asked(["sweep=moe_balance", f"run={run}"])


def test_what_is_damaged_is_one_line(sweep_run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = sweep_run(tmp_path / "runs", seeds=2)
    for name, content in (("plan.json", "[]"), ("plan.json", '{"format": 9}'), (STATE, "{")):
        whole = (folder / name).read_bytes()
        (folder / name).write_text(content)
        assert main(["sweep=moe_balance", f"runs_dir={tmp_path / 'runs'}"]) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"error: {folder / name}: ") and error.count("\n") == 1
        (folder / name).write_bytes(whole)


# --- the commit

GIT = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-c", "init.defaultBranch=main"]


def repository(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "file").write_text("a")
    for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "a"]):
        subprocess.run([*GIT, *words], cwd=folder, check=True)
    return folder.resolve()


def test_the_commit_of_a_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ablations.show.provenance.ROOT", repository(tmp_path / "checkout"))
    clean = commit()
    assert clean.commit and re.fullmatch("[0-9a-f]{40}", clean.commit)
    assert (clean.dirty, clean.commit_unknown) == (False, None)
    (tmp_path / "checkout/other").write_text("b")
    assert commit() == dataclasses.replace(clean, dirty=True)


def unknown(case: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    match case:
        case "foreign owner":
            root = repository(folder)
            monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
            return root
        case "no commit yet":
            folder.mkdir()
            subprocess.run([*GIT, "init", "-q"], cwd=folder, check=True)
        case "inside another's":
            (repository(folder) / "unpacked").mkdir()
            return folder.resolve() / "unpacked"
        case "no repository":
            folder.mkdir()
            monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(folder.parent.resolve()))
        case "no git":
            folder.mkdir()
            monkeypatch.setenv("PATH", str(folder))
    return folder.resolve()


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("foreign owner", "detected dubious ownership"),
        ("no commit yet", "fatal: "),
        ("inside another's", "is no repository of its own, but lies in that of"),
        ("no repository", "not a git repository"),
        ("no git", "there is no git here"),
    ],
)
def test_an_unknown_commit_has_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str, words: str) -> None:
    monkeypatch.setattr("ablations.show.provenance.ROOT", unknown(case, tmp_path / "checkout", monkeypatch))
    found = commit()
    assert (found.commit, found.dirty) == (None, None) and words in (found.commit_unknown or "")
    assert "\n" not in (found.commit_unknown or "")


@pytest.mark.usefixtures("without_figures")
def test_an_unknown_commit_is_said_and_stays_unknown(
    sweep_run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep_run(tmp_path / "runs", seeds=2)
    monkeypatch.setattr("ablations.show.provenance.ROOT", unknown("no repository", tmp_path / "checkout", monkeypatch))
    why = commit().commit_unknown
    given = ["sweep=moe_balance", f"runs_dir={tmp_path / 'runs'}", f"results_dir={tmp_path / 'results'}"]
    assert main([*given, "publish=true"]) == 0
    path = tmp_path / "results/moe_balance/cpu/manifest.json"
    assert capsys.readouterr().err == f"warning: {path} has no commit: {why}\n"
    manifest = read_json(path)
    assert (manifest["commit"], manifest["dirty"], manifest["commit_unknown"]) == (None, None, why)
    monkeypatch.undo()
    monkeypatch.setattr("ablations.show.figures.every.draw_figures", lambda result: [])
    assert main([*given, "publish=again"]) == 0
    again = read_json(path)
    assert again["commit"] is None and again["commit_unknown"] == why, "what it was made from stays unknown"
    assert again["rendered"]["commit"]


def test_reproduction_names_search_arms_and_seeds(published: Path) -> None:
    run = commands(load_published(published))[0]
    assert run.startswith("python -m ablations.run sweep=moe_balance scale=cpu search=fresh")
    assert "'seeds=[0,1,2,3,4,5]'" in run and "none" in run and "control" not in run
    result = load_published(published)
    again = "python -m ablations.reproduce results/moe_balance/cpu tables_only=true"
    assert again in (published / "page.html").read_text()
    assert read_json(published / "manifest.json")["commands"][-1] == again, "whose plan holds no sweep's file"
    held = dataclasses.replace(result, plan=dataclasses.replace(result.plan, sweep_file="question: ..."))
    assert commands(held, published=True)[-1] == "python -m ablations.reproduce results/moe_balance/cpu"
    assert "reproduce" not in " ".join(commands(result)), "it is not in results/ yet"


def test_the_report_of_another_plan_names_its_run(published: Path) -> None:
    result = load_published(published)
    assert commands(result)[1] == "python -m ablations.report sweep=moe_balance scale=cpu"
    other = dataclasses.replace(result, run="cpu@1f3a9c2e")
    assert commands(other)[1] == "python -m ablations.report sweep=moe_balance run=cpu@1f3a9c2e"


class Page(HTMLParser):
    """Collects ids, external references and the order of the texts; notices tags that do not close."""

    VOID = frozenset({"meta", "input", "br", "link", "img", "hr"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        """What a browser fetches, or looks for in the page."""
        self.leads: list[str] = []
        """Where a reader may go."""
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        for key, value in attrs:
            if key == "id":
                self.ids.append(value or "")
            if key in ("src", "href", "xlink:href"):
                (self.leads if tag == "a" else self.links).append(value or "")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag


def test_page_stands_alone(page: str) -> None:
    parsed = Page()
    parsed.feed(page)
    assert not parsed.open and not {"link", "iframe"} & parsed.tags and page.count("<script") == 1
    assert all(link.startswith(("#", "data:")) for link in parsed.links)
    elsewhere = {lead for lead in parsed.leads if not lead.startswith("#")}
    beside = {*FILES, "../../index.html", "../../index.html#moe_balance/cpu"}
    assert {lead for lead in elsewhere if "//" not in lead} == beside
    assert all(re.fullmatch(r"https://arxiv.org/abs/\d{4}\.\d{5}", lead) for lead in elsewhere - beside)
    assert {lead[1:] for lead in parsed.leads if lead.startswith("#")} <= set(parsed.ids)
    assert not re.search(r"@import|url\((?!#)", page)
    assert len(parsed.ids) == len(set(parsed.ids))
    assert {link[1:] for link in parsed.links if link.startswith("#")} <= set(parsed.ids)
    assert set(re.findall(r"url\(#([^)]+)\)", page)) <= set(parsed.ids)


def test_page_puts_the_question_and_verdicts_first(page: str) -> None:
    heads = (f">{title}</h2>" for title in ("Verdicts", "Loss", "Guards", "How to reproduce"))
    places = [page.index("<h1>Does auxiliary"), *map(page.index, heads)]
    assert places[1] < page.index("<nav>") < places[2]
    assert places == sorted(places)
    assert hashlib.sha256(b"").hexdigest() not in page and re.search(r"SHA-256 [0-9a-f]{64}", page)
    assert "prefers-color-scheme: dark" in page


def test_figures_follow_the_pages_colours(page: str) -> None:
    body = page[page.index("<body>") :]
    assert "<figure>" in body and "<image" not in body, "a raster's colours would be fixed"
    assert "#0072b2" not in body.lower() and "#1b1f24" not in body.lower()
    for svg in re.findall(r"<svg.*?</svg>", body, flags=re.DOTALL):
        ET.fromstring(svg)
        assert not re.search(r' (fill|stroke)="var', svg)


@pytest.mark.usefixtures("without_figures")
def test_page_escapes_text(sweep_run: Any, tmp_path: Path) -> None:
    folder = sweep_run(tmp_path / "runs", seeds=2)
    dataclasses.replace(PlanDocument.read(folder), question="Is <b> & <script>alert(1)</script>?").write(folder)
    write_report(tmp_path / "runs", "moe_balance", "cpu", tmp_path / "results")
    page = (folder / "page.html").read_text()
    assert "<script>alert" not in page and page.count("<script") == 1


def test_a_sweep_of_dense_models_reports_no_balance(sweep_run: Any, tmp_path: Path) -> None:
    """As `ablations.trial.train` records them: no MaxVio, no load, and a history whose max_vio is 0."""
    loss = {"arm": "none", "metric": "loss", "kind": "better", "paper": "nobody"}
    sweep_run(tmp_path, seeds=3, expected=[loss], searched=False)
    for path in (tmp_path / "trials").glob("*/record.json"):
        record = read_json(path)
        record["metrics"] = {name: record["metrics"][name] for name in ("loss", "bits_per_byte")}
        record["load"], record["history"]["max_vio"] = [], [0.0] * len(record["history"]["step"])
        record["validation"]["max_vio_global"] = [0.0] * len(record["validation"]["step"])
        path.write_text(json.dumps(record))
    result = write_report(tmp_path, "moe_balance", "cpu")
    folder = tmp_path / "moe_balance" / "cpu"
    assert {path.stem for path in (folder / "figures").glob("*.svg")} & {"loss", "max_vio", "load", "frontier"} == {
        "loss"
    }
    assert {verdict.metric for verdict in result.verdicts} == {"loss"}
    page = (folder / "page.html").read_text()
    assert "markers are the validation set" in page, "the figure of the losses"
    for words in ("routing entropy", "all tokens on the same experts", "Balance by MoE layer"):
        assert words not in page
