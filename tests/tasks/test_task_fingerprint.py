"""A scored task's content is part of the trial: what an edit of it would change, changes the id; nothing else does."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.evals import fingerprint
from tasks.evals.fingerprint import task_fingerprint

ROOT = Path(__file__).resolve().parents[2]
FILES = {
    "mine.yaml": (
        "include: common_yaml\ntask: mine\n"
        "dataset_kwargs: {data_files: {test: data/test.jsonl, train: 'shards/*.jsonl'}}\n"
        "process_docs: !function own.docs\ndoc_to_text: !function package.deep.text\n"
    ),
    "common_yaml": "include: [lower_yaml]\ndataset_path: json\ntest_split: test\n",
    "lower_yaml": "doc_to_choice: !function third.choices\n",
    "own.py": (
        "from pathlib import Path\nimport beside\nfrom whole import X\n"
        "IN, UP, NAMES = 'lists/of', '..', Path(__file__).with_name('names.txt')\n"
    ),
    "beside.py": "",
    "names.txt": "",
    "whole/__init__.py": "",
    "lists/of/a.txt": "",
    "third.py": "",
    "package/deep.py": "",
    "data/test.jsonl": "",
    "shards/0.jsonl": "",
    "shards/1.jsonl": "",
}
UNRELATED = ("other.yaml", "other.py", "package/shallow.py", ".hidden/notes.txt")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def taken(folder: Path) -> str:
    return task_fingerprint([str(folder / "mine.yaml")])[str(folder / "mine.yaml")]


@pytest.mark.parametrize("name", FILES)
def test_every_file_that_a_task_leads_to_counts(name: str, folder: Path) -> None:
    before = taken(folder)
    (folder / name).write_text(FILES[name] + "\n# edited\n")
    edited = taken(folder)
    assert edited != before
    (folder / name).unlink()
    assert taken(folder) not in (before, edited)
    (folder / name).write_text(FILES[name])
    assert taken(folder) == before, "as it was"


def test_what_it_does_not_lead_to_and_where_it_lies_do_not_count(folder: Path, tmp_path: Path) -> None:
    before = taken(folder)
    (folder / ".hidden").mkdir()
    for name in UNRELATED:
        (folder / name).write_text("# a comment\n")
    assert taken(folder) == before
    moved = tmp_path / "moved"
    moved.mkdir()
    for name in FILES:
        (moved / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).rename(moved / name)
    assert taken(moved) == before


def test_data_whose_name_a_function_computes_counts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("answers.json", "data/other.jsonl"):
        before = taken(folder)
        (folder / name).write_text("0")
        there = taken(folder)
        (folder / name).write_text("1")
        assert len({before, there, taken(folder)}) == 3, name
    (folder / "plain.yaml").write_text("task: plain\n")
    plain = [str(folder / "plain.yaml")]
    before = task_fingerprint(plain)
    (folder / "answers.json").write_text("2")
    assert task_fingerprint(plain) == before, "a task without a function reads what it names"
    monkeypatch.setattr(fingerprint, "MOST_BESIDE", 3)
    crowded = taken(folder)
    (folder / "answers.json").write_text("3")
    assert taken(folder) == crowded, "of a folder that holds more than tasks only what is spelled out"


def test_data_that_metadata_name_count(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(f"task: t\nmetadata:\n  answers: {tmp_path / 'answers.json'}\n")
    (tmp_path / "answers.json").write_text("0")
    before = taken(tmp_path)
    (tmp_path / "answers.json").write_text("1")
    assert taken(tmp_path) != before


def test_a_folder_of_data_and_a_module_elsewhere_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "installed").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path / "installed"))
    files = {tmp_path / "set/a.parquet": "1", tmp_path / "installed/metrics_of_mine.py": "x = 1\n"}
    (tmp_path / "mine.yaml").write_text(
        f"task: t\ndataset_path: {tmp_path / 'set'}\nprocess_results: !function metrics_of_mine.x\n"
    )
    for path, text in files.items():
        path.write_text(text)
    for path, text in files.items():
        before = taken(tmp_path)
        path.write_text(text + "2")
        assert taken(tmp_path) != before, path.name


@pytest.mark.parametrize(
    "break_it",
    [
        lambda d: (d / "mine.yaml").unlink(),
        lambda d: (d / "mine.yaml").write_text("include: mine.yaml\ntask: t\n"),
        lambda d: (d / "mine.yaml").write_text("a: [unclosed\n"),
        lambda d: (d / "mine.yaml").write_text("a: &a [*a]\n"),
        lambda d: (d / "mine.yaml").write_bytes(b"\xff\xfe\x00"),
        lambda d: (d / "own.py").write_text("def (:\n"),
    ],
)
def test_what_cannot_be_read_leads_nowhere(break_it: Callable[[Path], object], folder: Path) -> None:
    before = taken(folder)
    break_it(folder)
    assert taken(folder) != before


def test_names_that_are_no_files_are_left_to_versions_and_nothing_is_imported() -> None:
    assert task_fingerprint(["python_cloze", "piqa"]) == {}
    program = (
        "import sys; from tasks.evals.fingerprint import task_fingerprint; task_fingerprint(['a.yaml', 'piqa']);"
        "heavy = {'torch', 'lm_eval', 'datasets', 'tokenizers', 'numpy'} & set(sys.modules); sys.exit(str(heavy or ''))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.stderr.strip() == ""
