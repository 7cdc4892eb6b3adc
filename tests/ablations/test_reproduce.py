"""A published result run again: what is looked through first, what is compared, and what makes it fail."""

import contextlib
import dataclasses
import hashlib
import os
import shutil
import subprocess
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ablations import commits, reproduce
from ablations.config.trialkeys import Stage
from ablations.files import read_json, write_json
from ablations.home import ROOT
from ablations.judge.repeated import reach
from ablations.record.audit import audit
from ablations.record.documents import PLAN, STATE, PlanDocument, SweepState
from ablations.record.manifest import MANIFEST, hashes
from ablations.report import PAGES, publish
from ablations.reproduce import ReproduceConfig, chosen, main
from ablations.sweep.again import _in_chains
from models.training.config import OptimConfig

MADE: list[Path] = []
"""The result that all tests begin with, once it is made."""


@pytest.fixture
def published(
    request: pytest.FixtureRequest, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, pool: Any
) -> Path:
    """A toy sweep's result, from trials that follow a formula; a copy of the test's own."""
    if not MADE:
        for name in ("conduct", "without_figures"):
            request.getfixturevalue(name)
        request.getfixturevalue("conduct")("search_points=2", "seeds=3")
        MADE.append(publish(request.getfixturevalue("runs"), "toy", "smoke", tmp_path_factory.mktemp("results")))
    return Path(shutil.copytree(MADE[0], tmp_path / "results" / "toy" / "smoke"))


@pytest.fixture
def again(
    published: Path, tmp_path: Path, data_cache: Path, without_figures: None, capsys: Any
) -> Callable[..., tuple[int, list[str]]]:
    """`again(KEY=VALUE, ...)`: reproduces it; the exit code, and the lines that were said."""
    runs = tmp_path / "reproduced"
    runs.mkdir()
    (runs / "data").symlink_to(data_cache)
    capsys.readouterr()

    def call(*words: str, place: Path = published) -> tuple[int, list[str]]:
        code = main([str(place), f"runs_dir={runs}", "progress=none", *words])
        out, err = capsys.readouterr()
        return code, [*out.splitlines(), *err.splitlines()]

    return call


def edit(published: Path, name: str, change: Callable[[Any], Any], honest: bool = False) -> None:
    """Change a JSON file; `honest`: and its hash in the manifest."""
    write_json(published / name, change(read_json(published / name)))
    if honest:
        write_json(published / MANIFEST, read_json(published / MANIFEST) | {"files": hashes(published)})


def a_record(published: Path, arm: str = "bias", seed: int = 1) -> str:
    trials = read_json(published / STATE)["confirm"]
    return f"records/{next(t['id'] for t in trials if (t['arm'], t['seed']) == (arm, seed))}.json"


def worse(record: dict[str, Any]) -> dict[str, Any]:
    return record | {"metrics": record["metrics"] | {"loss": record["metrics"]["loss"] - 0.01}}


def test_a_whole_result_is_repeated_cell_by_cell(again: Any, published: Path, pool: Any) -> None:
    pool.ran.clear()
    code, lines = again()
    assert code == 0 and lines[0] == f"{published}: whole, every file as the manifest has it"
    assert "12 trials, 12 of them the very same" in lines[-2] and lines[-2].endswith("equal")
    assert lines[-1].startswith("table.csv: ")
    assert lines[-1].split()[1] == lines[-1].split()[3]
    assert len(pool.ran["trial"]) == 12 and set(pool.ran) == {"trial"}, "no guards, no search, no timing"


def test_a_part_of_it(again: Any, pool: Any) -> None:
    for words, count in ((["arm=bias", "seed=1"], 2), (["quick=true"], 2), (["arm=control"], 6)):
        code, lines = again(*words)
        assert code == 0 and f" {count} trials, {count} of them the very same" in lines[-1]


def test_quick_is_the_shortest_length_of_two_arms() -> None:
    folder = ROOT / "results" / "attention" / "cpu"
    document, state = PlanDocument.read(folder), SweepState.read(folder)
    found = chosen(document, state, ReproduceConfig(quick=True))
    assert [(trial.arm, trial.share) for trial in found] == [("mha", 0.67), ("mla", 0.67)]
    assert len({trial.seed for trial in found}) == 1
    of_one = chosen(document, state, ReproduceConfig(arm="gqa", seed=found[0].seed))
    assert sorted((trial.arm, trial.share) for trial in of_one) == [(a, s) for a in ("gqa", "mha") for s in (0.67, 1.0)]


def test_an_edited_number_is_found_and_stops_it(again: Any, published: Path) -> None:
    name = a_record(published)
    edit(published, name, worse)
    code, lines = again()
    assert (code, lines[0]) == (2, f"changed: {name}: its SHA-256 is not the manifest's; arm bias, seed 1")
    assert len(lines) == 2 and "not as it was published" in lines[1] and "anyway=true goes on" in lines[1]
    code, lines = again("anyway=true", "arm=bias")
    assert code == 1 and any("bias seed 1: the same trial, and other numbers: loss" in line for line in lines)


def test_a_number_that_was_edited_with_its_hash_is_found_by_running_it(again: Any, published: Path) -> None:
    edit(published, a_record(published), worse, honest=True)
    code, lines = again()
    assert code == 1 and lines[0].endswith("every file as the manifest has it")
    assert any("bias seed 1: the same trial, and other numbers: loss" in line for line in lines)
    assert again("tables_only=true")[0] == 1


def test_tables_alone(again: Any, published: Path, pool: Any) -> None:
    pool.ran.clear()
    code, lines = again("tables_only=true")
    assert code == 0 and not pool.ran
    assert [line.split() for line in lines[1:]] == [
        ["equal", name] for name in [*sorted(set(PAGES) - {"figures"}), "records.parquet", "manifest.json"]
    ]
    (published / "table.md").write_text("better numbers")
    code, lines = again("tables_only=true", "anyway=true")
    assert code == 1 and "DIFFERS table.md" in lines


def test_elsewhere_a_number_must_lie_in_its_interval(
    again: Any, published: Path, monkeypatch: pytest.MonkeyPatch, pool: Any
) -> None:
    """Another instruction set: other ids, and other roundings, which are no failure while they are small."""
    import stand_in_kinds

    from ablations.trial import identity

    elsewhere = identity.bits() | {"instruction_set": "AVX9"}
    monkeypatch.setattr("ablations.trial.identity.bits", lambda: elsewhere)
    monkeypatch.setattr("ablations.sweep.again.bits", lambda: elsewhere)
    before = stand_in_kinds.loss_of
    for shift, wanted in ((1e-5, (0, "inside")), (0.5, (1, "outside"))):
        monkeypatch.setattr(
            stand_in_kinds, "loss_of",
            lambda keys, seed, shift=shift: before(keys, seed) + shift * (keys.train.perturb > 0),
        )  # fmt: skip
        shutil.rmtree(published.parents[2] / "reproduced" / "trials", ignore_errors=True)
        code, lines = again("arm=aa")
        assert (code, wanted[1] in lines[-1]) == (wanted[0], True), lines
        assert "0 of them the very same" in lines[-1]
        said = [line.split(":")[0].split(" ")[0] for line in lines]
        assert "instruction_set AVX9 here" in lines[said.index("otherwise")]
        assert said.index("otherwise") < said.index("runs"), "before anything is trained"


def test_other_keys_than_the_records_are_refused(again: Any, published: Path) -> None:
    edit(published, PLAN, lambda plan: plan | {"command": plan["command"] + " model.n_layers=3"})
    code, lines = again("anyway=true", "arm=bias")
    assert code == 2 and "model.n_layers=3 here, and 2 in its record" in lines[-1], lines


def test_a_plan_without_its_sweep_is_refused(again: Any, published: Path) -> None:
    edit(published, PLAN, lambda plan: plan | {"sweep_file": ""})
    code, lines = again("anyway=true")
    assert code == 2 and "has no sweeps/toy.yaml, which its plan was made of" in lines[-1]


@pytest.mark.parametrize(
    ("manifest", "parts"),
    [
        ({"commit": "0" * 40}, ["was published from commit 0000", "not in this clone", "code=here"]),
        (
            {"commit": None, "commit_unknown": "there is no git here"},
            ["its commit is not known (there is no git here)"],
        ),
        ({"commit": None, "commit_unknown": None}, ["its commit is not known (nobody says why)"]),
        ({"commit": "HEAD"}, ["manifest.json: commit=HEAD: must be the 40 digits of one"]),
        ({"commit": "--output=x"}, ["commit=--output=x: must be the 40 digits of one"]),
    ],
)
def test_other_code_is_run_by_its_commit_or_refused(
    again: Any, published: Path, manifest: dict[str, Any], parts: list[str]
) -> None:
    edit(published, PLAN, lambda plan: plan | {"code": "c" * 64})
    edit(published, MANIFEST, lambda found: found | manifest)
    code, lines = again("anyway=true")
    assert code == 2
    for part in parts:
        assert part in lines[-1]


def test_a_commit_of_other_code_than_the_plans_is_refused(
    again: Any, published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A manifest may name any commit; what trains there must be what the plan was made with."""
    edit(published, PLAN, lambda plan: plan | {"code": "c" * 64})
    edit(published, MANIFEST, lambda found: found | {"commit": "d" * 40})

    @contextlib.contextmanager
    def here(commit: str) -> Iterator[Path]:
        assert commit == "d" * 40
        yield ROOT

    monkeypatch.setattr(reproduce, "worktree", here)
    for name in ("is_here", "is_before"):
        monkeypatch.setattr(reproduce, name, lambda commit: True)
    code, lines = again("anyway=true")
    assert (
        code == 2
        and "commit dddddddddddd trains by other code" in lines[-1]
        and "than its plan names (cccc" in lines[-1]
    )


@pytest.mark.parametrize("case", ["no such command", "cannot obey"])
def test_where_a_commit_cannot_run_it_this_code_does(
    case: str, again: Any, published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pool: Any
) -> None:
    """Commits of before the command, and those whose command had faults of its own."""
    edit(published, PLAN, lambda plan: plan | {"code": "c" * 64})
    edit(published, MANIFEST, lambda found: found | {"commit": "d" * 40})
    (tree := tmp_path / "tree" / "ablations").mkdir(parents=True)
    if case == "cannot obey":
        (tree / "__init__.py").write_text("")
        (tree / "reproduce.py").write_text("raise SystemExit(2)")

    @contextlib.contextmanager
    def there(commit: str) -> Iterator[Path]:
        yield tree.parent

    monkeypatch.setattr(reproduce, "worktree", there)
    monkeypatch.setattr(reproduce, "code_of", lambda environment: "c" * 64)
    for name in ("is_here", "is_before"):
        monkeypatch.setattr(reproduce, name, lambda commit: True)
    code, lines = again("anyway=true", "arm=bias", "seed=1")
    assert "runs by this checkout's code instead" in lines and pool.ran
    assert any("could not" in line if case == "cannot obey" else "has no such command yet" in line for line in lines)
    assert any("bias" in line or "cells" in line for line in lines) and code == 1  # it is not as it was published


def test_what_differs_on_the_way_is_named_by_stage_and_key() -> None:
    first, taught = Stage(), Stage(teacher=[Stage()])
    other = dataclasses.replace(first, optim=OptimConfig(lr=0.01))
    assert _in_chains("before", [first, taught], [first, taught]) == []
    assert _in_chains("before", [first, taught], [other, taught]) == [
        ("before, stage 1: optim.lr", OptimConfig().lr, 0.01)
    ]
    assert _in_chains("before", [taught], [dataclasses.replace(taught, teacher=[other])]) == [
        ("teacher of before, stage 1, stage 1: optim.lr", OptimConfig().lr, 0.01)
    ]
    assert _in_chains("before", [first], [first, first]) == [("stages of before", 1, 2)]


def test_what_a_killed_command_left_in_git_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dead = subprocess.Popen(["true"])
    dead.wait()
    git = ["git", "-C", str(tmp_path / "house")]
    subprocess.run(["git", "init", "-q", str(tmp_path / "house")], check=True)
    own = ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "--allow-empty", "-m", "begin"]
    subprocess.run([*git, *own], check=True)
    names = (f"reproduce-{dead.pid}-a", f"reproduce-{os.getpid()}-b", "c")
    left, held, other = (tmp_path / name / "tree" for name in names)
    for tree in (left, held, other):
        subprocess.run([*git, "worktree", "add", "-q", "--detach", str(tree)], check=True)
    monkeypatch.setattr(commits, "ROOT", tmp_path / "house")
    with commits.worktree("HEAD") as tree:
        assert tree.is_dir() and held.is_dir() and other.is_dir() and not left.parent.exists()
    listed = subprocess.run([*git, "worktree", "list"], capture_output=True, text=True, check=True).stdout
    assert len(listed.splitlines()) == 3 and str(left) not in listed and str(tree) not in listed


def zipped(published: Path, folder: Path) -> Path:
    return Path(shutil.make_archive(str(folder / "result"), "zip", published.parent, published.name))


def test_a_copy_of_another_name_is_the_same_result(again: Any, published: Path, tmp_path: Path) -> None:
    shutil.copytree(published, tmp_path / "from_a_colleague")
    assert again("tables_only=true", place=tmp_path / "from_a_colleague")[0] == 0


def test_of_a_partial_result_what_is_there_is_repeated(again: Any, published: Path) -> None:
    (published / a_record(published)).unlink()
    edit(published, MANIFEST, lambda found: found | {"partial": True, "files": hashes(published)})
    code, lines = again("arm=bias")
    assert code == 0 and " 5 trials, 5 of them the very same" in lines[-1], lines


def test_a_zip_of_a_result_works_as_the_result(again: Any, published: Path, tmp_path: Path) -> None:
    code, lines = again("quick=true", place=zipped(published, tmp_path))
    assert code == 0 and "2 trials, 2 of them the very same" in lines[-1]


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["arm=bais"], ["arm=bais: no such arm", "did you mean bias"]),
        (["seed=9"], ["seed=9: not among this result's seeds (0, 1, 2)"]),
        (["sead=9"], ["sead: no such key"]),
        (["workers=0"], ["error: workers=0: must be at least 1"]),
        (["other"], ["expected one result", "not 2"]),
    ],
)
def test_a_wrong_word_is_one_line(again: Any, words: list[str], parts: list[str]) -> None:
    code, lines = again(*words)
    assert code == 2
    for part in parts:
        assert part in lines[-1]


def test_what_is_no_result_is_one_line(again: Any, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "has no manifest.json, so it is no published result" in again(place=tmp_path / "empty")[1][-1]
    assert "neither the folder of a published result nor a zip" in again(place=tmp_path / "nothing")[1][-1]


def removed(published: Path) -> None:
    (published / a_record(published)).unlink()


def strange(published: Path) -> None:
    (published / "notes.txt").write_text("hello")


def truncated(published: Path) -> None:
    name = a_record(published)
    (published / name).write_bytes((published / name).read_bytes()[:40])


def renamed(published: Path) -> None:
    (published / a_record(published, "bias", 1)).write_bytes((published / a_record(published, "bias", 2)).read_bytes())


def exchanged(published: Path) -> None:
    """Two arms' records, with the ids in them, and every hash that says what they were."""
    one, other = (read_json(published / a_record(published, arm, 1)) for arm in ("bias", "aux_loss"))
    one["id"], other["id"] = other["id"], one["id"]
    edit(published, f"records/{other['id']}.json", lambda _: other, honest=True)
    edit(published, f"records/{one['id']}.json", lambda _: one, honest=True)


def of_the_control(published: Path) -> None:
    """Which says more than the baseline does."""
    control, base = (a_record(published, arm, 1) for arm in ("control", "aux_loss"))
    longer = read_json(published / control)
    edit(published, base, lambda record: longer | {"id": record["id"]}, honest=True)


def without_keys(published: Path) -> None:
    edit(published, a_record(published), lambda record: record | {"config": {"model": "x"}}, honest=True)


def of_nothing(published: Path) -> None:
    edit(published, a_record(published), lambda record: record | {"config": {}}, honest=True)


def shared(published: Path) -> None:
    """A trial of a shorter training, as a state says."""
    edit(
        published, STATE, lambda state: state | {"confirm": [t | {"share": 0.5} for t in state["confirm"]]}, honest=True
    )


def twice(published: Path) -> None:
    edit(published, STATE, lambda state: state | {"confirm": [*state["confirm"], state["confirm"][0]]}, honest=True)


def piped(published: Path) -> None:
    os.mkfifo(published / "records" / "pipe.json")
    (published / "records" / "folder.json").mkdir()


def replanned(published: Path) -> None:
    edit(published, PLAN, lambda plan: plan | {"question": "Is it better?"}, honest=True)


def extended(published: Path) -> None:
    edit(published, a_record(published), lambda record: record | {"remark": 1}, honest=True)


def unchosen(published: Path) -> None:
    edit(published, STATE, lambda state: state | {"chosen": {"aux_loss": {}}}, honest=True)


@pytest.mark.parametrize(
    ("change", "kinds"),
    [
        (removed, ["missing"]),
        (strange, ["unknown"]),
        (truncated, ["changed", "unreadable"]),
        (renamed, ["changed", "inconsistent", "inconsistent"]),
        (exchanged, ["inconsistent", "inconsistent"]),
        (of_the_control, ["inconsistent"]),
        (without_keys, ["unreadable"]),
        (of_nothing, ["inconsistent"]),
        (shared, ["inconsistent"] * 12),
        (twice, ["inconsistent", "inconsistent"]),
        (piped, ["unknown", "unknown"]),
        (replanned, ["inconsistent", "inconsistent"]),
        (extended, ["unreadable"]),
        (unchosen, ["inconsistent"]),
    ],
)
def test_an_audit_names_what_was_done_to_a_folder(
    published: Path, change: Callable[[Path], None], kinds: list[str]
) -> None:
    assert audit(published) == []
    change(published)
    found = audit(published)
    assert [finding.kind for finding in found] == kinds, [str(finding) for finding in found]
    assert all("\n" not in str(finding) for finding in found)


def test_a_finding_says_whose_record_it_is_about(published: Path) -> None:
    exchanged(published)
    said = " ".join(map(str, audit(published)))
    assert "model.moe.balance.kind=aux_loss, and bias in arm bias, whose trial state.json calls it" in said
    removed(published)
    assert any(str(f).endswith("the manifest has it; arm bias, seed 1") for f in audit(published))


def test_hashes_are_of_all_files_but_the_manifest(published: Path) -> None:
    found = hashes(published)
    assert MANIFEST not in found and found[PLAN] == hashlib.sha256((published / PLAN).read_bytes()).hexdigest()


def evil(published: Path, word: str, **changes: Any) -> None:
    """As somebody would hand it on who wants more than it to be read."""
    edit(published, PLAN, lambda plan: plan | {"command": f"{plan['command']} {word}"} | changes)
    digest = hashlib.sha256((published / PLAN).read_bytes()).hexdigest()
    edit(published, STATE, lambda state: state | {"plan_sha": digest})
    edit(
        published,
        MANIFEST,
        lambda found: found | {"plan_sha256": digest, "sweep": changes.get("sweep", "toy")},
        honest=True,
    )


def test_nothing_that_a_result_names_is_opened_without_trust(again: Any, published: Path, tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "evil.py").write_text(f"open({str(tmp_path / 'EXECUTED')!r}, 'w')\ndef f(x): return x\n")
    task = "task: evil\ndataset_path: json\nprocess_docs: !function evil.f\noutput_type: multiple_choice\n"
    (tmp_path / "own" / "evil.yaml").write_text(task)
    edit(published, PLAN, lambda plan: plan | {"command": plan["command"].replace("'eval.tasks=[]'", "")})
    evil(published, f"'eval.tasks=[{tmp_path / 'own' / 'evil.yaml'}]'")
    code, lines = again()
    assert code == 2 and "which can run its author's code; trust=true" in lines[-1], lines
    assert not (tmp_path / "EXECUTED").exists()


def test_a_folder_of_benchmarks_is_not_opened_without_trust(again: Any, published: Path, tmp_path: Path) -> None:
    evil(published, f"'eval.data_dir={tmp_path}'")
    code, lines = again()
    assert code == 2 and f"eval.data_dir={tmp_path}: the result asks for this here" in lines[-1], lines


def test_what_a_model_writes_is_not_run_without_trust(again: Any, published: Path) -> None:
    edit(published, PLAN, lambda plan: plan | {"command": plan["command"].replace("'eval.tasks=[]'", "")})
    evil(published, "'eval.tasks=[humaneval]' eval.run_model_code=true")
    code, lines = again()
    assert code == 2 and "eval.tasks=humaneval: the result asks for this here" in lines[-1], lines


@pytest.mark.parametrize("name", ["../../out", "/tmp/out", ".hidden", "a b"])
def test_a_sweeps_name_leads_nowhere(again: Any, published: Path, tmp_path: Path, name: str) -> None:
    evil(published, "", sweep=name)
    before = sorted(tmp_path.rglob("*"))
    code, lines = again()
    assert code == 2 and sorted(tmp_path.rglob("*")) == before
    assert lines[0].startswith("unreadable: plan.json: ") and "must be a plain name" in lines[0]


@pytest.mark.parametrize("command", ["python -m ablations.report sweep=toy", "ablations.run 'sweep"])
def test_a_plan_with_another_command_is_one_line(again: Any, published: Path, command: str) -> None:
    edit(published, PLAN, lambda plan: plan | {"command": command})
    code, lines = again("anyway=true")
    assert code == 2 and "no command of ablations.run" in lines[-1]


def test_nothing_compared_is_no_success(again: Any, published: Path) -> None:
    for path in (published / "records").iterdir():
        path.unlink()
    edit(published, MANIFEST, lambda found: found | {"partial": True, "files": hashes(published)})
    code, lines = again()
    assert code == 2 and "nothing to compare with" in lines[-1]


def test_only_what_the_published_record_has_must_be_there(again: Any, published: Path) -> None:
    """Today's code may measure more."""
    for path in (published / "records").iterdir():
        edit(published, f"records/{path.name}", lambda r: r | {"metrics": {"loss": r["metrics"]["loss"]}})
    edit(published, MANIFEST, lambda found: found | {"files": hashes(published), "code": "c" * 64})
    edit(published, PLAN, lambda plan: plan | {"code": "c" * 64})
    lines = again("anyway=true", "code=here", "quick=true")[1]
    assert "2 cells: 2 equal" in lines[-1], lines


def test_another_text_is_refused_and_not_compared(again: Any, published: Path) -> None:
    edit(published, a_record(published), lambda record: record | {"data": {"sha256": "of another"}})
    code, lines = again("anyway=true", "arm=bias")
    assert code == 2 and "bias seed 1: learns from another text here" in lines[-1], lines


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"PK\x05\x06" + b"\0" * 18, "holds 0 results"),
        (b"PK\x03\x04 cut", "neither the folder"),
        (b"text", "neither the folder"),
    ],
)
def test_an_archive_that_is_none_is_one_line(again: Any, tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "a.zip").write_bytes(content)
    code, lines = again(place=tmp_path / "a.zip")
    assert code == 2 and said in lines[-1]


def test_what_is_wrong_in_an_archive_is_told_by_the_archives_name(again: Any, published: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(published, tmp_path / "copy")
    sorted((copy / "records").iterdir())[0].unlink()
    place = zipped(copy, tmp_path)
    code, lines = again(place=place)
    assert (
        code == 2
        and lines[-1].startswith(f"error: {place}: not as it was published")
        and "/tmp/reproduce-" not in "".join(lines)
    )


@pytest.mark.parametrize("word", ["arm=nope", "seed=0", "quick=true"])
def test_tables_are_made_whole_or_not_at_all(again: Any, word: str) -> None:
    code, lines = again("tables_only=true", word)
    assert code == 2 and f"leave {word.partition('=')[0]} out" in lines[-1]


def test_a_damaged_or_huge_archive_is_one_line(
    again: Any, published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = zipped(published, tmp_path)
    content = bytearray(whole.read_bytes())
    content[200:400] = b"x" * 200
    (tmp_path / "damaged.zip").write_bytes(content)
    code, lines = again(place=tmp_path / "damaged.zip")
    assert code == 2 and "cannot be unpacked" in lines[-1]
    with zipfile.ZipFile(tmp_path / "twice.zip", "w") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("a", "")
        archive.writestr("a", "b")
    code, lines = again(place=tmp_path / "twice.zip")
    assert code == 2 and "holds a twice" in lines[-1]
    with zipfile.ZipFile(tmp_path / "long.zip", "w") as archive:
        archive.writestr("a" * 300, "")
    code, lines = again(place=tmp_path / "long.zip")
    assert code == 2 and lines[-1] == f"error: {tmp_path / 'long.zip'}: cannot be unpacked (File name too long)"
    monkeypatch.setattr("ablations.archives.MOST_BYTES", 1000)
    code, lines = again(place=whole)
    assert code == 2 and "at most 1,000" in lines[-1]


def test_a_faithful_rerun_lies_within_reach_of_all_cells_in_95_percent() -> None:
    """Two estimates from seeds of their own, many cells at once; one seed says nothing."""
    rng = np.random.default_rng(0)
    for n, again, count in ((8, 8, 90), (8, 2, 20), (4, 4, 7)):
        first, second = rng.normal(size=(1000, count, n)), rng.normal(size=(1000, count, again))
        sds, apart = first.std(axis=-1, ddof=1), np.abs(first.mean(axis=-1) - second.mean(axis=-1))
        outside = (apart > sds * reach(1.0, n, again, count)).any(axis=1).mean()
        assert 0.02 < outside < 0.07, (n, again, count)
    assert reach(0.0, 1, 1, 5) is None and reach(0.0, 4, 1, 5, level=4.0) == 4e-12


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"verdicts": [{"outcome": "agrees"}]}, "verdicts"),
        ({"chosen": {}}, "chosen"),
        ({"trials": {"planned": 1}}, "trials"),
        ({"partial": True}, "partial"),
    ],
)
def test_what_a_manifest_says_of_its_records_is_made_anew(
    again: Any, published: Path, change: dict[str, Any], named: str
) -> None:
    write_json(published / "manifest.json", read_json(published / "manifest.json") | change)
    code, lines = again("tables_only=true")
    assert code == 1 and f"DIFFERS manifest.json: {named}" in lines


def test_a_frame_of_other_numbers_is_found_whatever_its_hash(again: Any, published: Path) -> None:
    import pandas

    frame = pandas.read_parquet(published / "records.parquet")
    frame.assign(loss=frame["loss"] + 0.1).to_parquet(published / "records.parquet", index=False)
    manifest = read_json(published / "manifest.json")
    digest = hashlib.sha256((published / "records.parquet").read_bytes()).hexdigest()
    write_json(published / "manifest.json", manifest | {"files": manifest["files"] | {"records.parquet": digest}})
    code, lines = again("tables_only=true")
    assert code == 1 and "DIFFERS records.parquet" in lines
