"""Scoring against lm-eval's own `hf` model of the same checkpoint, converted: are the answers equal, and how fast?

    python -m benchmarks.scoring eval.data_dir=DATA                       # some minutes on one core
    python -m benchmarks.scoring eval.data_dir=DATA checkpoint=runs/trials/ID/checkpoint items=1000 out=FOLDER

Both sides score the same items of standard benchmarks (docs/benchmarks.md) in FP32, in one process on one thread, in
turns; the turn of each that took the processor least counts. `hf` has a batch size, 1 unless it is told another. A
log-likelihood is equal where it differs by at most 1e-4 nats; for that `hf` adds up in FP64, since in FP32 a text of
8,000 tokens would round by more. An answer is flipped where `acc` of an item differs. Without a checkpoint the weights
are random, wide enough to have answers, and the tokenizer is learned from the benchmarks' text. The last line is one
JSON object.

Over the thousands of tokens of a text of wikitext, rounding may add up to more than that; and where two experts are
nearly equal for a token, two implementations may choose differently, and the log-likelihood jumps. Whose rounding it is
`exact_items=20` tells: both sides against our model in FP64 throughout.
"""

import json
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

from ablations.numbers import count
from ablations.show.table import Table
from ablations.show.terminal import print_tables
from ablations.trial.identity import processor_name
from benchmarks.kept import check_folder, keep
from benchmarks.scoring_sides import Sides, Timed, random_checkpoint, scored
from models.base.bounds import Count
from models.base.command import keys_of, parse
from models.base.streams import obeyed, spoken
from models.base.typed import AtLeast, ConfigError
from tasks.evals.harness import quiet

TASKS = ("hellaswag", "blimp", "piqa", "arc_easy", "lambada_openai", "wikitext")
TOLERANCE = 1e-4


@dataclass(frozen=True)
class EvalKeys:
    """Where the benchmarks lie."""

    data_dir: str | None = None
    tasks: list[str] = field(default_factory=lambda: list(TASKS))


@dataclass(frozen=True)
class Command:
    """The command's keys."""

    eval: EvalKeys = field(default_factory=EvalKeys)
    checkpoint: Path | None = None
    size: str = "small"
    """Of the random model, where there is no checkpoint."""
    length: Count = 512
    """Tokens that the random model takes."""
    items: Count = 100
    """Of each task; a group's tasks share them."""
    turns: Count = 3
    batch_sizes: list[Count] = field(default_factory=lambda: [1, 16])
    """Of `hf`."""
    bf16_items: Annotated[int, AtLeast(0)] = 0
    """Of each task, which both sides score in BF16 too; 0: none."""
    exact_items: Annotated[int, AtLeast(0)] = 0
    """Of each task, on which both sides are compared with FP64; 0: none."""
    out: Path | None = None
    """A folder for scoring.json and table.md; null: what is printed is all."""


@dataclass(frozen=True)
class LowPrecision:
    """One task in BF16, on fewer items; what flips is against our FP32."""

    items: int
    flipped: int
    flipped_theirs: int
    seconds_fp32: float
    seconds: float
    seconds_theirs: float
    """At the first of the batch sizes."""


@dataclass(frozen=True)
class Exactness:
    """How far one task's answers in FP32 are from those in FP64, ours and theirs."""

    answers: int
    largest: float
    largest_theirs: float
    """In nats."""
    within: int
    within_theirs: int
    """Answers within TOLERANCE."""


@dataclass
class Equality:
    """One task's answers, ours against theirs."""

    task: str
    items: int
    answers: int
    largest: float
    """Difference of two log-likelihoods, in nats."""
    equal: float
    """Share of those within TOLERANCE."""
    flipped: int
    """Items whose `acc` differs."""
    scores: float
    """Largest relative difference of two scores."""
    seconds: float = 0.0
    theirs: dict[int, float] = field(default_factory=dict)
    """Seconds by batch size."""

    bf16: "LowPrecision | None" = None
    exact: Exactness | None = None

    @property
    def ratios(self) -> dict[int, float]:
        """Their seconds over ours, by batch size."""
        return {size: seconds / self.seconds for size, seconds in self.theirs.items()}


def equality(task: str, ours: tuple[Timed, dict[str, Any]], theirs: tuple[Timed, dict[str, Any]]) -> Equality:
    """Of answers to the same requests. Raises ValueError where they were asked different ones."""
    (own, found), (other, expected) = ours, theirs
    if len(own.answers) != len(other.answers):
        raise ValueError(f"{task}: {len(own.answers)} answers against {len(other.answers)}")
    differences = [abs(a - b) for a, b in zip(own.answers, other.answers, strict=True)]
    relative = [0.0]
    for name in found["samples"]:
        for metric, value in found["results"][name].items():
            if isinstance(value, float) and "stderr" not in metric:
                before = expected["results"][name][metric]
                relative.append(abs(value - before) / max(abs(before), 1e-12))
    within = sum(difference <= TOLERANCE for difference in differences) / len(differences)
    items = sum(map(len, found["samples"].values()))
    return Equality(task, items, len(differences), max(differences), within, flipped(found, expected), max(relative))


def flipped(found: dict[str, Any], expected: dict[str, Any]) -> int:
    """Items of which one side is right and the other is not."""
    pairs = (zip(found["samples"][name], expected["samples"][name], strict=True) for name in found["samples"])
    return sum(a.get("acc") != b.get("acc") for rows in pairs for a, b in rows)


def compare(sides: Sides, command: Command, report: Callable[[str], None]) -> list[Equality]:
    """Every task's equality and seconds."""
    from models.layers import inferring

    found = []
    exact, their = sides.theirs(adds_in="float64"), {size: sides.theirs(size) for size in command.batch_sizes}
    for task in command.eval.tasks:
        loaded, items = _loaded(task, command)
        expected = scored(exact, loaded, items)
        seconds, theirs = float("inf"), dict.fromkeys(their, float("inf"))
        for turn in range(command.turns):
            with inferring(sides.model):
                own = scored(sides.ours(), loaded, items)
            seconds = min(seconds, own[0].seconds)
            theirs = {size: min(theirs[size], scored(lm, loaded, items)[0].seconds) for size, lm in their.items()}
            report(f"{task}: turn {turn + 1} of {command.turns}")
        row = equality(task, own, expected)
        row.seconds, row.theirs = seconds, theirs
        if command.bf16_items:
            row.bf16 = in_bf16(sides, task, command)
        if command.exact_items:
            row.exact = in_fp64(sides, task, command)
        found.append(row)
    return found


def in_bf16(sides: Sides, task: str, command: Command) -> LowPrecision:
    """Both sides' answers in BF16 against ours in FP32, one turn each."""
    from models.layers import inferring

    loaded, items = _loaded(task, replace(command, items=command.bf16_items))
    low = sides.computing_in("bfloat16")
    with inferring(sides.model):
        fp32, expected = scored(sides.ours(), loaded, items)
    with inferring(low.model):
        own, found = scored(low.ours(), loaded, items)
    other, theirs = scored(low.theirs(command.batch_sizes[0]), loaded, items)
    count = sum(map(len, found["samples"].values()))
    flips = [flipped(side, expected) for side in (found, theirs)]
    return LowPrecision(count, flips[0], flips[1], fp32.seconds, own.seconds, other.seconds)


def in_fp64(sides: Sides, task: str, command: Command) -> Exactness:
    """Both sides' answers in FP32, which `hf` adds up in FP64, against ours in FP64."""
    from models.layers import inferring

    loaded, items = _loaded(task, replace(command, items=command.exact_items))
    exact = sides.computing_in("float64")
    with inferring(sides.model):
        own = scored(sides.ours(), loaded, items)[0].answers
    theirs = scored(sides.theirs(adds_in="float64"), loaded, items)[0].answers
    with inferring(exact.model):
        truth = scored(exact.ours(), loaded, items)[0].answers
    ours, other = ([abs(a - b) for a, b in zip(side, truth, strict=True)] for side in (own, theirs))
    return Exactness(
        len(truth), max(ours), max(other), sum(x <= TOLERANCE for x in ours), sum(x <= TOLERANCE for x in other)
    )


def _loaded(task: str, command: Command) -> tuple[dict[str, Any], int]:
    """The task, and how many items of it, or of each task of a group, to ask."""
    from tasks.config import EvalConfig
    from tasks.evals.known import is_standard
    from tasks.evals.prepare import load_tasks

    if not is_standard(task):
        raise ConfigError(f"eval.tasks={task}: is of a trial's own text, or a file; name standard tasks")
    config = EvalConfig(tasks=[task], data_dir=command.eval.data_dir, items=None)
    loaded = load_tasks(None, config, Path(tempfile.gettempdir()) / "v3_ablations_scoring")  # type: ignore[arg-type]
    if any(made.OUTPUT_TYPE == "generate_until" for made in loaded["tasks"].values()):
        raise ConfigError(f"eval.tasks={task}: has text written, and likelihoods alone are compared; leave it out")
    return loaded, max(1, command.items // len(loaded["tasks"]))


def texts_of(command: Command) -> list[str]:
    """What a tokenizer is learned from: the beginning of each task's own items."""
    found = []
    for task in command.eval.tasks:
        loaded, _ = _loaded(task, command)
        for made in list(loaded["tasks"].values())[:4]:
            with quiet():
                found += [json.dumps(row, ensure_ascii=False) for row in made.eval_docs.select(range(60))]
    return found


def tables(rows: Sequence[Equality]) -> list[Table]:
    """Equality and speed, and what was asked beside it: FP64, BF16."""
    sizes = list(rows[0].theirs)
    columns = ["task", "items", "answers", "largest, nats", f"within {TOLERANCE:.0e}", "flipped", "scores"]
    cells = [
        [row.task, str(row.items), str(row.answers), f"{row.largest:.1e}", f"{row.equal:.2%}", str(row.flipped)]
        + [f"{row.scores:.1e}", *(f"{row.ratios[size]:.2f}" for size in sizes)]
        for row in rows
    ]
    note = (
        "Largest difference of two log-likelihoods; items whose `acc` differs; largest relative difference of two "
        "scores; then the processor's seconds of `hf` at a batch size over ours."
    )
    found = [Table("Ours beside hf's", [*columns, *(f"hf {size}" for size in sizes)], cells, note)]
    if told := [(row.task, row.exact) for row in rows if row.exact is not None]:
        columns = ["task", "answers", "ours, largest", f"within {TOLERANCE:.0e}", "hf's, largest", "within"]
        cells = [
            [task, str(one.answers), f"{one.largest:.1e}", str(one.within), f"{one.largest_theirs:.1e}"]
            + [str(one.within_theirs)]
            for task, one in told
        ]
        found.append(Table("Both against FP64", columns, cells, "Nats."))
    if low := [(row.task, row.bf16) for row in rows if row.bf16 is not None]:
        columns = ["task", "items", "flipped", "hf's", "s in FP32", "s in BF16", "hf's"]
        cells = [
            [task, str(one.items), str(one.flipped), str(one.flipped_theirs)]
            + [f"{seconds:.2f}" for seconds in (one.seconds_fp32, one.seconds, one.seconds_theirs)]
            for task, one in low
        ]
        note = "Items whose `acc` differs from ours in FP32; seconds of the processor."
        found.append(Table("In BF16", columns, cells, note))
    return found


def run(words: Sequence[str]) -> dict[str, Any]:
    """Everything that is printed, as one object. Raises ConfigError for what cannot be compared."""
    command = parse(Command, words)
    if command.eval.data_dir is None:
        raise ConfigError("eval.data_dir: missing; name the folder of the benchmarks (docs/benchmarks.md)")
    for key, given in (("eval.tasks", command.eval.tasks), ("batch_sizes", command.batch_sizes)):
        if not given:
            raise ConfigError(f"{key}=[]: there is nothing to compare; name one at least")
    check_folder(command.out)
    os.environ["HF_HUB_OFFLINE"] = "1"
    import torch

    from tasks.evals.known import check_askable

    torch.set_num_threads(1)
    for task in command.eval.tasks:  # before any is scored
        _loaded(task, command)
    with tempfile.TemporaryDirectory() as place:
        checkpoint = command.checkpoint
        if checkpoint is None:
            checkpoint = Path(place) / "random"
            random_checkpoint(checkpoint, command.size, command.length, texts_of(command))
        weights = f"random weights, model={command.size}" if command.checkpoint is None else "a trained checkpoint"
        sides = Sides.of(checkpoint, Path(place) / "converted")
        check_askable(command.eval.tasks, "text", sides.learned)
        rows = compare(sides, command, lambda text: print(text, file=sys.stderr, flush=True))
    shown = tables(rows)
    print_tables(shown)
    found = {
        "model": f"{weights}: {count(sides.parameters)} parameters, {sides.length} tokens",
        "machine": f"one thread of {processor_name()}, torch {torch.__version__}",
        "tasks": [{**asdict(row), "ratios": row.ratios} for row in rows],
        "tolerance": TOLERANCE,
    }
    if command.out is not None:
        about = f"{found['model']}; {found['machine']}."
        keep(command.out, "scoring", "Scoring beside `hf`", about, shown, found)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    words = sys.argv[1:] if arguments is None else arguments
    if not words or {"-h", "--help"} & set(words):
        print(__doc__, *keys_of(Command), sep="\n  ")
        return 0

    def work() -> int:
        print(json.dumps(run(words)))
        return 0

    return obeyed(work)


if __name__ == "__main__":
    sys.exit(spoken(main))
