"""What is learned from and what is scored: the keys of `data` and `eval`."""

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class DataConfig:
    """Text, how it is cut into sequences, and how many sequences make one optimizer batch."""

    source: Literal["python_packages", "stdlib", "text", "hf"] = "python_packages"
    """`python_packages`: the pinned sympy and networkx sources. `stdlib`: this Python's library. `text`: local files
    at `path`. `hf`: the dataset `name`, streamed."""
    path: str | None = None
    """For `text`: a .txt or .jsonl file (field `text`), optionally .gz, or a folder of them."""
    name: str | None = None
    """For `hf`: what `datasets.load_dataset` takes."""
    max_bytes: int | None = None
    """Keep only about this much text, in equal shares of every split (smoke runs, streams)."""
    seq_len: int = 128
    batch_size: int = 16
    """Sequences per optimizer batch, over all microbatches and ranks."""


@dataclass(frozen=True)
class EvalConfig:
    """What is measured on a trained checkpoint, always on data that training did not see."""

    split: Literal["validation", "test"] = "test"
    """Search trials are scored on `validation`, confirmation trials on `test`, which nothing is chosen on."""
    tokens: int = 65536
    """Tokens of the split that loss, bits per byte and MaxVio_global are taken on."""
    tasks: list[str] = field(default_factory=lambda: ["python_bits_per_byte", "python_cloze"])
    """lm-eval tasks: our two by these names, or any that lm-eval knows."""
    items: int | None = 1000
    """At most this many items per lm-eval task; null takes all."""
