"""What is learned from and what is scored: the keys of `data` and `eval`."""

import functools
import json
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, Literal

from models.base.typed import Above, AtLeast, AtMost, Distinct, NotEmpty
from tasks.evals.presets import PRESETS

END_OF_TEXT_ID = 0
"""Stands after each document."""

SHORTEST_CONTEXT = 64
"""That is measured: it holds a passkey, its question (tasks/context.py), and more text than both."""
Length = Annotated[int, AtLeast(SHORTEST_CONTEXT), AtMost(1_000_000)]
Batches = tuple[tuple[int, int], ...]
"""(first sequence, sequences) of each."""


SKILLS = (
    *("recall", "automaton", "grammar", "names", "star", "hops", "chain", "polynomial", "copy", "fuzzy", "noisy"),
    "phonebook",
)
"""Whose rules tasks/skills/chosen.py has; here, so that who names metrics need not load them."""

DRAWN = ("skill", "problem")
"""Sources (`data.source`) that have no text: their sequences are drawn from a rule."""
Order = Literal["mixed", "easy_to_hard", "hard_to_easy", "staged"]
MOST_ORDERED = 200_000_000
"""Tokens of a training that is put into another order than it is drawn in: they are held in memory."""


@dataclass(frozen=True)
class DataConfig:
    """Text, how it is cut into sequences, and how many sequences make one optimizer batch."""

    source: Literal["python_packages", "stdlib", "text", "hf", "domains", "skill", "problem"] = "python_packages"
    """`python_packages`: the pinned sympy and networkx sources. `stdlib`: this Python's library. `text`: local files
    at `path`. `hf`: the dataset `name`, streamed. `domains`: several kinds of text, in equal shares or by `weights`.
    `skill`: no text, but sequences drawn from a rule, without end. `problem`: questions with written-out solutions,
    whose answers a rule judges."""
    path: str | None = None
    """For `text`: a .txt or .jsonl file, plain or .gz or .zst, or a .parquet file, or a folder of them. A .txt file is
    one document; one of more than 32 MB is many."""
    name: str | None = None
    """For `hf`: fineweb_edu, wikitext, tinystories or codeparrot, or any OWNER/SET[:SUBSET] of the hub; @REVISION
    behind it pins a commit. Of it, the first `max_bytes` (50 MB where that is null) are streamed."""
    text_field: str = "text"
    """For `text`, `hf`, and files of `domains`: the field of a row that is learned from."""
    domains: Annotated[dict[str, str], NotEmpty()] | None = None
    """For `domains`: name -> `PACKAGE/*.SUFFIX` for files of an installed package, or what `path` takes. null: six
    kinds that come with the installation."""
    weights: Annotated[dict[str, Annotated[float, AtLeast(1e-3), AtMost(1e3)]], NotEmpty()] | None = None
    """For `domains`: name -> how much of the text is of it, beside the others' weights. null: as much of each."""
    domain_per: Literal["sequence", "batch"] = "sequence"
    """For `domains`: whether each sequence is of one of them, or all sequences of an optimizer batch are."""
    skill: str | None = None
    """For `skill`: its name (tasks/skills/chosen.py)."""
    problem: str | None = None
    """For `problem`: its name (tasks/problems/chosen.py)."""
    template: Literal["plain", "chat"] = "plain"
    """For `problem`: whether questions and answers stand as they are, or behind the markers of a chat."""
    settings: dict[str, Any] | None = None
    """For `skill` and `problem`: how hard it is, by its own fields; null: as they are."""
    skills: Annotated[list[str], Distinct()] = field(default_factory=list)
    """Beside text: skills (tasks/skills/chosen.py) whose sequences are `skills_share` of those that are learned from.
    Their words are the last tokens of the vocabulary, which the text's tokenizer leaves to them."""
    skills_share: Annotated[float, AtLeast(0.001), AtMost(0.5)] = 0.1
    """For `skills`: of the training sequences, all skills together."""
    answers_only: bool = False
    """For `skill` and `problem`: the loss is that of the answers and of what is written on the way to them; what is
    there to be read is not learned."""
    max_bytes: Annotated[int, Above(0)] | None = None
    """Keep only about this much text, in equal shares of every split (smoke runs, streams)."""
    seq_len: Annotated[int, AtLeast(1), AtMost(1_000_000)] = 128
    batch_size: Annotated[int, Above(0)] = 16
    """Sequences per optimizer batch, over all microbatches and ranks."""
    ramp_from: Annotated[float, Above(0), AtMost(1)] = 1.0
    """Share of `batch_size` that the first batch has; 1: no ramp (V3 4.2: 3072 of 15360 sequences, 0.2). The tokens
    stay the same, so a ramp takes more optimizer steps."""
    ramp_over: Annotated[float, Above(0), AtMost(1)] = 0.032
    """Share of the training over which the batch grows to `batch_size` (V3: 469B of 14.8T tokens)."""
    fim_rate: Annotated[float, AtLeast(0), AtMost(1)] | None = None
    """Share of the training documents that are rearranged to prefix, suffix, middle (V3 4.1: 0.1, by document). 0 keeps
    the three tokens in the vocabulary without using them; null has no such tokens."""
    order: Order = "mixed"
    """In which order the training's sequences come, each once in any: as they are drawn; by how hard they are, of
    skills and problems by level, text by how rare its tokens are; or `staged`: easy ones, then middling ones too, then
    all."""
    epochs: Annotated[int, Above(0), AtMost(1000)] = 1
    """Passes over the training's sequences, of which there are as many fewer (V3 5.1: 2, in fine-tuning)."""
    mask_documents: bool = False
    """Training attention stays within a document. Off, as in V3 4.1: a token sees whatever stands before it in its
    sequence."""

    def __hash__(self) -> int:  # dicts have none
        return hash(json.dumps(asdict(self), sort_keys=True))


@dataclass(frozen=True)
class EvalConfig:
    """What is measured on a trained checkpoint, always on data that training did not see."""

    split: Literal["validation", "test"] = "test"
    """Search trials are scored on `validation`, confirmation trials on `test`, which nothing is chosen on."""
    tokens: Annotated[int, Above(0)] = 65536
    """Tokens of the split that loss, bits per byte and MaxVio_global are taken on."""
    tasks: Annotated[list[str], Distinct()] = field(default_factory=lambda: list(PRESETS["quick"]))
    """lm-eval tasks: our two by these names, or any that lm-eval knows; `eval=NAME` names a list of them. Or the path
    of a task's YAML file, whose `!function` runs that Python here."""
    data_dir: Annotated[str, NotEmpty()] | None = None
    """A folder with copies of standard tasks' data (docs/benchmarks.md), which are then read there and not from the
    network; null: lm-eval downloads them."""
    lengths: Annotated[list[Annotated[int, AtLeast(SHORTEST_CONTEXT), AtMost(1_000_000)]], Distinct()] = field(
        default_factory=list
    )
    """Of text: context lengths at which it is measured what a model makes of them (its loss by position up to the
    longest, passkeys, text that comes a second time); none by default."""
    mask_documents: bool = False
    """Measure with attention that stays within documents, however the model was trained."""
    items: Annotated[int, Above(0)] | None = 1000
    """At most this many items per lm-eval task; null takes all."""
    samples: Annotated[int, Above(0), AtMost(1024)] = 64
    """Answers that the task `problem_samples` draws to each of a problem's questions."""
    run_model_code: bool = False
    """Let the tasks `humaneval` and `mbpp` run the programs that a model writes, in a sandbox (docs/benchmarks.md)."""


def ramped(sequences: int, data: DataConfig, multiple: int) -> Batches:
    """The batches: growing linearly in the sequences seen from `ramp_from` to the whole
    `batch_size`, in multiples of `multiple` (the microbatches). The last batch takes what is left."""
    return _ramped(sequences, data.batch_size, data.ramp_from, data.ramp_over, multiple)


@functools.lru_cache(maxsize=8)
def _ramped(sequences: int, batch: int, ramp_from: float, ramp_over: float, multiple: int) -> Batches:
    """All arms of a sweep ask for the same."""
    if ramp_from == 1:
        size = _whole(batch, multiple)
        return tuple((first, min(size, sequences - first)) for first in range(0, sequences, size))
    batches, first = [], 0
    over = ramp_over * sequences
    while first < sequences:
        share = ramp_from + (1 - ramp_from) * min(1.0, first / over)
        size = _whole(share * batch, multiple)
        batches.append((first, min(size, sequences - first)))
        first += size
    return tuple(batches)


def batch_count(sequences: int, data: DataConfig, multiple: int) -> int:
    """How many `ramped` lists; alike ones, of which a cluster's plan has millions, are not listed for it."""
    if data.ramp_from == 1:
        return -(-sequences // _whole(data.batch_size, multiple))
    return len(ramped(sequences, data, multiple))


def _whole(size: float, multiple: int) -> int:
    return max(multiple, round(size / multiple) * multiple)
