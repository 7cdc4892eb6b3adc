"""Standard benchmarks out of local copies, `eval.data_dir`: which files each takes, and what must stand in them.

A file is .jsonl, .jsonl.gz or .parquet. Every row of it is checked when its task is loaded, so that a field that lacks
shows before a model is trained. Nothing here needs lm-eval, and no task that is read here asks a hub for data.
"""

import contextlib
import dataclasses
import gzip
import json
import os
import re
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.base.typed import ConfigError
from tasks.text.reading import opened_table

if TYPE_CHECKING:
    from datasets import Dataset

Row = dict[str, Any]
ENDINGS = (".jsonl", ".jsonl.gz", ".parquet")


@dataclass(frozen=True)
class Rule:
    """What a field must hold, in a user's words and as a test."""

    words: str
    keeps: Callable[[Any], bool]


def _texts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(_text(text) for text in value)


def _some(value: Any) -> bool:
    return _text(value) and bool(value.strip())


def _choices(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and all(_texts(value.get(name)) for name in ("text", "label"))
        and all(map(_some, value["text"]))
        and 2 <= len(value["text"]) == len(value["label"]) == len(set(value["label"]))
    )


def _four(value: Any) -> bool:
    """lm-eval takes out what stands in brackets, but for a title amid a text."""
    return _texts(value) and [_some(re.sub(r"( \[title\])|\[.*?\]", r"\1", t.strip())) for t in value] == [True] * 4


def _last_word(value: str) -> bool:
    """lm-eval asks for what stands behind the last blank."""
    before, _, word = value.rpartition(" ")
    return _some(before) and _some(word)


def _one_of(*values: int | str) -> Rule:
    kinds = {type(value) for value in values}  # or True would do for 1
    words = f"one of {', '.join(json.dumps(value) for value in values)}"
    return Rule(words, lambda value: type(value) in kinds and value in values)


def _text(value: Any) -> bool:
    """That UTF-8 can hold, as half of a pair of surrogates cannot be."""
    return isinstance(value, str) and not any("\ud800" <= letter <= "\udfff" for letter in value)


TEXT = Rule("text", _text)
WORDS = Rule("text of two words or more, the last one at its end", lambda value: _text(value) and _last_word(value))
SOME = Rule("text that is not empty", _some)
SUM = Rule(
    "text with a result behind `####`",
    lambda value: _text(value) and "####" in value and _some(value.rpartition("####")[2]),
)
GAP = Rule("text with a gap, `_`, and words behind it", lambda value: _text(value) and _some(value.partition("_")[2]))
NAME = Rule("the name of a function", lambda value: _text(value) and value.isidentifier())
CHOICES = Rule("`text` and `label`, lists of two texts or more, equally long, none empty, no label twice", _choices)
FOUR = Rule("a list of four texts that are not empty without what stands in [brackets]", _four)
KEYED = Rule("one of the labels of its choices", lambda row: row["answerKey"] in row["choices"]["label"])


@dataclass(frozen=True)
class Benchmark:
    """A data set of the hub that standard tasks read, and its copy."""

    dataset: str
    """As lm-eval's tasks name it."""
    folder: str | None
    """Of lm-eval, where those tasks lie; None where they are ours."""
    files: Mapping[str, str]
    """Split -> its file below `eval.data_dir`, without the ending."""
    fields: Mapping[str, Rule]
    """What the tasks read."""
    subset: str | None = None
    """The field that says which of the data set's subsets a row is of."""
    beside: Mapping[str, Rule] = dataclasses.field(default_factory=dict)
    """Field -> what it must be beside the others: of the whole row."""
    examples: Mapping[str, int] = dataclasses.field(default_factory=dict)
    """Split -> how many of its rows stand before each question."""


OF_CHOICES = {"answerKey": KEYED}
ARC = {"question": TEXT, "choices": CHOICES, "answerKey": TEXT}
MBPP = {"text": TEXT, "code": TEXT, "test_list": Rule("a list of texts, one or more", _texts)}


def _all_text(*fields: str) -> dict[str, Rule]:
    return dict.fromkeys(fields, TEXT)


def _all_some(*fields: str) -> dict[str, Rule]:
    """Of what is answered: an empty answer is as likely as nothing else."""
    return dict.fromkeys(fields, SOME)


BENCHMARKS = {
    "blimp": Benchmark(
        "nyu-mll/blimp", "blimp", {"train": "blimp/blimp"}, _all_some("UID", "sentence_good", "sentence_bad"), "UID"
    ),
    "hellaswag": Benchmark(
        "Rowan/hellaswag",
        "hellaswag",
        {"validation": "hellaswag/validation"},
        {
            **_all_text("activity_label", "ctx_a", "ctx_b"),
            "endings": FOUR,
            "label": _one_of("0", "1", "2", "3"),
        },
    ),
    "piqa": Benchmark(
        "baber/piqa",
        "piqa",
        {"validation": "piqa/validation"},
        {"goal": TEXT, **_all_some("sol1", "sol2"), "label": _one_of(0, 1)},
    ),
    "arc_easy": Benchmark("allenai/ai2_arc", "arc", {"test": "arc_easy/test"}, ARC, beside=OF_CHOICES),
    "arc_challenge": Benchmark("allenai/ai2_arc", "arc", {"test": "arc_challenge/test"}, ARC, beside=OF_CHOICES),
    "lambada_openai": Benchmark(
        "EleutherAI/lambada_openai", "lambada", {"test": "lambada_openai/test"}, {"text": WORDS}
    ),
    "wikitext": Benchmark(
        "EleutherAI/wikitext_document_level", "wikitext", {"test": "wikitext-2/raw_test.pages"}, {"page": SOME}
    ),
    "winogrande": Benchmark(
        "allenai/winogrande",
        "winogrande",
        {"validation": "winogrande/validation"},
        {"sentence": GAP, **_all_some("option1", "option2"), "answer": _one_of("1", "2")},
    ),
    "sciq": Benchmark(
        "allenai/sciq",
        "sciq",
        {"test": "sciq/test"},
        {
            **_all_text("support", "question"),
            **_all_some("distractor1", "distractor2", "distractor3", "correct_answer"),
        },
    ),
    "gsm8k": Benchmark(
        "openai/gsm8k",
        "gsm8k",
        {"test": "gsm8k/test", "train": "gsm8k/train"},
        {"question": TEXT, "answer": SUM},
        examples={"train": 5},
    ),
    "humaneval_reference": Benchmark(
        "openai/openai_humaneval", None, {"test": "humaneval/test"}, _all_some("prompt", "canonical_solution")
    ),
    "mbpp_reference": Benchmark("google-research-datasets/mbpp", None, {"test": "mbpp/test"}, {**MBPP, "code": SOME}),
    "humaneval": Benchmark(
        "openai/openai_humaneval",
        None,
        {"test": "humaneval/test"},
        {**_all_some("prompt", "test"), "entry_point": NAME},
    ),
    "mbpp": Benchmark("google-research-datasets/mbpp", None, {"test": "mbpp/test"}, MBPP),
}
"""By the name of the task, which for blimp is a group's: each of its tasks, `blimp_...`, reads it, too."""


def benchmark_of(task: str) -> Benchmark | None:
    """None for a task that no local copy is read for."""
    other = task.startswith("blimp_nl")  # Dutch, of another data set
    return BENCHMARKS.get("blimp" if task.startswith("blimp_") and not other else task)


def local_files(task: str, data_dir: str) -> dict[str, Path]:
    """Split -> file of a task's data. Raises ConfigError where `data_dir` is no folder, or lacks one of them."""
    folder = _folder(data_dir)
    benchmark = benchmark_of(task)
    if not os.path.isdir(folder):  # where Path would raise for a name that is too long
        raise ConfigError(f"eval.data_dir={data_dir}: there is no such folder; name the one that the copies lie in")
    if benchmark is None:
        raise ConfigError(
            f"eval.tasks={task}: eval.data_dir is read for {', '.join(BENCHMARKS)} alone; leave the task out, or leave "
            "eval.data_dir out to have lm-eval download its data"
        )
    files = {}
    for split, stem in benchmark.files.items():
        found = [path for ending in ENDINGS if (path := folder / (stem + ending)).is_file()]
        if not found:
            raise ConfigError(
                f"eval.data_dir={data_dir}: {task} needs {stem}.jsonl there (or .jsonl.gz, or .parquet), and there is "
                "no such file; put it there, or leave the task out"
            )
        if len(found) > 1:
            raise ConfigError(
                f"eval.data_dir={data_dir}: {' and '.join(path.name for path in found)} both stand in "
                f"{found[0].parent.name}; keep the one that {task} is to read"
            )
        files[split] = found[0]
    return files


def existing_files(task: str, data_dir: str) -> list[Path]:
    """Whatever of a task's files there is, for a fingerprint."""
    benchmark = benchmark_of(task)
    stems = benchmark.files.values() if benchmark is not None else ()
    places = (_folder(data_dir) / (stem + ending) for stem in stems for ending in ENDINGS)
    return [place for place in places if place.is_file()]


def _folder(data_dir: str) -> Path:
    return Path(os.path.expanduser(data_dir))


@contextlib.contextmanager
def local_datasets(task: str, data_dir: str) -> Iterator[None]:
    """Meanwhile the data set of a standard task, or of the group's tasks, is read from `data_dir` and not from the hub.

    Raises ConfigError, in one line, for a file that is not there, has no row, or has one that does not hold what the
    task reads.
    """
    import datasets

    files, benchmark = local_files(task, data_dir), benchmark_of(task)
    assert benchmark is not None
    parts = {split: _divided(file, benchmark, f"eval.data_dir={data_dir}") for split, file in files.items()}

    for split, least in benchmark.examples.items():
        if (rows := sum(map(len, parts[split].values()))) < least:
            raise ConfigError(
                f"eval.data_dir={data_dir}: {files[split].parent.name}/{files[split].name} has {rows} rows; of it come "
                f"the {least} examples before a question, so put as many there, or leave the task out"
            )

    def load_dataset(path: str, name: str | None = None, **_: Any) -> "_Splits":
        if path != benchmark.dataset:
            raise ConfigError(f"eval.tasks={task}: reads the data set {path}, which eval.data_dir knows no copy of")
        subset = name if benchmark.subset is not None else None
        for split, rows in parts.items():
            if not rows.get(subset):
                raise ConfigError(
                    f"eval.data_dir={data_dir}: {files[split].name} has no row whose {benchmark.subset} is {subset}; "
                    "copy the whole file, or leave the task out"
                )
        return _Splits({split: datasets.Dataset.from_list(rows[subset]) for split, rows in parts.items()})

    before = datasets.load_dataset
    datasets.load_dataset = load_dataset
    try:
        yield
    finally:
        datasets.load_dataset = before


class _Splits(dict[str, "Dataset"]):
    """Splits that a task names and that are not asked of it have no row."""

    def __missing__(self, split: str) -> "Dataset":
        return next(iter(self.values())).select([])


def _divided(file: Path, benchmark: Benchmark, key: str) -> dict[str | None, list[Row]]:
    """The checked rows of a file by subset, each with the fields alone that are read."""
    name = f"{file.parent.name}/{file.name}"
    found: dict[str | None, list[Row]] = defaultdict(list)
    for place, row in _rows(file, name, key, list(benchmark.fields)):
        for field, rule in benchmark.fields.items():
            if field not in row:
                raise ConfigError(
                    f"{key}: {name} {place} has no field `{field}` (fields: {', '.join(map(str, row)) or 'none'}); "
                    f"it must be {rule.words}"
                )
            if not rule.keeps(row[field]):
                raise ConfigError(
                    f"{key}: {name} {place} has a field `{field}` that is {_shown(row[field])}; it must be {rule.words}"
                )
        for field, rule in benchmark.beside.items():
            if not rule.keeps(row):
                raise ConfigError(
                    f"{key}: {name} {place} has a field `{field}` that is {_shown(row[field])}; it must be {rule.words}"
                )
        subset = row[benchmark.subset] if benchmark.subset is not None else None
        found[subset].append({field: row[field] for field in benchmark.fields})
    if not found:
        raise ConfigError(f"{key}: {name} has no row; put the benchmark's rows there, or leave the task out")
    return found


def _shown(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _rows(file: Path, name: str, key: str, fields: Sequence[str]) -> Iterator[tuple[str, Row]]:
    """(place, row) of every row."""
    if file.suffix == ".parquet":
        with opened_table(file, name, key) as table:
            there = [field for field in fields if field in table.schema_arrow.names]
            if len(there) < len(fields):  # all are read, so that who names the one that lacks can name the others
                there = list(table.schema_arrow.names)
            rows = (row for batch in table.iter_batches(columns=there) for row in batch.to_pylist())
            yield from ((f"row {number}", row) for number, row in enumerate(rows, start=1))
        return
    try:
        opened: Any = gzip.open if file.suffix == ".gz" else open
        with opened(file, "rb") as stream:
            for number, line in enumerate(stream, start=1):
                if not line.isspace():
                    yield f"line {number}", _object(line, f"{key}: {name} line {number}")
    except (OSError, EOFError, zlib.error) as error:
        raise ConfigError(f"{key}: {name} cannot be read whole ({error}); copy it again") from None


def _object(line: bytes, where: str) -> Row:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        row = None
    if not isinstance(row, dict):
        raise ConfigError(f"{where} is no JSON object; every line holds one row of the benchmark")
    return row
