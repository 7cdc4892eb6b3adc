"""How fast text becomes tokens, and in how much memory.

    python -m benchmarks.prepare                              # 1 GB; ten minutes on one core
    python -m benchmarks.prepare path=FOLDER megabytes=100

Text as in a folder of one's own (docs/corpora.md; without a path that of the default corpus) is written again and again
until there are so many megabytes, from the second time on with its runs of seven words in another order, so that
nothing is a copy. A process of its own then prepares it as a sweep does: it reads, divides, compares the parts, learns
a tokenizer, encodes and packs. The last line is one JSON object: megabytes a second, of all that took, and that
process's memory.
"""

import json
import multiprocessing
import random
import resource
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.base.bounds import Count
from models.base.command import keys_of, parse
from models.base.streams import obeyed, spoken
from tasks.config import DataConfig

RUN = 7
"""Words that stay together: fewer than the windows have that the parts are compared by."""


@dataclass(frozen=True)
class Command:
    """The command's keys."""

    path: Path | None = None
    megabytes: Count = 1000
    vocab_size: Count = 8192
    scratch: Path | None = None
    """A folder with room for twice the megabytes; null: that of temporary files."""


def texts(path: Path | None) -> list[str]:
    """Of the user's files, or of the default corpus's."""
    from tasks.text.files import decode, files_at, read
    from tasks.text.reading import Rows, texts_of
    from tasks.text.sources import PACKAGES, package_files

    if path is not None:
        key = f"path={path}"
        return [text for _, text in texts_of(files_at(str(path), key), "text", Rows(key))]
    files = [file for package in PACKAGES for file in package_files(package)]
    return [decode(read(file, "path=null"), file.name, "path=null") for file in files]


def repeated(texts: Sequence[str], size: int) -> Iterator[str]:
    """The texts, then others of their runs of words, until there are `size` bytes."""
    rng, done, again = random.Random(0), 0, False
    while True:
        for text in texts:
            if again:
                words = text.split(" ")
                runs = [" ".join(words[i : i + RUN]) for i in range(0, len(words), RUN)]
                rng.shuffle(runs)
                text = " ".join(runs)
            yield text
            done += len(text.encode())
            if done >= size:
                return
        again = True


def prepared(path: str, vocab_size: int, cache: str) -> dict[str, Any]:
    """Seconds, memory and tokens of one preparation; alone in its process, or the memory is not its own."""
    from tasks.text.batches import prepare
    from tasks.text.threads import cores

    begun = time.monotonic()
    config = DataConfig(source="text", path=path, seq_len=512)
    data = prepare(config, vocab_size, Path(cache), lambda said: print(said, file=sys.stderr, flush=True))
    seconds = time.monotonic() - begun
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"seconds": seconds, "cores": cores(), "rss_mb": kilobytes / 1024, "tokens": data.fingerprint["tokens"]}


def measured(command: Command) -> dict[str, Any]:
    """Raises ConfigError where `path` has no text."""
    with tempfile.TemporaryDirectory(dir=command.scratch) as place:
        file, size = Path(place) / "text.jsonl", 0
        with file.open("w", encoding="utf-8") as rows:
            for text in repeated(texts(command.path), command.megabytes * 1_000_000):
                rows.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
        size = file.stat().st_size
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            found: dict[str, Any] = pool.apply(prepared, (str(file), command.vocab_size, f"{place}/cache"))
    return {"megabytes": size / 1e6, "megabytes_per_second": size / 1e6 / found["seconds"], **found}


def main(arguments: Sequence[str] | None = None) -> int:
    words = sys.argv[1:] if arguments is None else arguments
    if {"-h", "--help"} & set(words):
        print(__doc__, *keys_of(Command), sep="\n  ")
        return 0

    def work() -> int:
        print(json.dumps(measured(parse(Command, words))))
        return 0

    return obeyed(work)


if __name__ == "__main__":
    sys.exit(spoken(main))
