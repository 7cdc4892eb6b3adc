"""Tokens on disk, and the batches cut from them. Batch t is a pure function of (seed, t).

All arms of one seed therefore see the same sequences in the same order, an interrupted trial goes on with exactly its
next batch, and two machines with the same packages train on the same numbers. The corpus is read, tokenized and packed
once per (source, vocabulary) and kept in a cache folder; later calls map it into memory.
"""

import functools
import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from models.files import hold, remove_unfinished, whole_folder
from models.typed import ConfigError
from tasks import corpora, fim, separation, sources, splits, tokenizer
from tasks.config import END_OF_TEXT_ID, DataConfig
from tasks.corpora import Report, load_splits
from tasks.domains import domain_of_windows, one_domain_a_batch
from tasks.separation import mix
from tasks.splits import SPLITS, Document, Splits, thin
from tasks.tokenizer import Segment

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer

Tokens = NDArray[np.unsignedinteger]

NOT_OF_THE_TEXT = (
    "seq_len", "batch_size", "ramp_from", "ramp_over", "mask_documents", "domain_per", "skill", "settings",
    "answers_only",
)  # fmt: skip
"""Keys of `data` that say how the packed tokens are used, not what they are."""
_MANIFEST = "manifest.json"
_BLOCK = 1 << 20
_CHECKED_BLOCKS = 64
_SAMPLE_CHARACTERS = 8_000_000
_SAMPLE_CHARACTERS_PER_TOKEN = 2_000


class PackedData:
    """A tokenized corpus, mapped from its cache folder. Made by `prepare`."""

    def __init__(
        self, folder: Path, fingerprint: dict[str, Any], seq_len: int, batch_size: int, domain_per: str = "sequence"
    ) -> None:
        self.fingerprint = fingerprint
        """What the numbers depend on: source, versions, hashes of text, tokens and tokenizer, counts per split."""
        self.seq_len, self.batch_size, self.domain_per = seq_len, batch_size, domain_per
        self.tokenizer: Tokenizer = tokenizer.load_tokenizer((folder / "tokenizer.json").read_text(encoding="utf-8"))
        self.vocab_size = self.tokenizer.get_vocab_size()
        self.token_bytes = tokenizer.token_bytes(self.tokenizer)
        """Bytes of text per token id, shape (vocab_size,)."""
        self._folder = folder
        self._tokens: dict[str, Tokens] = {split: np.load(folder / f"{split}.npy", mmap_mode="r") for split in SPLITS}
        self._orders: dict[tuple[int, int], NDArray[np.int64]] = {}

    skill = None
    """Text has none."""

    def tokens(self, split: str) -> Tokens:
        """All tokens of a split of `tasks.corpora.SPLITS`, end of text after each document; shape (tokens,).

        Of `train`, a share of the documents is rearranged to be filled in the middle where there is `data.fim_rate`.
        """
        return self._tokens[split]

    def documents(self, split: str) -> list[Document]:
        """The texts of `validation` or `test`, in packed order. (Of `train` only tokens are kept.)"""
        if split not in ("validation", "test"):
            raise ValueError(f"documents of {split!r} are not kept; only those of validation and test")
        with (self._folder / f"{split}.jsonl").open(encoding="utf-8", newline="\n") as lines:
            return [Document(**json.loads(line)) for line in lines]

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

    Reads the corpus once and keeps the result under `cache_dir`; a damaged or half-written cache is made anew. `report`
    hears what is being done. Raises ConfigError, before anything is written, where the corpus cannot be had, does not
    yield the vocabulary, or is shorter than one sequence; and where `cache_dir` cannot be written.
    """
    for key, value in (("data.seq_len", config.seq_len), ("data.batch_size", config.batch_size)):
        if value < 1:
            raise ConfigError(f"{key}={value}: must be at least 1")
    if config.fim_rate is not None and not 0 <= config.fim_rate <= 1:
        raise ConfigError(f"data.fim_rate={config.fim_rate}: must lie between 0 and 1; null reserves no tokens for it")
    tokenizer.require_vocab(vocab_size, fim.reserved(config.fim_rate))
    folder = cache_dir / _key(config, vocab_size)
    fingerprint = _read_cache(folder)
    if fingerprint is None:
        fingerprint = _build(config, vocab_size, folder, report or (lambda _: None))
    _require_windows(config.seq_len, fingerprint["tokens"])
    return _mapped(folder, fingerprint, config)


def cached_tokens(config: DataConfig, vocab_size: int, cache_dir: Path) -> dict[str, int] | None:
    """Tokens per split of a corpus that was prepared here; None where it was not. Reads the manifest alone."""
    try:
        manifest = json.loads((cache_dir / _key(config, vocab_size) / _MANIFEST).read_bytes())
        return {split: int(manifest["fingerprint"]["tokens"][split]) for split in SPLITS}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def prepared_before(config: DataConfig, vocab_size: int, cache_dir: Path) -> PackedData | None:
    """What `prepare` left under `cache_dir`; None where it has not been there, or the corpus has changed since."""
    folder = cache_dir / _key(config, vocab_size)
    fingerprint = _read_cache(folder)
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


def _key(config: DataConfig, vocab_size: int) -> str:
    """What the cache depends on: the corpus's state, what is kept of it, the vocabulary, and the code that packs."""
    import tokenizers

    kept = {key: value for key, value in asdict(config).items() if key not in NOT_OF_THE_TEXT}
    code = hashlib.sha256()
    for module in (corpora, fim, separation, sources, splits, tokenizer):
        code.update(Path(str(module.__file__)).read_bytes())
    code.update(Path(__file__).read_bytes())
    parts = [kept, sources.source_state(config), vocab_size, tokenizers.__version__, code.hexdigest()]
    return f"{config.source}-{hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]}"


def _build(config: DataConfig, vocab_size: int, folder: Path, report: Report) -> dict[str, Any]:
    """Read, tokenize, pack and publish; returns the fingerprint."""
    splits = load_splits(config, report)
    # A token stands for at least one byte, so a hopeless length shows before the tokenizer is trained.
    bounds = {s: sum(len(text.encode()) + 1 for text, _ in _segments(config, splits[s], s)) for s in SPLITS}
    _require_windows(config.seq_len, bounds)
    report("training the tokenizer")
    sample = _sample(splits.train, vocab_size)
    trained = tokenizer.train_tokenizer(sample, vocab_size, fim.reserved(config.fim_rate))
    report("encoding")
    parts = {split: _encoded(trained, config, splits, split) for split in SPLITS}
    packed = {split: np.concatenate(list(parts[split].values())) for split in SPLITS}
    _require_windows(config.seq_len, {split: len(packed[split]) for split in SPLITS})
    serialized = trained.to_str()
    fingerprint = _fingerprint(config, vocab_size, splits, packed, serialized)
    if config.source == "domains":
        fingerprint["domain_tokens"] = {d: {s: len(parts[s].get(d, [])) for s in SPLITS} for d in parts["train"]}
    report("writing the token cache")
    try:
        _write_cache(folder, splits, packed, serialized, fingerprint)
    except OSError as error:
        raise ConfigError(f"{folder.parent}: the token cache cannot be written ({error.strerror or error})") from None
    return fingerprint


def _encoded(trained: "Tokenizer", config: DataConfig, splits: Splits, split: str) -> dict[str, Tokens]:
    """The tokens of a split by domain, in packed order; by "" where there are no domains, or no text."""
    of_domain = itertools.groupby(splits[split], key=lambda document: document.domain)
    parts = {name: tokenizer.encode_packed(trained, _segments(config, texts, split)) for name, texts in of_domain}
    return parts or {"": tokenizer.encode_packed(trained, [])}


def _segments(config: DataConfig, documents: Iterable[Document], split: str) -> Iterator[Segment]:
    """What is encoded of a split's documents, of which only training's are ever rearranged."""
    for document in documents:
        if split == "train":
            yield from fim.arrange(document.name, document.text, config.fim_rate)
        else:
            yield document.text, END_OF_TEXT_ID


def _sample(documents: list[Document], vocab_size: int) -> Iterator[str]:
    """The training documents, or where they are long as many of them as the vocabulary needs: more moves few merges."""
    sizes = {"train": [(document.name, len(document.text)) for document in documents]}
    kept = thin(sizes, max(_SAMPLE_CHARACTERS, _SAMPLE_CHARACTERS_PER_TOKEN * vocab_size))["train"]
    return (document.text[: kept[document.name]] for document in documents if document.name in kept)


def _require_windows(seq_len: int, tokens: dict[str, int]) -> None:
    shortest = min((split for split in tokens if split != "by_file"), key=lambda split: tokens[split])
    if tokens[shortest] < seq_len + 1:
        raise ConfigError(
            f"data.seq_len={seq_len}: one sequence needs {seq_len + 1} tokens, but the {shortest} split holds at most "
            f"{tokens[shortest]}; lower data.seq_len or take more text"
        )


def _fingerprint(
    config: DataConfig, vocab_size: int, splits: Splits, packed: dict[str, Tokens], serialized: str
) -> dict[str, Any]:
    """JSON-able, and free of what may differ between machines with the same text (paths, times)."""
    texts, sizes = {}, dict.fromkeys(SPLITS, 0)
    for split in SPLITS:
        digest = hashlib.sha256()
        for document in splits[split]:
            data = document.text.encode()
            sizes[split] += len(data)
            digest.update(len(data).to_bytes(8, "little") + data)
        texts[split] = digest.hexdigest()
    origin = {key: value for key, value in splits.origin.items() if not isinstance(value, list)}
    origin["dropped"] = {split: len(names) for split, names in origin.get("dropped", {}).items()}
    if config.fim_rate is not None:
        rearranged = sum(fim.rearranges(document.name, config.fim_rate) for document in splits.train)
        origin["fim"] = {"rate": config.fim_rate, "documents": rearranged}
    return {
        **origin,
        "max_bytes": config.max_bytes,
        "vocab_size": vocab_size,
        "tokenizer_sha256": hashlib.sha256(serialized.encode()).hexdigest(),
        "text_sha256": texts,
        "tokens_sha256": {split: hashlib.sha256(packed[split].tobytes()).hexdigest() for split in SPLITS},
        "documents": {split: len(splits[split]) for split in SPLITS},
        "tokens": {split: len(packed[split]) for split in SPLITS},
        "bytes": sizes,
    }


def _write_cache(
    folder: Path, splits: Splits, packed: dict[str, Tokens], serialized: str, fingerprint: dict[str, Any]
) -> None:
    """A reader sees a whole folder or none; of several processes with the same content, one writes it."""
    with hold(folder.parent / f".{folder.name}.lock", lambda owner: None):
        remove_unfinished(folder)
        if _read_cache(folder) is not None:  # another process was faster, with the same content
            return
        with whole_folder(folder) as fresh:
            (fresh / "tokenizer.json").write_text(serialized, encoding="utf-8")
            for split in SPLITS:
                np.save(fresh / f"{split}.npy", packed[split])
            for split in ("validation", "test"):
                lines = [json.dumps(asdict(document)) + "\n" for document in splits[split]]
                (fresh / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8", newline="\n")
            files = {path.name: _checksum(path) for path in sorted(fresh.iterdir())}
            manifest = {"files": files, "fingerprint": fingerprint}
            (fresh / _MANIFEST).write_text(json.dumps(manifest, indent=1, sort_keys=True), encoding="utf-8")


def _read_cache(folder: Path) -> dict[str, Any] | None:
    """The fingerprint of a whole cache folder; None where it is missing or damaged."""
    try:
        manifest = json.loads((folder / _MANIFEST).read_bytes())
        for name, checksum in manifest["files"].items():
            if _checksum(folder / name) != checksum:
                return None
        fingerprint: dict[str, Any] = manifest["fingerprint"]
        return fingerprint
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _checksum(path: Path) -> str:
    """sha256 over the size and at most 64 evenly spread blocks of 1 MiB: the whole file, unless it is very large."""
    size = path.stat().st_size
    blocks = -(-size // _BLOCK)
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        for i in range(min(blocks, _CHECKED_BLOCKS)):
            file.seek(i * blocks // min(blocks, _CHECKED_BLOCKS) * _BLOCK)
            digest.update(file.read(_BLOCK))
    return digest.hexdigest()
