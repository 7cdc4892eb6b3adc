"""Tokens on disk, and the batches cut from them. Batch t is a pure function of (seed, t).

All arms of one seed therefore see the same sequences in the same order, an interrupted trial goes on with exactly its
next batch, and two machines with the same packages train on the same numbers. The corpus is read, tokenized and packed
once per (source, vocabulary) and kept in a cache folder; later calls map it into memory.
"""

import functools
import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from models.base.files import set_aside
from models.base.typed import ConfigError
from tasks.config import DataConfig
from tasks.progress import Report
from tasks.text import (
    cache,
    corpora,
    division,
    files,
    fim,
    hub,
    named,
    packing,
    reading,
    separation,
    sources,
    splits,
    spool,
    tokenizer,
)
from tasks.text.domains import domain_of_windows, one_domain_a_batch
from tasks.text.packing import pack, require_windows
from tasks.text.separation import mix
from tasks.text.splits import SPLITS, Document
from tasks.text.tokenizer import Tokens

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer

NOT_OF_THE_TEXT = (
    "seq_len", "batch_size", "ramp_from", "ramp_over", "mask_documents", "domain_per", "skill", "problem",
    "template", "settings", "answers_only", "order", "skills",
    "skills_share",
)  # fmt: skip
"""Keys of `data` that say how the packed tokens are used, not what they are."""


class PackedData:
    """A tokenized corpus, mapped from its cache folder. Made by `prepare`."""

    def __init__(
        self, folder: Path, fingerprint: dict[str, Any], seq_len: int, batch_size: int, domain_per: str = "sequence"
    ) -> None:
        self.fingerprint = fingerprint
        """What the numbers depend on: source, versions, hashes of text, tokens and tokenizer, counts per split."""
        self.seq_len, self.batch_size, self.domain_per = seq_len, batch_size, domain_per
        self.tokenizer: Tokenizer = tokenizer.load_tokenizer((folder / cache.TOKENIZER).read_text(encoding="utf-8"))
        self.vocab_size = self.tokenizer.get_vocab_size()
        self.token_bytes = tokenizer.token_bytes(self.tokenizer)
        """Bytes of text per token id, shape (vocab_size,)."""
        self.folder = folder
        """Of the cache that it is mapped from."""
        self._tokens: dict[str, Tokens] = {s: np.load(cache.tokens_file(folder, s), mmap_mode="r") for s in SPLITS}
        self._orders: dict[tuple[int, int], NDArray[np.int64]] = {}

    skill = None
    """Text has none."""

    def tokens(self, split: str) -> Tokens:
        """All tokens of a split of `tasks.text.corpora.SPLITS`, end of text after each document; shape (tokens,).

        Of `train`, a share of the documents is rearranged to be filled in the middle where there is `data.fim_rate`.
        """
        return self._tokens[split]

    def documents(self, split: str) -> list[Document]:
        """The texts of `validation` or `test`, in packed order. (Of `train` only tokens are kept.)"""
        if split not in ("validation", "test"):
            raise ValueError(f"documents of {split!r} are not kept; only those of validation and test")
        return cache.read_documents(self.folder, split)

    def shared(self, split: str) -> float:
        """Share of a held-out split's 32-token windows that the training part holds."""
        return separation.shared_ngrams(self.tokens("train"), self.tokens(split))

    def questions(self, split: str) -> list[dict[str, Any]]:
        """Text asks nothing."""
        return []

    def windows(self, split: str) -> int:
        """How many windows of `seq_len` targets a split holds; neighbours share one token, as target and as input."""
        return max(0, len(self._tokens[split]) - 1) // self.seq_len

    @functools.cached_property
    def epoch(self) -> int:
        """Training sequences that are read before one is read again."""
        if self.domain_per == "sequence":
            return self.windows("train")
        return int((np.bincount(self._domains) // self.batch_size * self.batch_size).sum())

    def train_batch(self, seed: int, step: int) -> "torch.Tensor":
        """Batch `step` (from 0) of a training without a ramp, (batch_size, seq_len + 1) int64."""
        return self.train_sequences(seed, step * self.batch_size, self.batch_size)

    def train_sequences(self, seed: int, first: int, count: int) -> "torch.Tensor":
        """Training sequences `first` .. `first + count - 1`, (count, seq_len + 1) int64: inputs and shifted targets.

        Every epoch visits each of its windows once, in an order hashed from (seed, epoch); batches run on across its
        end.
        """
        places = np.arange(first, first + count)
        epochs, places = np.divmod(places, self.epoch)
        chosen = [self._order(seed, int(epoch))[place] for epoch, place in zip(epochs, places, strict=True)]
        return self._cut("train", np.array(chosen))

    def evaluation_batches(self, split: str, tokens: int, rows: int = 32) -> "Iterator[torch.Tensor]":
        """Fixed windows, evenly spread over the split, with about `tokens` targets in all (fewer in a smaller split).

        Yields (at most `rows`, seq_len + 1) int64. The windows depend on nothing but split, `tokens` and `seq_len`.
        """
        available = self.windows(split)
        count = min(available, max(1, tokens // self.seq_len))
        chosen = np.arange(count) * available // count
        for start in range(0, count, rows):
            yield self._cut(split, chosen[start : start + rows])

    def _order(self, seed: int, epoch: int) -> NDArray[np.int64]:
        """The epoch's permutation of the training windows: sorted by a hash of (seed, epoch, window).

        Hashing instead of `numpy.random`, whose streams may change between versions of numpy.
        """
        key = (seed, epoch)
        if key not in self._orders:
            if len(self._orders) >= 4:
                self._orders.pop(next(iter(self._orders)))
            digest = hashlib.sha256(f"{seed}/{epoch}".encode()).digest()
            salt = np.uint64(int.from_bytes(digest[:8], "little"))
            order = np.argsort(mix(np.arange(self.windows("train"), dtype=np.uint64) ^ salt), kind="stable")
            if self.domain_per == "batch":
                order = one_domain_a_batch(order, self._domains, self.batch_size)
            self._orders[key] = order
        return self._orders[key]

    @functools.cached_property
    def _domains(self) -> NDArray[np.int64]:
        """Of each training window."""
        tokens = [counts["train"] for counts in self.fingerprint["domain_tokens"].values()]
        return domain_of_windows(tokens, self.seq_len, self.windows("train"))

    def _cut(self, split: str, windows: NDArray[np.int64]) -> "torch.Tensor":
        import torch

        offsets = windows[:, None] * self.seq_len + np.arange(self.seq_len + 1)
        return torch.from_numpy(self._tokens[split][offsets].astype(np.int64))


def prepare(config: DataConfig, vocab_size: int, cache_dir: Path, report: Report | None = None) -> PackedData:
    """The corpus of `config`, packed with a tokenizer of `vocab_size` tokens that was trained on its training part.

    Reads the corpus once, by one process at a time, and keeps the result under `cache_dir`; a damaged or half-written
    cache is made anew. `report` hears what is being done. Raises ConfigError, and leaves nothing behind, where the
    corpus cannot be had, does not yield the vocabulary, or is shorter than one sequence; and where `cache_dir` cannot
    be written.
    """
    for key, value in (("data.seq_len", config.seq_len), ("data.batch_size", config.batch_size)):
        if value < 1:
            raise ConfigError(f"{key}={value}: must be at least 1")
    if config.fim_rate is not None and not 0 <= config.fim_rate <= 1:
        raise ConfigError(f"data.fim_rate={config.fim_rate}: must lie between 0 and 1; null reserves no tokens for it")
    tokenizer.require_vocab(vocab_size, fim.reserved(config.fim_rate))
    say = report or (lambda _: None)
    folder = cache_dir / given_name(config, vocab_size)
    if not folder.is_dir():
        folder = cache_dir / _key(config, vocab_size)
    fingerprint = cache.read_fingerprint(folder)
    if fingerprint is None:
        with cache.making(folder, say):
            fingerprint = cache.read_fingerprint(folder)  # another process may have made it meanwhile
            if fingerprint is None and folder.exists():
                say(f"{folder} is damaged: set aside as {set_aside(folder).name}, and made anew")
            if fingerprint is None:
                before, content = _key(config, vocab_size), _content(config, vocab_size)

                def read() -> str | None:
                    """What was, if nothing has changed meanwhile: else nobody knows which text was packed."""
                    return content if _key(config, vocab_size) == before else None

                fingerprint = cache.take_over(folder, content) if content else None
                fingerprint = fingerprint or pack(config, vocab_size, folder, say, read)
    require_windows(config.seq_len, fingerprint["tokens"])
    return _mapped(folder, fingerprint, config)


def cached_tokens(config: DataConfig, vocab_size: int, cache_dir: Path) -> dict[str, int] | None:
    """Tokens per split of a corpus that was prepared here; None where it was not. Reads the manifest alone."""
    return cache.token_counts(cache_dir / _key(config, vocab_size))


def prepared_before(config: DataConfig, vocab_size: int, cache_dir: Path) -> PackedData | None:
    """What `prepare` left under `cache_dir`; None where it has not been there, or the corpus has changed since."""
    folder = cache_dir / _key(config, vocab_size)
    fingerprint = cache.read_fingerprint(folder)
    return None if fingerprint is None else _mapped(folder, fingerprint, config)


def _mapped(folder: Path, fingerprint: dict[str, Any], config: DataConfig) -> PackedData:
    if config.domain_per == "batch":
        counts: dict[str, dict[str, int]] = fingerprint["domain_tokens"]
        name = min(counts, key=lambda domain: counts[domain]["train"])
        held = (counts[name]["train"] - 1) // config.seq_len
        if held < config.batch_size:
            raise ConfigError(
                f"data.batch_size={config.batch_size}: the domain {name} has {held} training sequences of "
                f"{config.seq_len} tokens, less than a batch of its own; lower it, or take data.domain_per=sequence"
            )
    return PackedData(folder, fingerprint, config.seq_len, config.batch_size, config.domain_per)


def given_name(config: DataConfig, vocab_size: int) -> str:
    """What a corpus's folder is called in the cache of a machine that has not got the corpus itself, and was given
    what was made of it elsewhere."""
    return f"given-{_sha(_wanted(config, vocab_size))}"


def packed_name(config: DataConfig, vocab_size: int, cache_dir: Path) -> str:
    """What it is called where it was made."""
    given = given_name(config, vocab_size)
    return given if (cache_dir / given).is_dir() else _key(config, vocab_size)


def _key(config: DataConfig, vocab_size: int) -> str:
    """What the cache depends on: the corpus's state, what is kept of it, the vocabulary, and the code that packs."""
    kept, *others = _wanted(config, vocab_size)
    return f"{config.source}-{_sha([kept, sources.source_state(config), *others])}"


def _content(config: DataConfig, vocab_size: int) -> str | None:
    """The same of text that may lie anywhere: a copy, or one whose time has changed, need not be encoded again. None
    where a file cannot be read, of which whoever packs it will tell."""
    (kept, *others), found = _wanted(config, vocab_size), sources.source_content(config)
    if found is None:
        return None
    places = {name: sources.of_a_package(where) and where for name, where in (config.domains or {}).items()}
    return _sha([kept | {"path": None, "domains": places}, found, *others])


def _wanted(config: DataConfig, vocab_size: int) -> list[Any]:
    """All of that but for the corpus's state."""
    import tokenizers

    kept = {key: value for key, value in asdict(config).items() if key not in NOT_OF_THE_TEXT}
    code = hashlib.sha256()
    for module in (
        cache, corpora, division, files, fim, hub, named, packing, reading, separation, sources, splits, spool,
        tokenizer,
    ):  # fmt: skip
        code.update(Path(str(module.__file__)).read_bytes())
    code.update(Path(__file__).read_bytes())
    return [kept, vocab_size, tokenizers.__version__, code.hexdigest()]


def _sha(parts: list[Any]) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
