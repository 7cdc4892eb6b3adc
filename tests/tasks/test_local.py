"""Benchmarks out of local copies: read as they are, checked before a model is there, and without any network."""

import gzip
import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from pyarrow import parquet
from tokenizers import Tokenizer, models, pre_tokenizers

from models.base.typed import ConfigError
from tasks.config import EvalConfig
from tasks.evals import known, programs
from tasks.evals.fingerprint import task_fingerprint
from tasks.evals.known import OUR_TASKS, REFERENCES, check_copies, check_tasks
from tasks.evals.local import BENCHMARKS, benchmark_of, local_files
from tasks.evals.prepare import load_tasks, prepare_tasks
from tasks.evals.presets import PRESETS, preset
from tasks.evals.programs import PROGRAMS
from tasks.evals.sandbox import Outcome
from tasks.evals.score import score

SHARED = Path(__file__).parents[3] / "shared" / "data"

ARC = {"question": "Why?", "choices": {"text": ["so", "not"], "label": ["A", "B"]}, "answerKey": "B"}
ROWS: dict[str, dict[str, Any]] = {
    "blimp": {"UID": "adjunct_island", "sentence_good": "Who ran?", "sentence_bad": "Who run?", "pairID": "0"},
    "hellaswag": {"activity_label": "A", "ctx_a": "b", "ctx_b": "", "endings": ["c", "d", "e", "f"], "label": "2"},
    "piqa": {"goal": "To go", "sol1": "walk", "sol2": "sit", "label": 0},
    "arc_easy": ARC,
    "arc_challenge": ARC,
    "lambada_openai": {"text": "she said his name was Bob"},
    "wikitext": {"page": " = Bob = \n \n Bob is a man . \n"},
    "winogrande": {"sentence": "Ann saw Eve as _ came.", "option1": "Ann", "option2": "Eve", "answer": "2"},
    "sciq": {
        "support": "",
        "question": "What?",
        "correct_answer": "this",
        **{f"distractor{number}": "that" for number in (1, 2, 3)},
    },
    "gsm8k": {"question": "1 + 1?", "answer": "It is 2. #### 2"},
    "humaneval_reference": {"prompt": "def f():\n", "canonical_solution": "    return 1\n"},
    "mbpp_reference": {"text": "Write f.", "code": "def f():\r\n  return 1", "test_list": ["assert f() == 1"]},
    "humaneval": {"prompt": "def f():\n", "test": "def check(g):\n    assert g() == 1\n", "entry_point": "f"},
    "mbpp": {"text": "Write f.", "code": "", "test_list": ["assert f() == 1"]},
}


class Data:
    """A tokenizer of single bytes and no held-out document."""

    seq_len = 64
    fingerprint = {"name": "local"}

    def __init__(self) -> None:
        alphabet = ["<|endoftext|>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
        self.tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(alphabet)}, merges=[]))
        self.tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)

    def documents(self, split: str) -> list[Any]:
        return []

    def questions(self, split: str) -> list[Any]:
        return []


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("a local copy needs no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def put(folder: Path, task: str, rows: list[dict[str, Any]], ending: str = ".jsonl") -> Path:
    """The copies of a task's files; the last of them."""
    text = "".join(json.dumps(row) + "\n" for row in rows)
    for stem in BENCHMARKS[task].files.values():
        path = folder / (stem + ending)
        path.parent.mkdir(parents=True, exist_ok=True)
        if ending == ".parquet":
            parquet.write_table(pa.Table.from_pylist(rows), path)
        else:
            path.write_bytes(gzip.compress(text.encode()) if ending.endswith(".gz") else text.encode())
    return path


def name_of(task: str) -> str:
    """A group's 67 tasks want 67 kinds of rows."""
    return "blimp_adjunct_island" if task == "blimp" else task


def config(folder: Path, *tasks: str) -> EvalConfig:
    return EvalConfig(
        tasks=list(tasks), data_dir=str(folder), items=None, run_model_code=not {*PROGRAMS}.isdisjoint(tasks)
    )


def uniform(tokens: torch.Tensor) -> torch.Tensor:
    return torch.zeros(*tokens.shape, 257)


@pytest.mark.parametrize("ending", [".jsonl", ".jsonl.gz", ".parquet"])
@pytest.mark.parametrize("task", ROWS)
def test_a_benchmark_is_scored_from_its_copy(
    task: str, ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(known, "require_sandbox", lambda: None)
    monkeypatch.setattr(programs, "run", lambda program: Outcome("failed"))
    put(tmp_path / "copies", task, [ROWS[task]] * 6, ending)
    wanted = config(tmp_path / "copies", name_of(task))
    prepare_tasks(Data(), wanted, tmp_path / "cache")
    (row,) = score(uniform, Data(), wanted, tmp_path / "cache").values()
    assert row["n"] == 6
    if "chance" in row and task != "winogrande":  # whose choices are contexts
        assert row["answer_bits_per_byte"] == pytest.approx(8.0056, abs=1e-3)  # log2(257)


def test_every_benchmark_is_tried_here(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ROWS.keys() == BENCHMARKS.keys()
    for task in BENCHMARKS:
        monkeypatch.setattr(known, "require_sandbox", lambda: None)
        check_tasks([name_of(task)], None, task in PROGRAMS)  # none of them needs lm-eval's index of all tasks


def test_a_reference_solution_is_scored_per_byte_of_itself(tmp_path: Path) -> None:
    for task in REFERENCES:
        put(tmp_path / "copies", task, [ROWS[task]] * 2)
    likes = torch.zeros(257)
    likes[Data().tokenizer.encode("r").ids[0]] = 2.0
    rows = score(
        lambda tokens: likes.expand(*tokens.shape, 257),
        Data(),
        config(tmp_path / "copies", *REFERENCES),
        tmp_path / "cache",
    )
    for task, text in (("humaneval_reference", "\n    return 1\n"), ("mbpp_reference", "\ndef f():\n  return 1")):
        log_p = likes.double().log_softmax(-1)[Data().tokenizer.encode(text).ids]
        assert rows[task]["bits_per_byte"] == pytest.approx(-float(log_p.mean()) / 0.6931471805599453, rel=1e-6), task


def refused(tasks: list[str], folder: Path, cache: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        prepare_tasks(Data(), config(folder, *tasks), cache)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def without(field: str, **instead: Any) -> list[dict[str, Any]]:
    row = ROWS["hellaswag"]
    return [row, {**{key: value for key, value in row.items() if key != field}, **instead}]


BROKEN: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no folder": (lambda d: None, "there is no such folder"),
    "no file": (lambda d: d.mkdir(), "hellaswag needs hellaswag/validation.jsonl there (or .jsonl.gz, or .parquet)"),
    "two files": (
        lambda d: [put(d, "hellaswag", [ROWS["hellaswag"]], ending) for ending in (".jsonl", ".parquet")],
        "validation.jsonl and validation.parquet both stand in hellaswag",
    ),
    "no row": (lambda d: put(d, "hellaswag", []), "hellaswag/validation.jsonl has no row"),
    "no row in a table": (
        lambda d: parquet.write_table(
            pa.Table.from_pylist([ROWS["hellaswag"]]).slice(0, 0), put(d, "hellaswag", without("x"), ".parquet")
        ),
        "hellaswag/validation.parquet has no row",
    ),
    "no field": (
        lambda d: put(d, "hellaswag", without("endings")),
        "hellaswag/validation.jsonl line 2 has no field `endings` (fields: activity_label, ctx_a, ctx_b, label)",
    ),
    "no column": (
        lambda d: put(d, "hellaswag", [{**without("label")[1], "gold": "0"}], ".parquet"),
        "hellaswag/validation.parquet row 1 has no field `label` (fields: activity_label, ctx_a, ctx_b, endings, gold)",
    ),
    "another type": (
        lambda d: put(d, "hellaswag", without("endings", endings="c"), ".jsonl.gz"),
        'line 2 has a field `endings` that is "c"; it must be a list of four texts that are not empty without what',
    ),
    "no such answer": (
        lambda d: put(d, "hellaswag", without("label", label="4")),
        'line 2 has a field `label` that is "4"; it must be one of "0", "1", "2", "3"',
    ),
    "not JSON": (
        lambda d: put(d, "hellaswag", [ROWS["hellaswag"]]).write_text("{\n"),
        "hellaswag/validation.jsonl line 1 is no JSON object",
    ),
    "torn": (
        lambda d: put(d, "hellaswag", [ROWS["hellaswag"]], ".jsonl.gz").write_bytes(gzip.compress(b"x" * 99)[:20]),
        "hellaswag/validation.jsonl.gz cannot be read whole",
    ),
    "torn table": (
        lambda d: put(d, "hellaswag", [ROWS["hellaswag"]], ".parquet").write_bytes(b"PAR1"),
        "hellaswag/validation.parquet is not a whole Parquet file",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_a_copy_lacks_is_one_line_before_a_model_is_there(case: str, tmp_path: Path) -> None:
    make, words = BROKEN[case]
    make(tmp_path / "copies")
    told = refused(["hellaswag"], tmp_path / "copies", tmp_path / "cache")
    assert told.startswith(f"eval.data_dir={tmp_path / 'copies'}: ") and words in told


@pytest.mark.parametrize(
    ("task", "field", "value", "words"),
    [
        ("arc_easy", "answerKey", "C", "one of the labels of its choices"),
        ("arc_easy", "choices", {"text": ["so", "not"], "label": ["A", "A"]}, "no label twice"),
        ("arc_easy", "choices", {"text": ["so", ""], "label": ["A", "B"]}, "no label twice"),
        ("hellaswag", "endings", ["a", "b", "c", " "], "not empty without what stands in [brackets]"),
        ("hellaswag", "endings", ["a", "b", "c", " [title]"], "not empty without what stands in [brackets]"),
        ("hellaswag", "endings", ["a", "b", "c", "[d]"], "not empty without what stands in [brackets]"),
        ("arc_easy", "choices", {"text": ["a"], "label": ["A"]}, "equally long, none empty, no label twice"),
        ("humaneval_reference", "prompt", "", "text that is not empty"),
        ("piqa", "sol1", "", "text that is not empty"),
        ("winogrande", "option2", "", "text that is not empty"),
        ("sciq", "distractor3", "", "text that is not empty"),
        ("humaneval_reference", "canonical_solution", "", "text that is not empty"),
        ("mbpp_reference", "code", "", "text that is not empty"),
        ("gsm8k", "answer", "It is 3.", "text with a result behind `####`"),
        ("winogrande", "sentence", "Ann saw Eve.", "text with a gap, `_`, and words behind it"),
        ("winogrande", "sentence", "Ann saw _ ", "text with a gap, `_`, and words behind it"),
        ("lambada_openai", "text", "Bob", "text of two words or more, the last one at its end"),
        ("lambada_openai", "text", "his name was Bob ", "text of two words or more, the last one at its end"),
        ("wikitext", "page", " \n", "text that is not empty"),
        ("piqa", "goal", "half \ud800", "text"),
        ("humaneval", "entry_point", "f; import os", "the name of a function"),
    ],
)
def test_what_no_task_could_score_is_named_by_its_row(
    task: str, field: str, value: Any, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(known, "require_sandbox", lambda: None)
    put(tmp_path / "copies", task, [ROWS[task], {**ROWS[task], field: value}])
    told = refused([task], tmp_path / "copies", tmp_path / "cache")
    assert f"line 2 has a field `{field}` that is " in told and "; it must be " in told and told.endswith(words)


def test_a_paradigm_without_rows_is_named(tmp_path: Path) -> None:
    put(tmp_path, "blimp", [ROWS["blimp"]])
    told = refused(["blimp"], tmp_path, tmp_path / "cache")
    assert "blimp.jsonl has no row whose UID is anaphor_gender_agreement; copy the whole file, or leave" in told


def test_fewer_examples_than_stand_before_a_question_are_named(tmp_path: Path) -> None:
    enough, few = (tmp_path / name for name in ("enough", "few"))
    for folder, rows in ((enough, 5), (few, 4)):
        put(folder, "gsm8k", [ROWS["gsm8k"]] * rows)
    prepare_tasks(Data(), config(enough, "gsm8k"), tmp_path / "cache")
    told = refused(["gsm8k"], few, tmp_path / "cache")
    assert "gsm8k/train.jsonl has 4 rows; of it come the 5 examples before a question" in told


def test_data_that_nothing_reads_are_named(tmp_path: Path) -> None:
    for tasks in ([], ["python_cloze"]):
        with pytest.raises(ConfigError, match=r"eval\.data_dir=.*: eval\.tasks=\[.*\] has no task that reads it; add"):
            check_copies(tasks, str(tmp_path))


def test_a_task_without_a_layout_and_one_that_runs_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    monkeypatch.setattr(
        known, "_standard_tasks", lambda: SimpleNamespace(all_tasks=["mmlu", "blimp_nl"], task_index={})
    )
    for task in ("mmlu", "blimp_nl"):
        told = refused([task], tmp_path, tmp_path / "cache")
        assert told.startswith(f"eval.tasks={task}: ") and "blimp, hellaswag, piqa" in told
    for task in PROGRAMS:
        monkeypatch.setattr(known, "_standard_tasks", lambda folder=task: known._tasks_in(folder))
        told = refused([f"{task}_plus"], tmp_path, tmp_path / "cache")
        assert told.startswith(f"eval.tasks={task}_plus: runs code that the model writes")
        assert f"{task}_reference" in told


def test_the_fingerprint_is_of_the_copies_that_a_task_reads(tmp_path: Path) -> None:
    """And not of where they lie."""
    for place in ("here", "there"):
        for task in ("hellaswag", "piqa", "blimp"):
            put(tmp_path / place, task, [ROWS[task]])
    tasks = ["hellaswag", "blimp_adjunct_island", "python_cloze"]
    before = task_fingerprint(tasks, str(tmp_path / "here"))
    assert before == task_fingerprint(tasks, str(tmp_path / "there"))
    assert list(before) == tasks[:2] and task_fingerprint(tasks) == {}
    put(tmp_path / "here", "piqa", [ROWS["piqa"]] * 2)
    assert task_fingerprint(tasks, str(tmp_path / "here")) == before
    put(tmp_path / "here", "blimp", [ROWS["blimp"]] * 2)
    after = task_fingerprint(tasks, str(tmp_path / "here"))
    assert after != before and after["hellaswag"] == before["hellaswag"]


def test_an_edited_copy_is_loaded_anew(tmp_path: Path) -> None:
    for rows in (1, 3):
        put(tmp_path / "copies", "piqa", [ROWS["piqa"]] * rows)
        found = score(uniform, Data(), config(tmp_path / "copies", "piqa"), tmp_path / "cache")
        assert found["piqa"]["n"] == rows


FOLDERS = (
    *("agieval", "bbh", "ceval", "cmmlu", "drop", "hendrycks_math", "mgsm", "mmlu", "mmlu_pro", "nq_open"),
    *("pile_10k", "race", "triviaqa"),
)
"""Of lm-eval, where the rest of v3_report lies; its index of all would take seconds."""


def test_presets_name_tasks_that_there_are() -> None:
    assert preset("quick") == EvalConfig().tasks
    with pytest.raises(ConfigError, match="eval=small: no such preset; did you mean small_lm?"):
        preset("small")
    for name in PRESETS:
        assert set(preset(name)) <= {*OUR_TASKS, *BENCHMARKS} or name == "v3_report", name
    import lm_eval.tasks

    rest = [task for task in preset("v3_report") if task not in BENCHMARKS]
    text = "\n".join(
        path.read_text(errors="replace")
        for folder in FOLDERS
        for path in (Path(lm_eval.tasks.__file__).parent / folder).rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    ).splitlines()
    named = {line.partition(":")[2].strip() for line in text if line.startswith(("task:", "group:", "tag:"))}
    assert set(rest) <= named


@pytest.mark.skipif(not (SHARED / "hellaswag").is_dir(), reason="real benchmarks are not here")
def test_real_copies_are_read_whole(tmp_path: Path) -> None:
    counts = {
        "hellaswag": 10042,
        "piqa": 1838,
        "arc_easy": 2376,
        "lambada_openai": 5153,
        "wikitext": 62,
        "winogrande": 1267,
        "gsm8k": 1319,
        "humaneval_reference": 164,
        "mbpp_reference": 500,
    }
    names = [*counts, "blimp_adjunct_island", "blimp_wh_island"]
    loaded = load_tasks(Data(), config(SHARED, *names), tmp_path)["tasks"]
    for name in names:
        assert len(loaded[name].eval_docs) == counts.get(name, 1000), name
    for name in BENCHMARKS:
        assert benchmark_of(name) is BENCHMARKS[name]


def test_a_folder_whose_name_is_too_long_is_not_there() -> None:
    with pytest.raises(ConfigError, match=r"^eval.data_dir=b+: there is no such folder"):
        local_files("piqa", "b" * 300)
