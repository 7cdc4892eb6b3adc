"""How fast text becomes tokens, and in how much memory.

    python -m benchmarks.prepare                              # 1 GB; ten minutes on one core
    python -m benchmarks.prepare path=FOLDER megabytes=100 out=FOLDER

Text as in a folder of one's own (docs/corpora.md; without a path that of the default corpus) is written again and again
until there are so many megabytes, from the second time on with its runs of seven words (or characters, in a script
without blanks) in another order, so that little is a copy. A process of its own then prepares it as a sweep does: it
reads, divides, compares the parts, learns a tokenizer, encodes and packs. The last line is one JSON object: megabytes a
second, of all that took, and that process's memory.
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

from ablations.files import write_json
from ablations.trial.identity import processor_name
from benchmarks.kept import check_folder
from models.base.bounds import Count
from models.base.command import keys_of, parse
from models.base.streams import obeyed, spoken
from models.base.typed import ConfigError
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
    out: Path | None = None
    """A folder for prepare.json; null: what is printed is all."""


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
    """The texts, then others of their runs of words, until there are `size` bytes. Of texts that are not blank."""
    rng, done, again = random.Random(0), 0, False
    while True:
        for text in texts:
            if again:
                blank = " " if 20 * text.count(" ") > len(text) else ""
                words = text.split(blank) if blank else list(text)
                runs = [blank.join(words[i : i + RUN]) for i in range(0, len(words), RUN)]
                rng.shuffle(runs)
                text = blank.join(runs)
            yield text
            done += len(text.encode())
            if done >= size:
                return
        again = True


def prepared(path: str, vocab_size: int, cache: str) -> dict[str, Any]:
    """Seconds, memory and tokens of one preparation, alone in its process."""
    from tasks.text.batches import prepare
    from tasks.text.threads import cores

    begun = time.monotonic()
    config = DataConfig(source="text", path=path, seq_len=512)
    data = prepare(config, vocab_size, Path(cache), lambda said: print(said, file=sys.stderr, flush=True))
    seconds = time.monotonic() - begun
    return {"seconds": seconds, "cores": cores(), "rss_mb": peak_mb(), "tokens": data.fingerprint["tokens"]}


def peak_mb() -> float:
    """The most memory that this process has had, without what its parent had (which `getrusage` on Linux counts)."""
    status = Path("/proc/self/status")
    if not status.is_file():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # bytes on a Mac
    (peak,) = [line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmHWM:")]
    return int(peak) / 1024


def measured(command: Command) -> dict[str, Any]:
    """Raises ConfigError where `path` has no text."""
    check_folder(command.out)
    read = [text for text in texts(command.path) if text.strip()]
    if not read:
        raise ConfigError(f"path={command.path}: holds no text; name other files")
    size = 0
    with tempfile.TemporaryDirectory(dir=command.scratch) as place:
        file = Path(place) / "text.jsonl"
        with file.open("w", encoding="utf-8") as rows:
            for text in repeated(read, command.megabytes * 1_000_000):
                rows.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
                size += len(text.encode())
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            told: dict[str, Any] = pool.apply(prepared, (str(file), command.vocab_size, f"{place}/cache"))
    found = {"megabytes": size / 1e6, "megabytes_per_second": size / 1e6 / told["seconds"], **told}
    if command.out is not None:
        write_json(command.out / "prepare.json", found | {"processor": processor_name()})
    return found


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
