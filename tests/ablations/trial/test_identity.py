"""A trial's id: it moves with whatever can move the numbers, and with nothing else."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest

from ablations.config.trialkeys import Stage, trial_leaves, value_of, with_overrides
from ablations.trial import identity
from ablations.trial.closure import OURS, import_closure
from ablations.trial.identity import RANKED_TRIAL, TRIAL, code_hash, environment, sha, trial_id

DATA = [{"text_sha256": "abc"}]


@pytest.fixture
def checkout(tmp_path, monkeypatch) -> Path:
    """A copy of our code, a part of which enters the hash."""
    for place in OURS:
        shutil.copytree(identity.ROOT / place, tmp_path / place, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(identity, "ROOT", tmp_path)
    return tmp_path


def hashed(entry: str = TRIAL) -> str:
    return code_hash.__wrapped__(entry)


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) >= 1, f"{path.name} no longer holds {old!r}"
    path.write_text(text.replace(old, new, 1))


def test_the_same_code_elsewhere_is_the_same_code(checkout):
    assert hashed() == code_hash()
    assert hashed(RANKED_TRIAL) == code_hash(RANKED_TRIAL) != hashed()


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
        ("models/training/optim.py", "def adamw(", "def adamw_(\n    "),
        ("tasks/text/batches.py", "kind=\"stable\"", "kind=\"heapsort\""),
        ("ablations/trial/recorder.py", "HISTORY_POINTS = 200", "HISTORY_POINTS = 201"),
        ("ablations/trial/recorder.py", "scored.tokens // 4", "scored.tokens // 2"),
        ("ablations/trial/measures.py", "keys.steps // 10", "keys.steps // 5"),
        ("ablations/record/steplog.py", "<= keep_steps", "< keep_steps"),
        ("ablations/record/record.py", 'status != "failed"', 'status == "complete"'),
        ("models/measure/uniform.py", "n_experts - 1", "n_experts"),
        ("tasks/evals/python_cloze.yaml", "\n", "\nversion: 7\n"),
    ],
)  # fmt: skip
def test_what_code_does_counts(checkout, place, old, new):
    """In a trial of one process and in one on ranks."""
    before = hashed(), hashed(RANKED_TRIAL)
    edit(checkout / place, old, new)
    assert hashed() != before[0] and hashed(RANKED_TRIAL) != before[1]


OUTSIDE = (
    *("models/convert.py", "models/published.py", "models/expert_parallel.py"),
    *("models/decoding/speculative.py", "models/pipeline/measure.py"),
    *("ablations/judge/stats.py", "ablations/judge/verdicts.py", "ablations/trial/tracking.py"),
    *("ablations/config/schema.py", "ablations/config/trialrules.py", "ablations/show/sections/every.py"),
)
RANKS = ("ablations/trial/ranked.py",)


def test_what_no_trial_imports_counts_for_none(checkout):
    before = hashed(), hashed(RANKED_TRIAL)
    for place in OUTSIDE:
        with (checkout / place).open("a") as file:
            file.write("\nEDITED = True\n")
    assert not {checkout / place for place in OUTSIDE} & set(import_closure(RANKED_TRIAL, checkout))
    assert (hashed(), hashed(RANKED_TRIAL)) == before


@pytest.mark.parametrize("place", RANKS)
def test_what_ranks_do_counts_for_trials_on_ranks_alone(checkout, place):
    before = hashed(), hashed(RANKED_TRIAL)
    with (checkout / place).open("a") as file:
        file.write("\nEDITED = True\n")
    assert hashed() == before[0] and hashed(RANKED_TRIAL) != before[1]


def test_a_new_file_counts_from_when_it_is_imported(checkout):
    before = hashed()
    (checkout / "models/extra.py").write_text("")
    assert hashed() == before
    edit(checkout / "models/training/optim.py", "import math", "import math\n\nimport models.extra")
    imported = hashed()
    (checkout / "models/extra.py").write_text("EDITED = True")
    assert len({before, imported, hashed()}) == 3


def changed(value: Any) -> Any:
    match value:
        case str():
            return "other"
        case list():
            return [*value, "other"]
        case _:
            return 1 + (value or 0)


def changed_at(keys: Any, name: str) -> Any:
    """`keys` with another value of a dotted key, sense or no sense."""
    first, _, rest = name.partition(".")
    value = getattr(keys, first)
    return dataclasses.replace(keys, **{first: changed_at(value, rest) if rest else changed(value)})


def test_every_key_of_a_trial_counts_in_every_stage(plan):
    keys = plan().baseline.keys
    first = Stage(keys.model, keys.data, keys.optim, keys.train)
    two = dataclasses.replace(keys, before=[first])
    ids = {"one": trial_id(keys, 0, DATA), "two": trial_id(two, 0, DATA * 2)}
    ids["another text before"] = trial_id(two, 0, [{"text_sha256": "other"}, *DATA])
    ids["another text last"] = trial_id(two, 0, [*DATA, {"text_sha256": "other"}])
    ids["three"] = trial_id(dataclasses.replace(keys, before=[first, first]), 0, DATA * 3)
    places = [
        "data.path",
        "data.name",
        "data.text_field",
        "data.domains",
        "eval.data_dir",
        "eval.run_model_code",
    ]  # where the text lies; what it says is in its fingerprint. And what is allowed: the tasks say what is done
    assert {trial_id(changed_at(keys, name), 0, DATA) for name in places} == {ids["one"]}
    for name in set(trial_leaves()) - set(places):
        other = changed_at(keys, name)
        assert value_of(other, name) != value_of(keys, name)
        ids[name] = trial_id(other, 0, DATA)
        ids[f"{name} of the last"] = trial_id(changed_at(two, name), 0, DATA * 2)
        if not name.startswith("eval."):
            before = [changed_at(first, name)]
            ids[f"{name} of the first"] = trial_id(dataclasses.replace(keys, before=before), 0, DATA * 2)
    assert len(set(ids.values())) == len(ids) > 150


def test_what_is_not_compiled_has_the_id_of_before_there_was_compiling(plan, monkeypatch):
    keys, hashed = plan().baseline.keys, []
    monkeypatch.setattr(identity, "sha", lambda content: hashed.append(content) or "0" * 16)
    for compiled in (False, True):
        changed = with_overrides(keys, {"train.compile": compiled}, "test")
        trial_id(dataclasses.replace(changed, before=changed.stages), 0, DATA * 2)
        assert ("compiled" in environment(changed)) == compiled
    off, on = ([stage["train"] for stage in content["stages"]] for content in hashed)
    assert all("compile" not in train for train in off) and all(train["compile"] is True for train in on)
    assert [dict(train, compile=True) for train in off] == on


@pytest.mark.parametrize("key", ["model.dtype", "train.compile"])
def test_what_is_left_to_the_machine_has_no_id(plan, key):
    keys = with_overrides(plan().baseline.keys, {key: "auto"}, "test")
    for each in (keys, dataclasses.replace(plan().baseline.keys, before=[*keys.stages])):
        with pytest.raises(ValueError, match=f"^{key}=auto must be resolved"):
            trial_id(each, 0, DATA * len(each.stages))


def test_what_comes_once_has_the_id_of_before_there_were_epochs(plan, monkeypatch):
    keys, hashed = plan().baseline.keys, []
    monkeypatch.setattr(identity, "sha", lambda content: hashed.append(content) or "0" * 16)
    for epochs in (1, 2):
        trial_id(with_overrides(keys, {"data.epochs": epochs}, "test"), 0, DATA)
    ((once,), (twice,)) = ([stage["data"] for stage in content["stages"]] for content in hashed)
    assert "epochs" not in once and twice == {**once, "epochs": 2}


def test_seed_data_and_versions_count(plan, monkeypatch):
    keys = plan().baseline.keys
    ids = {trial_id(keys, 0, DATA), trial_id(keys, 1, DATA), trial_id(keys, 0, [{"text_sha256": "abd"}])}
    known = identity.bits()
    for name in ("torch", "instruction_set", "python"):
        with monkeypatch.context() as patch:
            patch.setattr(identity, "bits", lambda name=name: {**known, name: "other"})
            ids.add(trial_id(keys, 0, DATA))
    ids.add(trial_id(keys, 0, DATA, RANKED_TRIAL))
    monkeypatch.setattr(identity, "code_hash", lambda entry: "other")
    assert len(ids | {trial_id(keys, 0, DATA)}) == 8


def test_where_things_lie_and_who_watches_does_not_count(plan, tmp_path):
    words = ["launch.workers=7", "track.mode=offline", "track.project=p", f"runs_dir={tmp_path / 'elsewhere'}"]
    here, there = plan(), plan(*words, "seeds=5", "search=fresh", "launch.expected_tokens_per_second=1")
    for name in here.arms:
        assert trial_id(here.arms[name].keys, 0, DATA) == trial_id(there.arms[name].keys, 0, DATA)
    keys = here.baseline.keys
    moved = with_overrides(keys, {"data.path": "/somewhere/else.txt"}, "test")
    assert trial_id(moved, 0, DATA) == trial_id(keys, 0, DATA), "its bytes are in the fingerprint"
    assert len({trial_id(dataclasses.replace(keys, before=one.stages), 0, DATA * 2) for one in (keys, moved)}) == 1
    with pytest.raises(ValueError, match="1 texts of 2 stages"):
        trial_id(dataclasses.replace(keys, before=keys.stages), 0, DATA)


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
    keys = plan().baseline.keys
    assert "task_files" not in environment(keys), "ours are part of the code"
    keys = with_overrides(keys, {"eval.tasks": ["python_cloze", str(tmp_path / "mine.yaml")]}, "test")
    ids, known = {trial_id(keys, 0, DATA)}, {str(environment(keys)["task_files"])}
    for name, text in files.items():
        (tmp_path / name).write_text(text + "\n")
        ids.add(trial_id(keys, 0, DATA))
        known.add(str(environment(keys)["task_files"]))
    assert len(ids) == len(known) == 5
    (tmp_path / "other.py").write_text("# a comment\n")
    assert trial_id(keys, 0, DATA) in ids
    assert list(environment(keys)["task_files"]) == [str(tmp_path / "mine.yaml")]


def test_a_standard_task_counts_by_the_copy_of_its_data(plan, tmp_path):
    """And without one the keys of an id are those that they were before there were copies."""
    keys = with_overrides(plan().baseline.keys, {"eval.tasks": ["python_cloze", "piqa"]}, "test")
    ids = {trial_id(keys, 0, DATA)}
    for place, text in (("here", "a"), ("there", "a"), ("there", "b")):
        (tmp_path / place / "piqa").mkdir(parents=True, exist_ok=True)
        (tmp_path / place / "piqa" / "validation.jsonl").write_text(text)
        ids.add(trial_id(with_overrides(keys, {"eval.data_dir": str(tmp_path / place)}, "test"), 0, DATA))
    assert len(ids) == 3
    copied = with_overrides(keys, {"eval.data_dir": str(tmp_path / "here")}, "test")
    assert list(environment(copied)["task_files"]) == ["piqa"]
    ours = with_overrides(copied, {"eval.tasks": ["python_cloze"]}, "test")
    unread = with_overrides(keys, {"eval.tasks": ["python_cloze"]}, "test")
    assert trial_id(ours, 0, DATA) == trial_id(unread, 0, DATA), "nothing of the folder is read"


def test_an_id_is_sixteen_digits_and_knows_no_order(plan):
    keys, data = plan().baseline.keys, [{"text_sha256": "abc", "tokens": {"train": 1, "test": 2}}]
    name = trial_id(keys, 0, data)
    assert trial_id(keys, 0, [{"tokens": {"test": 2, "train": 1}, "text_sha256": "abc"}]) == name
    assert len(name) == 16
    assert int(name, 16) >= 0
    assert sha({"a": 1, "b": 2}) == sha({"b": 2, "a": 1})


def test_auto_has_no_id(plan):
    keys = plan().baseline.keys
    auto = with_overrides(keys, {"model.dtype": "auto"}, "test")
    for unresolved in (auto, dataclasses.replace(keys, before=auto.stages)):
        with pytest.raises(ValueError, match="must be resolved"):
            trial_id(unresolved, 0, DATA * len(unresolved.stages))


def test_the_record_says_what_the_bits_depend_on(plan):
    known = environment(plan().baseline.keys)
    for name in ("torch", "lightning", "python", "instruction_set", "code", "dtype", "threads", "device", "processor"):
        assert known[name], name
