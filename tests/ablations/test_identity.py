"""A trial's id: it moves with whatever can move the numbers, and with nothing else."""

import copy
import shutil
from pathlib import Path
from typing import Any

import pytest

from ablations import identity
from ablations.identity import TRIAL_CODE, code_hash, environment, sha, trial_id
from ablations.keys import trial_leaves
from ablations.trialkeys import get

DATA = {"text_sha256": "abc"}


@pytest.fixture
def checkout(tmp_path, monkeypatch) -> Path:
    """A copy of the code that enters the hash."""
    for place in TRIAL_CODE:
        source = identity.ROOT / place
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, tmp_path / place, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, tmp_path / place)
    monkeypatch.setattr(identity, "ROOT", tmp_path)
    return tmp_path


def hashed() -> str:
    return code_hash.__wrapped__()


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) >= 1, f"{path.name} no longer holds {old!r}"
    path.write_text(text.replace(old, new, 1))


def test_the_same_code_elsewhere_is_the_same_code(checkout):
    assert hashed() == code_hash()


def test_comments_docstrings_and_layout_do_not_count(checkout):
    before = hashed()
    config = checkout / "models/config.py"
    config.write_text("# A comment.\n\n\n" + config.read_text().replace('"""', '"""Reworded. ', 1))
    edit(config, "class RopeConfig:", "class RopeConfig():  # said again")
    (checkout / "models/README.md").write_text("not code")
    assert hashed() == before


@pytest.mark.parametrize(
    ("place", "old", "new"),
    [
        ("models/config.py", "/ self.d_model**0.5", "/ self.d_model**0.6"),
        ("models/optim.py", "def adamw(", "def adamw_(\n    "),
        ("tasks/batches.py", "kind=\"stable\"", "kind=\"heapsort\""),
        ("ablations/trial.py", "HISTORY_POINTS = 200", "HISTORY_POINTS = 201"),
        ("ablations/measures.py", "keys.steps // 10", "keys.steps // 5"),
        ("tasks/evals/python_cloze.yaml", "\n", "\nversion: 7\n"),
    ],
)  # fmt: skip
def test_what_code_does_counts(checkout, place, old, new):
    before = hashed()
    edit(checkout / place, old, new)
    assert hashed() != before


def test_a_file_more_counts(checkout):
    before = hashed()
    (checkout / "models/extra.py").write_text("")
    assert hashed() != before


def changed(value: Any) -> Any:
    match value:
        case str():
            return "other"
        case list():
            return [*value, "other"]
        case _:
            return 1 + (value or 0)


def test_every_key_of_a_trial_counts(plan):
    keys = plan().baseline.keys
    ids = {"": trial_id(keys, 0, DATA)}
    for name in set(trial_leaves()) - {"data.path", "data.name"}:
        other = copy.deepcopy(keys)
        *groups, last = name.split(".")
        get(other, ".".join(groups))[last] = changed(get(other, name))
        ids[name] = trial_id(other, 0, DATA)
    assert len(set(ids.values())) == len(ids) > 50


def test_seed_data_and_versions_count(plan, monkeypatch):
    keys = plan().baseline.keys
    ids = {trial_id(keys, 0, DATA), trial_id(keys, 1, DATA), trial_id(keys, 0, {"text_sha256": "abd"})}
    known = identity.bits()
    for name in ("torch", "instruction_set", "python"):
        with monkeypatch.context() as patch:
            patch.setattr(identity, "bits", lambda name=name: {**known, name: "other"})
            ids.add(trial_id(keys, 0, DATA))
    monkeypatch.setattr(identity, "code_hash", lambda: "other")
    assert len(ids | {trial_id(keys, 0, DATA)}) == 7


def test_where_things_lie_and_who_watches_does_not_count(plan, tmp_path):
    words = ["launch.workers=7", "track.mode=offline", "track.project=p", f"runs_dir={tmp_path / 'elsewhere'}"]
    here, there = plan(), plan(*words, "seeds=5", "search=fresh", "launch.expected_tokens_per_second=1")
    for name in here.arms:
        assert trial_id(here.arms[name].keys, 0, DATA) == trial_id(there.arms[name].keys, 0, DATA)
    moved = copy.deepcopy(here.baseline.keys)
    moved["data"] |= {"path": "/somewhere/else.txt"}
    assert trial_id(moved, 0, DATA) == trial_id(here.baseline.keys, 0, DATA), "its bytes are in the fingerprint"


def test_a_scored_task_counts_by_its_content(plan, tmp_path):
    """An edit of what a task asks, or of what its file includes or calls, makes another trial, and the record says of
    which content its scores are."""
    files = {
        "mine.yaml": "include: base.yaml\ntask: mine\ndoc_to_text: !function own.text\n",
        "base.yaml": "dataset_path: json\ndataset_kwargs: {data_files: {test: rows.jsonl}}\n",
        "own.py": "def text(doc):\n    return doc['q']\n",
        "rows.jsonl": '{"q": "1"}\n',
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "other.py").write_text("")
    keys = copy.deepcopy(plan().baseline.keys)
    assert "task_files" not in environment(keys), "ours are part of the code"
    keys["eval"]["tasks"] = ["python_cloze", str(tmp_path / "mine.yaml")]
    ids, known = {trial_id(keys, 0, DATA)}, {str(environment(keys)["task_files"])}
    for name, text in files.items():
        (tmp_path / name).write_text(text + "\n")
        ids.add(trial_id(keys, 0, DATA))
        known.add(str(environment(keys)["task_files"]))
    assert len(ids) == len(known) == 5
    (tmp_path / "other.py").write_text("# a comment\n")
    assert trial_id(keys, 0, DATA) in ids
    assert list(environment(keys)["task_files"]) == [str(tmp_path / "mine.yaml")]


def test_an_id_is_sixteen_digits_and_knows_no_order(plan):
    keys = plan().baseline.keys
    turned = {group: dict(reversed(list(keys[group].items()))) for group in reversed(list(keys))}
    name = trial_id(keys, 0, DATA)
    assert trial_id(turned, 0, DATA) == name
    assert len(name) == 16
    assert int(name, 16) >= 0
    assert sha({"a": 1, "b": 2}) == sha({"b": 2, "a": 1})


def test_auto_has_no_id(plan):
    keys = copy.deepcopy(plan().baseline.keys)
    keys["model"]["dtype"] = "auto"
    with pytest.raises(ValueError, match="must be resolved"):
        trial_id(keys, 0, DATA)


def test_the_record_says_what_the_bits_depend_on(plan):
    known = environment(plan().baseline.keys)
    for name in ("torch", "lightning", "python", "instruction_set", "code", "dtype", "threads", "device", "processor"):
        assert known[name], name
