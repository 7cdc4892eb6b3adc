"""What scoring needs is tried without a model: each thing that would fail after a training fails here, in one line."""

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers

from models.base.typed import ConfigError
from tasks.config import EvalConfig
from tasks.evals import items, prepare
from tasks.evals import known as known_tasks
from tasks.evals.harness import seeded
from tasks.evals.known import check_tasks
from tasks.evals.prepare import prepare_tasks
from tasks.evals.score import score
from tasks.text.splits import Document

CHOICE = "output_type: multiple_choice\ndoc_to_text: q\ndoc_to_choice: options\ndoc_to_target: answer\n"
GENERATE = (
    "output_type: generate_until\ndoc_to_text: q\ndoc_to_target: text\n"
    "metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]\n"
)
CODE = [
    Document(
        f"m{n}.py", "".join(f"def function_{n}_{i}(value):\n    return value + {i * 37 % 91}\n\n" for i in range(60))
    )
    for n in range(6)
]


class Data:
    """What is needed of tasks.text.batches.PackedData; `read` says which documents were asked for."""

    seq_len = 32

    def __init__(self, documents: list[Document], name: str) -> None:
        self.text, self.fingerprint, self.read = documents, {"name": name}, list[str]()
        alphabet = ["<|endoftext|>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
        self.tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(alphabet)}, merges=[]))
        self.tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)

    def documents(self, split: str) -> list[Document]:
        self.read.append(split)
        return self.text


def questions(folder: Path, count: int = 6) -> Path:
    """A data file of `count` items."""
    path = folder / "questions.jsonl"
    rows = [{"q": f"{i} + 2 =", "options": ["2", "3", "4"], "answer": i % 3, "text": "2"} for i in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def task_file(folder: Path, name: str, rest: str = CHOICE, data: Path | None = None, task: str | None = None) -> str:
    """The path of a YAML file of the task `task` (`name` unless given), whose data are `data` or else absent."""
    path = folder / f"{name}.yaml"
    data_files = f"dataset_kwargs: {{data_files: {{test: {data or folder / 'absent.jsonl'}}}}}\n"
    path.write_text(f"task: {task or name}\ndataset_path: json\n{data_files}test_split: test\n{rest}")
    return str(path)


def refused(names: list[str], cache: Path, documents: list[Document] = CODE) -> str:
    with pytest.raises(ConfigError) as caught:
        prepare_tasks(Data(documents, repr(documents)[:200]), EvalConfig(tasks=names), cache)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_our_own_tasks_need_their_items_and_nothing_of_lm_eval(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def rehearsed(*_: Any) -> None:
        raise AssertionError("ours have nothing to rehearse")

    monkeypatch.setattr(prepare, "_rehearse", rehearsed)
    said: list[str] = []
    prepare_tasks(Data(CODE, "ours"), EvalConfig(), tmp_path, said.append)
    assert said == ["trying the tasks python_bits_per_byte, python_cloze"]
    assert len(list((tmp_path / "evals").glob("*.jsonl"))) == 2
    prepare_tasks(Data([], "nothing is asked"), EvalConfig(tasks=[]), tmp_path / "none", said.append)
    assert len(said) == 1 and not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("task", "text", "words"),
    [
        ("python_cloze", "x = 1\n", "(1 lines of 5 to 5 bytes): one takes a line of code of 8 to 80 bytes"),
        ("python_cloze", f"{'word ' * 60}\n" * 40, "(40 lines of 300 to 300 bytes): one takes a line of code"),
        ("python_bits_per_byte", "word " * 2000, "(1 lines of 10,000 to 10,000 bytes): one takes whole lines that"),
        ("python_bits_per_byte", "\n\n", "(no line)"),
        ("python_cloze", "value = value + 1\r" * 500, "(1 lines of 9,000 to 9,000 bytes)"),  # no line ends by \r alone
    ],
)
def test_a_text_without_items_is_told_what_an_item_takes(task: str, text: str, words: str, tmp_path: Path) -> None:
    told = refused([task], tmp_path, [Document("a", text)])
    assert told.startswith(f"eval.tasks={task}: no item can be made of the test split ")
    assert not [path for path in tmp_path.rglob("*.jsonl") if not path.stat().st_size], "nothing half-written"
    assert words in told and "choose other eval.tasks" in told


def test_items_of_lines_that_end_in_two_characters(tmp_path: Path) -> None:
    """The same questions as with one, their contexts verbatim."""
    twice = [Document(document.name, document.text.replace("\n", "\r\n")) for document in CODE]
    plain, found = items.cloze(CODE), items.cloze(twice)
    assert len(found) > 0.8 * len(plain) > 0, "contexts are longer by a byte a line, so that a few differ"
    text = {document.name: document.text for document in twice}
    for item in found:
        assert not any("\r" in choice for choice in item["choices"])
        assert item["context"] + item["choices"][item["gold"]] + "\r\n" in text[item["document"]]
    assert items.excerpts(twice)


FAILING: dict[str, tuple[Callable[[Path, Path], str], str]] = {
    "data that are missing": (lambda d, q: task_file(d, "t"), "cannot be loaded with its data (FileNotFoundError: "),
    "data that are broken": (
        lambda d, q: [q.write_text("not json"), task_file(d, "t", data=q)][1],
        "cannot be loaded with its data (",
    ),
    "a field that is not there": (
        lambda d, q: task_file(d, "t", CHOICE.replace("options", "choices"), q),
        "cannot be loaded with its data (",
    ),
    "a field that one row lacks": (
        lambda d, q: [q.write_text(q.read_text() + '{"q": "x", "answer": 0}\n'), task_file(d, "t", data=q)][1],
        "cannot be scored (",
    ),
    "no row": (
        lambda d, q: [
            (d / "none.py").write_text("def docs(d):\n    return d.select([])\n"),
            task_file(d, "t", CHOICE + "process_docs: !function none.docs\n", q),
        ][1],
        "cannot be loaded with its data (",
    ),
    "sampling": (
        lambda d, q: task_file(d, "t", GENERATE + "generation_kwargs: {do_sample: true, temperature: 0.7}\n", q),
        "t wants answers generated with do_sample=True, and only greedy decoding is here",
    ),
    "beams": (
        lambda d, q: task_file(d, "t", GENERATE + "generation_kwargs: {num_beams: 4}\n", q),
        "num_beams=4, and only greedy decoding is here",
    ),
    "code of its own that fails on an answer": (
        lambda d, q: [
            (d / "own.py").write_text("def results(doc, results):\n    return {'acc': doc['no such field']}\n"),
            task_file(d, "t", CHOICE + "process_results: !function own.results\n", q),
        ][1],
        "cannot be scored (KeyError: 'no such field'); mend the task",
    ),
}


@pytest.mark.parametrize("case", FAILING)
def test_what_would_fail_after_a_training_fails_before(case: str, tmp_path: Path) -> None:
    make, words = FAILING[case]
    name = make(tmp_path, questions(tmp_path))
    told = refused([name], tmp_path / "cache")
    assert told.startswith(f"eval.tasks={name}: ") and words in told


def test_a_task_that_works_is_tried_as_it_will_be_scored(tmp_path: Path) -> None:
    data = questions(tmp_path)
    names = [task_file(tmp_path, "choice", CHOICE, data), task_file(tmp_path, "generate", GENERATE, data)]
    prepare_tasks(Data(CODE, "works"), EvalConfig(tasks=names), tmp_path / "cache")


def test_two_files_with_one_task_are_refused(tmp_path: Path) -> None:
    data = questions(tmp_path)
    first, second = task_file(tmp_path, "a", data=data, task="same"), task_file(tmp_path, "b", data=data, task="same")
    told = refused([first, second], tmp_path / "cache")
    assert first in told and second in told and "one of the two rows would be lost" in told
    with pytest.raises(ConfigError, match="names the task python_cloze, as python_cloze does"):
        check_tasks(["python_cloze", task_file(tmp_path, "c", data=data, task="python_cloze")])
    check_tasks([first, first])  # the same entry twice is one


def test_an_edited_file_is_loaded_anew(tmp_path: Path) -> None:
    """In one process, too."""
    name = task_file(tmp_path, "t", data=questions(tmp_path))
    data, config = Data(CODE, "edited"), EvalConfig(tasks=[name], items=None)

    def scored() -> Any:
        return score(lambda tokens: torch.zeros(*tokens.shape, 257), data, config, tmp_path / "cache")["t"]["n"]

    assert scored() == 6
    questions(tmp_path, 9)
    assert scored() == 9


def test_examples_before_a_question_are_the_same_for_every_model(tmp_path: Path) -> None:
    """lm-eval's `evaluate` draws them from the operating system's entropy."""
    name = task_file(tmp_path, "t", CHOICE + "num_fewshot: 2\nfewshot_split: test\n", questions(tmp_path, 40))
    asked: list[Any] = []

    def logits(tokens: torch.Tensor) -> torch.Tensor:
        asked[-1].append(tokens.tolist())
        return torch.zeros(*tokens.shape, 257)

    for _ in range(2):
        asked.append([])
        score(logits, Data(CODE, "few"), EvalConfig(tasks=[name], items=None), tmp_path / "cache")
    assert asked[0] == asked[1] and asked[0]


def test_global_generators_go_on_as_if_nothing_had_been_drawn() -> None:
    before = random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[union-attr,index]
    drawn = []
    for _ in range(2):
        with seeded():
            drawn.append((random.random(), np.random.rand()))
    assert drawn[0] == drawn[1]
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before  # type: ignore[union-attr,index]


def test_eval_items_is_at_least_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"eval.items=0"):
        prepare_tasks(Data(CODE, "zero"), EvalConfig(items=0), tmp_path)


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """lm-eval's index of all standard tasks costs seconds."""
    known = SimpleNamespace(all_tasks=("hellaswag", "lambada_openai", "piqa", "boolq"), task_index={})
    monkeypatch.setattr(known_tasks, "_standard_tasks", lambda: known)
    yield


def test_unknown_task_names_the_nearest(index: None, tmp_path: Path) -> None:
    check_tasks(["python_cloze", "python_bits_per_byte", "piqa", "boolq"])
    with pytest.raises(ConfigError, match=r"eval.tasks=hellaswagg: .*did you mean hellaswag"):
        check_tasks(["hellaswagg"])
    with pytest.raises(ConfigError, match="did you mean python_cloze"):
        check_tasks(["python_clos"])
    with pytest.raises(ConfigError, match="no such file"):
        check_tasks([str(tmp_path / "mine.yaml")])


def test_a_data_set_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def load(names: list[str]) -> Any:
        raise ConnectionError("Couldn't reach 'google/boolq' on the Hub\nsecond line")

    known = SimpleNamespace(all_tasks=("boolq",), task_index={}, load=load)
    monkeypatch.setattr(known_tasks, "_standard_tasks", lambda: known)
    told = refused(["boolq"], tmp_path)
    assert told.startswith(
        "eval.tasks=boolq: cannot be loaded with its data (ConnectionError: Couldn't reach 'google/boolq'"
    )
    assert "network" in told


def test_a_metric_that_gives_no_score_is_said(tmp_path: Path) -> None:
    lost = "metric_list: [{metric: acc}, {metric: nosuch, aggregation: mean, higher_is_better: true}]\n"
    mine = task_file(tmp_path, "mine", CHOICE + lost, questions(tmp_path))
    told = refused([mine], tmp_path)
    assert told.startswith(
        f"eval.tasks={mine}: the task mine names the metric nosuch, of which no score comes (it gives acc"
    )
