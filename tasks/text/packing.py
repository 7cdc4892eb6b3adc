"""A corpus made into tokens on disk: divided, a tokenizer trained on a part of it, encoded, and fingerprinted.

Nothing here holds the training part in memory: it passes by document by document, and its tokens block by block.
"""

import hashlib
import itertools
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from models.base.files import whole_folder
from models.base.typed import ConfigError
from tasks.config import END_OF_TEXT_ID, DataConfig
from tasks.progress import Progress, Report
from tasks.text import cache, fim, tokenizer
from tasks.text.corpora import load_splits
from tasks.text.division import allowance, leading_bytes
from tasks.text.splits import SPLITS, Document, Documents
from tasks.text.spool import rank
from tasks.text.tokenizer import Segment, Tokens

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_SAMPLE_CHARACTERS = 8_000_000
_SAMPLE_CHARACTERS_PER_TOKEN = 2_000


class Survey:
    """What is known of documents when they have passed by once."""

    def __init__(self, documents: Documents, fim_rate: float | None, progress: Progress) -> None:
        self.name_ranks, self.characters = array("Q"), array("I")
        self.bytes = self.rearranged = 0
        for document in documents:
            size = len(document.text.encode())
            self.name_ranks.append(rank(document.name))
            self.characters.append(len(document.text))
            self.bytes += size
            self.rearranged += fim.rearranges(document.name, fim_rate)
            progress.add(size)

    @property
    def most_tokens(self) -> int:
        """A token stands for at least one byte, or ends one of the texts, of which a rearranged document is four."""
        return self.bytes + len(self.characters) + 3 * self.rearranged


@dataclass(frozen=True)
class Written:
    """What there is of one split."""

    documents: int
    bytes: int
    text_sha256: str
    tokens: int
    tokens_sha256: str
    domain_tokens: dict[str, int]


def pack(
    config: DataConfig, vocab_size: int, folder: Path, report: Report, read: Callable[[], str | None]
) -> dict[str, Any]:
    """Make the cache folder, and return its fingerprint. `read`: in the end, what was read, by which it is
    known under another name.

    Raises ConfigError as `tasks.text.batches.prepare` does, and OSError where the folder cannot be written.
    """
    splits = load_splits(config, report, folder.parent)
    progress = Progress(report, "counting")
    surveys = {s: Survey(splits[s], config.fim_rate if s == "train" else None, progress) for s in SPLITS}
    # A hopeless length shows before the tokenizer is trained.
    require_windows(config.seq_len, {split: survey.most_tokens for split, survey in surveys.items()})
    report("training the tokenizer")
    progress = Progress(report, "training the tokenizer")
    sample = progress.through(_sample(splits.train, surveys["train"], vocab_size), len)
    trained = tokenizer.train_tokenizer(sample, vocab_size, fim.reserved(config.fim_rate))
    report("encoding")
    progress = Progress(report, "encoding", sum(survey.bytes for survey in surveys.values()))
    written: dict[str, Written] = {}
    with whole_folder(folder) as fresh:
        for split in reversed(SPLITS):  # the largest last: that another is too short shows before
            written[split] = _write(trained, config, splits[split], split, fresh, progress)
            require_windows(config.seq_len, {split: written[split].tokens})
        for split in ("validation", "test"):
            cache.write_documents(cache.documents_file(fresh, split), splits.held_out(split))
        serialized = trained.to_str()
        (fresh / cache.TOKENIZER).write_text(serialized, encoding="utf-8")
        origin = {key: value for key, value in splits.origin.items() if not isinstance(value, list)}
        origin["dropped"] = {split: len(names) for split, names in origin.get("dropped", {}).items()}
        if config.fim_rate is not None:
            origin["fim"] = {"rate": config.fim_rate, "documents": surveys["train"].rearranged}
        if config.source == "domains":
            origin["domain_tokens"] = {
                d: {s: written[s].domain_tokens.get(d, 0) for s in SPLITS} for d in written["train"].domain_tokens
            }
        fingerprint = {**origin, **_fingerprint(config, vocab_size, written, serialized)}
        cache.write_manifest(fresh, fingerprint, read())
    return fingerprint


def require_windows(seq_len: int, tokens: dict[str, int]) -> None:
    """Raise ConfigError where a split that must be there is shorter than a sequence."""
    for split, count in sorted(tokens.items(), key=lambda entry: entry[1]):
        if split != "by_file" and count < seq_len + 1:
            raise ConfigError(
                f"data.seq_len={seq_len}: one sequence needs {seq_len + 1} tokens, but the {split} split holds at most "
                f"{count}; lower data.seq_len or take more text"
            )


def _sample(documents: Documents, survey: Survey, vocab_size: int) -> Iterator[str]:
    """The training documents, or where they are long as many of them as the vocabulary needs: more moves few merges."""
    sizes = np.array(survey.characters, dtype=np.uint32)
    total = int(sizes.sum(dtype=np.int64))
    most = allowance(total, total, max(_SAMPLE_CHARACTERS, _SAMPLE_CHARACTERS_PER_TOKEN * vocab_size))
    if most is not None:
        sizes = leading_bytes(np.array(survey.name_ranks, dtype=np.uint64), sizes, most)
    return (document.text[:size] for document, size in zip(documents, sizes, strict=True) if size)


def _write(
    trained: "Tokenizer", config: DataConfig, documents: Documents, split: str, folder: Path, progress: Progress
) -> Written:
    digest, size, domain_tokens = hashlib.sha256(), 0, dict[str, int]()

    def passing() -> Iterator[Document]:
        nonlocal size
        for document in documents:
            data = document.text.encode()
            digest.update(len(data).to_bytes(8, "little") + data)
            size += len(data)
            progress.add(len(data))
            yield document

    def blocks() -> Iterator[Tokens]:
        for name, texts in itertools.groupby(passing(), key=lambda document: document.domain):
            domain_tokens[name] = 0
            for block in tokenizer.encode_blocks(trained, _segments(config, texts, split)):
                domain_tokens[name] += len(block)
                yield block

    dtype = tokenizer.token_dtype(trained.get_vocab_size())
    count, tokens_sha256 = cache.write_tokens(cache.tokens_file(folder, split), blocks(), dtype)
    return Written(len(documents), size, digest.hexdigest(), count, tokens_sha256, domain_tokens)


def _segments(config: DataConfig, documents: Iterable[Document], split: str) -> Iterator[Segment]:
    """What is encoded of a split's documents, of which only training's are ever rearranged."""
    for document in documents:
        if split == "train":
            yield from fim.arrange(document.name, document.text, config.fim_rate)
        else:
            yield document.text, END_OF_TEXT_ID


def _fingerprint(config: DataConfig, vocab_size: int, written: dict[str, Written], serialized: str) -> dict[str, Any]:
    """JSON-able, and free of what may differ between machines with the same text (paths, times)."""
    return {
        "max_bytes": config.max_bytes,
        "vocab_size": vocab_size,
        "tokenizer_sha256": hashlib.sha256(serialized.encode()).hexdigest(),
        "text_sha256": {split: written[split].text_sha256 for split in SPLITS},
        "tokens_sha256": {split: written[split].tokens_sha256 for split in SPLITS},
        "documents": {split: written[split].documents for split in SPLITS},
        "tokens": {split: written[split].tokens for split in SPLITS},
        "bytes": {split: written[split].bytes for split in SPLITS},
    }
