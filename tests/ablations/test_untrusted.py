"""A published result from a stranger: whatever it says, it is shown as text, and it leads nowhere."""

import json
import re
import shutil
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ablations import commits, compare, report, reproduce
from ablations.eval import main as eval_main
from ablations.frames import load
from ablations.judge.gather import load_published
from ablations.record.audit import audit
from ablations.record.documents import PLAN, STATE
from ablations.record.manifest import MANIFEST, hashes
from ablations.record.summary import SUMMARY
from ablations.report import publish, publish_again, write_index, write_pages
from models.base.typed import ConfigError
from models.checkpoint import load_checkpoint, save_checkpoint
from models.config import ModelConfig
from models.convert import from_hf
from models.published import hf_config
from models.transformer import Transformer

HOSTILE = '"><script>alert(1)</script>\x1b[31m|[a](javascript:x)`$\\frac{\n## x\u202e'
"""A tag, a script's link, a column, a heading, a formula that matplotlib cannot set, a terminal's colour, and a turn of
the direction of reading."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, finished_run: Path) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ablations.show.figures.every.draw_figures", lambda result: [])
        return publish(finished_run, "moe_balance", "cpu", tmp_path_factory.mktemp("results"))


@pytest.fixture
def result(made: Path, tmp_path: Path) -> Path:
    """A copy of the test's own, as results/moe_balance/cpu."""
    return Path(shutil.copytree(made, tmp_path / "results" / "moe_balance" / "cpu"))


def write(folder: Path, name: str, value: Any) -> None:
    """With the hash that an honest manifest would have."""
    (folder / name).write_text(json.dumps(value))
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps(manifest | {"files": hashes(folder)}))


def a_record(folder: Path) -> Path:
    return sorted((folder / "records").glob("*.json"))[0]


def said_in(folder: Path) -> None:
    """Texts of every kind that a result holds, and that its pages, tables and lists show."""
    plan, state, summary = (json.loads((folder / name).read_text()) for name in (PLAN, STATE, SUMMARY))
    texts = ("question", "source", "decision_rule", "code", "data", "sweep_file", "note")
    for arm in plan["arms"].values():
        arm |= {"about": HOSTILE, "set": arm["set"] | {HOSTILE: HOSTILE}}
    for claim in plan["expected"]:
        claim |= {"says": HOSTILE, "paper": HOSTILE}
    write(folder, PLAN, plan | dict.fromkeys(texts, HOSTILE))
    for results in state["guards"].values():
        results[0] |= {"passed": False, "detail": HOSTILE, "name": HOSTILE}
    for point in state["chosen"].values():
        point[HOSTILE] = 1.0
    write(folder, STATE, state | {"deviations": [HOSTILE]})
    shown = ("sweep", "scale", "run", "question", "answer", "note", "picture")
    write(folder, SUMMARY, summary | dict.fromkeys(shown, HOSTILE))
    for i, path in enumerate(sorted((folder / "records").glob("*.json"))):
        record = json.loads(path.read_text())
        record["environment"] |= {HOSTILE: HOSTILE, "torch": HOSTILE}
        record["scores"][HOSTILE] = {"acc": 0.5, "n": 3}
        record |= {"reason": HOSTILE, "status": "failed" if i == 0 else record["status"]}
        path.write_text(json.dumps(record))


def test_texts_are_shown_and_never_obeyed(
    result: Path,
    tmp_path: Path,
    without_figures: None,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said_in(result)
    found = load_published(result)
    write_pages(found, tmp_path / "fresh", published=True)
    report.print_result(found)
    monkeypatch.setattr(compare, "check_whole", lambda folder, so: None)  # whoever writes such texts hashes them, too
    assert compare.main([str(result), str(result)]) == 0
    write_index(tmp_path / "results")
    pages = [(tmp_path / name).read_text() for name in ("fresh/page.html", "results/index.html")]
    for page in pages:
        assert "<script>alert" not in page and "&lt;script&gt;alert" in page and 'href="javascript' not in page
    table = (tmp_path / "fresh" / "table.md").read_text()
    assert "&lt;script>alert" in table and "<script" not in table and "](javascript" not in table
    assert "\n## x" not in table and all("|" in line for line in table.splitlines() if line.startswith("| "))
    out = capsys.readouterr().out
    everything = [
        *pages,
        table,
        out,
        *((tmp_path / "fresh" / name).read_text() for name in ("table.csv", "summary.json")),
    ]
    assert r"\x1b[31m" in out and not any(sign in text for text in everything for sign in ("\x1b", "\u202e"))


def test_a_frame_holds_no_text_that_a_terminal_obeys(result: Path) -> None:
    said_in(result)
    write(result, SUMMARY, {})  # or the sweep's name would be its own
    frame = load(result, everything=True)
    texts = [str(part) for part in (*frame.columns, *frame.to_numpy().ravel())]
    assert any(r"\x1b[31m" in text for text in texts) and not any("\x1b" in text for text in texts)


def test_a_figure_takes_any_text(result: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """matplotlib reads formulas between dollars, and fails at those that it cannot set. (A phone's form is the same
    figure once more.)"""
    from ablations.show.figures.every import draw_figures

    monkeypatch.setattr("ablations.show.figures.every._with_narrow", lambda picture, result: picture)
    said_in(result)
    for picture in draw_figures(load_published(result)):
        assert b"<script>alert" not in picture.svg


RUN = "python -m ablations.run"
ELSEWHERE: dict[str, tuple[str, Callable[[dict[str, Any]], Any], str]] = {
    "a record's id": (STATE, lambda s: s["confirm"][0].update(id="../../secret"), "confirm[0].id=../../secret"),
    "a search's id": (STATE, lambda s: s["search"][0].update(id="/etc/passwd"), "search[0].id=/etc/passwd"),
    "the sweep": (PLAN, lambda p: p.update(sweep="../elsewhere"), "sweep=../elsewhere: must be a plain name"),
    "the scale": (PLAN, lambda p: p.update(scale="/tmp"), "scale=/tmp: must be a plain name"),
    "an arm": (PLAN, lambda p: p["arms"].update({"../up": p["arms"]["bias"]}), "../up: a name has only letters"),
    "a command": (PLAN, lambda p: p.update(command="rm -rf ~"), "command=rm -rf ~: no command of ablations.run"),
    "half a command": (PLAN, lambda p: p.update(command=f"{RUN} 'a"), "no command of ablations.run"),
    "an estimate": (PLAN, lambda p: p.update(contrasts={"$\\frac": {}}), "a name has only letters"),
}


@pytest.mark.parametrize("what", ELSEWHERE)
def test_no_name_leads_out_of_the_folder(what: str, result: Path) -> None:
    name, change, said = ELSEWHERE[what]
    (result.parent / "secret.json").write_text(a_record(result).read_text())
    content = json.loads((result / name).read_text())
    change(content)
    write(result, name, content)
    with pytest.raises(ConfigError) as caught:
        load_published(result)
    assert said in str(caught.value) and "\n" not in str(caught.value)
    assert any(finding.what == name and finding.kind == "unreadable" for finding in audit(result))


def each_arm(**keys: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda plan: [arm.update(keys) for arm in plan["arms"].values()]


UNRECKONABLE: dict[str, tuple[str, Callable[[dict[str, Any]], Any], str]] = {
    "no tokens": (PLAN, each_arm(tokens=0), "tokens=0: must be at least 1"),
    "no parameters": (PLAN, each_arm(active_params=0), "active_params=0: must be at least 1"),
    "no work": (PLAN, each_arm(flops_per_token=0.0), "flops_per_token=0.0: must be above 0"),
    "no seeds": (PLAN, lambda p: p.update(seeds=[]), "seeds: must not be empty"),
    "a share beyond the end": (PLAN, lambda p: p.update(horizons=[1e308]), "horizons[0]=1e+308: must be below 1"),
    "a look before the start": (PLAN, lambda p: p.update(looks=[0]), "looks[0]=0: must be at least 1"),
    "looks that go back": (PLAN, lambda p: p.update(looks=[2, 1]), "looks=[2, 1]: must ascend"),
    "a look at too many": (PLAN, lambda p: p.update(looks=[1, 999]), "looks=[1, 999]: must ascend, to at most"),
    "another look": (STATE, lambda s: s.update(looked=3), "looked=3: plan.json looks after all seeds"),
    "a sum of nothing": (PLAN, lambda p: p.update(contrasts={"c": {}}), "contrasts.c.weights: must not be empty"),
    "an arm on itself": (PLAN, lambda p: p["arms"]["bias"].update(onto="bias"), "onto=bias: an arm adds to another"),
    "no speed": (STATE, lambda s: s.update(speed={"bias": {"tokens_per_second": 0.0}}), "tokens_per_second=0.0: must"),
    "no share": (STATE, lambda s: s["confirm"][0].update(share=0.0), "confirm[0].share=0.0: must be above 0"),
}


@pytest.mark.parametrize("what", UNRECKONABLE)
def test_what_cannot_be_reckoned_with_is_one_line(what: str, result: Path) -> None:
    name, change, said = UNRECKONABLE[what]
    content = json.loads((result / name).read_text())
    change(content)
    write(result, name, content)
    with pytest.raises(ConfigError) as caught:
        load_published(result)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_what_is_not_chosen_is_on_no_edge(result: Path, tmp_path: Path) -> None:
    state = json.loads((result / STATE).read_text())
    write(result, STATE, state | {"chosen": {name: {} for name in state["chosen"]}})
    write_pages(load_published(result), tmp_path / "fresh", published=True)


def test_a_file_of_any_size_is_hashed_in_pieces(result: Path) -> None:
    before = hashes(result)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "read_bytes", lambda path: pytest.fail(f"{path} is read as a whole"))
        assert hashes(result) == before


def test_stages_are_a_list(result: Path) -> None:
    record = json.loads(a_record(result).read_text())
    record["config"]["before"] = None
    write(result, f"records/{a_record(result).name}", record)
    with pytest.raises(ConfigError, match="config.before: must be a list of stages"):
        load(result, everything=True)


def test_a_command_is_words_and_no_shells(result: Path, tmp_path: Path) -> None:
    """Readers type what a page shows."""
    plan = json.loads((result / PLAN).read_text())
    write(result, PLAN, plan | {"command": f"{RUN} sweep=x; touch EXECUTED $(touch EXECUTED) && touch EXECUTED #"})
    shown = load_published(result).plan.command.replace("python -m ablations.run", "true")
    subprocess.run(["sh", "-c", shown], cwd=tmp_path, check=True)
    assert shown.startswith("true 'sweep=x;' touch EXECUTED '$(touch'") and not (tmp_path / "EXECUTED").exists()


def test_a_link_is_no_file_of_a_result(result: Path, tmp_path: Path) -> None:
    """Publishing it again would publish what it leads to."""
    path = a_record(result)
    secret = tmp_path / "secret.json"
    shutil.move(path, secret)
    path.symlink_to(secret)
    (result / "more").symlink_to(tmp_path)
    kinds = {(finding.kind, finding.what) for finding in audit(result)}
    assert {("unknown", "more"), ("unknown", f"records/{path.name}"), ("missing", f"records/{path.name}")} <= kinds
    with pytest.raises(ConfigError, match="more: a link, and what it leads to is not of this result; remove it"):
        publish_again("moe_balance", "cpu", tmp_path / "results")
    with pytest.raises(ConfigError, match="missing since it was published"):
        load(result)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["results", "secret.json"]


@pytest.mark.parametrize("name", ["javascript:alert(1)", "data:text", 'a"onclick="x', "a?b#c"])
def test_a_folder_is_a_place_and_no_script(name: str, result: Path, tmp_path: Path) -> None:
    result.parent.rename(tmp_path / "results" / name)
    write_index(tmp_path / "results")
    links = re.findall(r'(?:href|src)="([^"]*)"', (tmp_path / "results" / "index.html").read_text())
    assert links and all(re.fullmatch(r"[\w%/@.~-]+", link) for link in links)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[" * 100_000, "nested too deeply"),
        ('{"sweep": NaN}', "NaN is no number of JSON"),
        ('{"sweep": -Infinity}', "-Infinity is no number of JSON"),
        ("9" * 5000, "a whole number of 5,000 digits"),
        ('{"sweep": [1e999]}', "1e999 is larger than any number here"),
        ('"' + "x" * 2000 + '"', "2,002 bytes; at most 1,000"),
        ("\ud800".encode("utf-8", "surrogatepass"), "utf-8"),
    ],
    ids=["deep", "nan", "infinity", "digits", "beyond", "large", "surrogate"],
)
def test_json_of_any_kind_is_one_line(
    content: str | bytes, said: str, result: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if "at most" in said:
        monkeypatch.setattr("models.base.reading.MOST_BYTES", 1000)
    (result / MANIFEST).write_bytes(content.encode() if isinstance(content, str) else content)
    for main, words in ((reproduce.main, [str(result)]), (eval_main, [f"checkpoint={checkpoint(result, MANIFEST)}"])):
        assert main(words) == 2
        out, err = capsys.readouterr()
        assert out == "" and err.count("\n") == 1 and said in err


def checkpoint(folder: Path, config: str) -> Path:
    """A folder whose config.json is a file of `folder`."""
    made = folder.parent / "checkpoint"
    made.mkdir()
    shutil.copyfile(folder / config, made / "config.json")
    for name in ("model.safetensors", "tokenizer.json"):
        (made / name).write_text("{}")
    return made


def test_a_config_of_any_size_takes_no_memory(tmp_path: Path, tiny_checkpoint: Path) -> None:
    """Ten million wide would be terabytes, before a weight is looked at."""
    saved = json.loads((tiny_checkpoint / "config.json").read_text())
    saved["model"] |= {"d_model": 10_000_000, "n_layers": 10_000}
    (tiny_checkpoint / "config.json").write_text(json.dumps(saved))
    with pytest.raises(ConfigError, match=r"do not fit \(config.json describes [\d,]{15,} parameters"):
        load_checkpoint(tiny_checkpoint)
    values = hf_config(ModelConfig(dtype="float32")) | {"hidden_size": 10_000_000}
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "config.json").write_text(json.dumps(values))
    shutil.copyfile(tiny_checkpoint / "model.safetensors", tmp_path / "hf" / "model.safetensors")
    with pytest.raises(ConfigError, match=r"config.json: describes [\d,]{9,} parameters, and the safetensors"):
        from_hf(tmp_path / "hf", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.fixture
def tiny_checkpoint(tmp_path: Path) -> Path:
    config = ModelConfig(vocab_size=300, d_model=16, n_layers=1, feed_forward="dense", dtype="float32")
    save_checkpoint(tmp_path / "checkpoint", Transformer(config))
    return tmp_path / "checkpoint"


def git(*words: str) -> str:
    own = ["git", "-c", "user.name=a", "-c", "user.email=a@b", *words]
    return subprocess.run(own, capture_output=True, text=True, check=True).stdout.strip()


def test_a_commit_that_was_only_fetched_is_not_run(
    result: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A clone has commits of others, such as of a pull request; and a commit can bring hooks."""
    house, hook = tmp_path / "house", tmp_path / "house" / "hooks" / "post-checkout"
    git("init", "-q", str(house))
    hook.parent.mkdir()
    hook.write_text(f"#!/bin/sh\ntouch {tmp_path}/EXECUTED\n")
    hook.chmod(0o755)
    git("-C", str(house), "add", ".")
    for message in ("ours", "a stranger's"):
        git("-C", str(house), "commit", "-q", "--allow-empty", "-m", message)
    stranger = git("-C", str(house), "rev-parse", "HEAD")
    git("-C", str(house), "reset", "-q", "--hard", "HEAD^")
    ours = git("-C", str(house), "rev-parse", "HEAD")
    git("-C", str(house), "config", "core.hooksPath", "hooks")
    for module in (reproduce, commits):
        monkeypatch.setattr(module, "ROOT", house)
    plan = json.loads((result / PLAN).read_text())
    write(result, PLAN, plan | {"sweep_file": "question: x", "code": "c" * 64})
    for commit, said in ((stranger, "which is not in the history of this checkout"), (ours, "has no such command yet")):
        for words, wanted in (([], said), (["trust=true"], "has no such command yet")):
            manifest = json.loads((result / MANIFEST).read_text())
            (result / MANIFEST).write_text(json.dumps(manifest | {"commit": commit}))
            assert reproduce.main([str(result), "anyway=true", *words]) == 2
            assert wanted in "".join(capsys.readouterr())
    assert not (tmp_path / "EXECUTED").exists()


def test_an_archive_leads_nowhere_and_ends_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in").mkdir()

    def archive(method: int, *names: str) -> bytes:
        with zipfile.ZipFile(tmp_path / "in" / "a.zip", "w", method) as made:
            for name in names:
                made.writestr(name, "{}" * 100)
        return (tmp_path / "in" / "a.zip").read_bytes()

    packed = bytearray(archive(zipfile.ZIP_LZMA, "plan.json"))
    packed[45:52] = b"\xff" * 7
    for content, said in (
        (archive(zipfile.ZIP_STORED, "../../plan.json", "/tmp/manifest.json", "../EXECUTED"), "holds no manifest.json"),
        (archive(zipfile.ZIP_STORED, "é/plan.json").replace("é".encode(), b"\xff\xfe"), "cannot be unpacked"),
        (bytes(packed), "cannot be unpacked"),
    ):
        (tmp_path / "in" / "a.zip").write_bytes(content)
        assert reproduce.main([str(tmp_path / "in" / "a.zip")]) == 2
        err = capsys.readouterr().err
        assert said in err and err.count("\n") == 1
        assert [p.name for p in tmp_path.rglob("*")] == ["in", "a.zip"]
