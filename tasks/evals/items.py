"""The questions of our own lm-eval tasks, drawn from the documents of a split.

Items are a pure function of the documents and of this file: the same for every arm, seed and machine. They are ordered
by a hash, so that any prefix is a random sample spread over the documents.
"""

import functools
import hashlib
import json
import random
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from models.base.files import write_atomically

if TYPE_CHECKING:
    from tasks.text.splits import Document

Item = dict[str, Any]

EXCERPTS = 64
EXCERPT_BYTES = 2048
MIN_EXCERPT_BYTES = 256

CLOZE_ITEMS = 2000
CHOICES = 4
CONTEXT_BYTES = (40, 96)
"""A context is as many whole lines as fit into the upper bound, and at least the lower bound."""
MIN_VISIBLE = 8
"""Characters other than whitespace in a line that may be asked for."""
MAX_LINE_BYTES = 80
LENGTH_RATIO = 1.25
"""The longest choice of an item is at most this many times the shortest (indentation not counted)."""
APART = 20
"""Lines between an item's gold line and a distractor out of the same document, at least."""


class Line(NamedTuple):
    """A line that can be asked for, with where it stands and what precedes it."""

    document: str
    number: int
    text: str
    context: str

    @property
    def key(self) -> bytes:
        return hashlib.sha256(f"{self.document}\0{self.number}\0{self.text}".encode()).digest()

    @property
    def cell(self) -> tuple[str, int]:
        """Lines with the same indentation whose visible lengths differ by less than LENGTH_RATIO."""
        visible = self.text.lstrip()
        return self.text[: len(self.text) - len(visible)], _length_class(len(visible.encode()))


@functools.cache
def _length_class(length: int) -> int:
    """Consecutive classes of lengths; within one, the greatest is at most LENGTH_RATIO times the smallest."""
    number, smallest = 0, 1
    while int(smallest * LENGTH_RATIO) < length:
        number, smallest = number + 1, int(smallest * LENGTH_RATIO) + 1
    return number


def excerpts(documents: Iterable["Document"], limit: int = EXCERPTS) -> list[Item]:
    """Pieces of documents for bits per byte: whole lines, at most EXCERPT_BYTES, none overlapping.

    Returns at most `limit` of {`text`, `document`, `offset` in bytes}.
    """
    found = []
    for document in documents:
        for offset, text in _pieces(document.text):
            if len(text.encode()) >= MIN_EXCERPT_BYTES:
                key = hashlib.sha256(f"{document.name}\0{offset}".encode()).digest()
                found.append((key, {"text": text, "document": document.name, "offset": offset}))
    return [item for _, item in sorted(found, key=lambda entry: entry[0])[:limit]]


def _pieces(text: str) -> Iterator[tuple[int, str]]:
    """Consecutive runs of whole lines of at most EXCERPT_BYTES, with their byte offsets; longer lines are left out."""
    offset, start, size, lines = 0, 0, 0, list[str]()
    for line in text.splitlines(keepends=True):
        length = len(line.encode())
        if lines and size + length > EXCERPT_BYTES:
            yield start, "".join(lines)
            lines, size = [], 0
        if length <= EXCERPT_BYTES:
            if not lines:
                start = offset
            lines.append(line)
            size += length
        offset += length
    if lines:
        yield start, "".join(lines)


def cloze(documents: Iterable["Document"], limit: int = CLOZE_ITEMS) -> list[Item]:
    """Which of four lines continues this code. Chance is 1 / CHOICES.

    Gold lines and distractors are drawn alike: from the same pool of real lines, weighted by how often each occurs,
    within one cell of indentation and length. So neither length nor the frequency of a line by itself tells which of
    the choices is gold; only the context does.

    Returns at most `limit` of {`context`, `choices`, `gold`, `document`, `line` (from 0)}.
    """
    lines = [line for document in documents for line in _askable(document)]
    cells = defaultdict(list)
    for line in lines:
        cells[line.cell].append(line)
    items: list[Item] = []
    for key, line in sorted(((line.key, line) for line in lines), key=lambda entry: entry[0]):
        if len(items) == limit:
            break
        rng = random.Random(int.from_bytes(key))
        distractors = _distractors(line, cells[line.cell], rng)
        if distractors is None:
            continue
        choices = [line.text, *distractors]
        rng.shuffle(choices)
        item = {"context": line.context, "choices": choices, "gold": choices.index(line.text)}
        items.append({**item, "document": line.document, "line": line.number})
    return items


def _distractors(line: Line, cell: Sequence[Line], rng: random.Random) -> list[str] | None:
    """CHOICES - 1 lines of other places, drawn once; None where they are not all different.

    Drawing again until they are would favour frequent lines as gold.
    """
    drawn = [cell[rng.randrange(len(cell))] for _ in range(CHOICES - 1)]
    if any(other.document == line.document and abs(other.number - line.number) < APART for other in drawn):
        return None
    if len({line.text, *(other.text for other in drawn)}) < CHOICES:
        return None
    context = {text.strip() for text in line.context.split("\n")}
    return None if any(other.text.strip() in context for other in drawn) else [other.text for other in drawn]


def _askable(document: "Document") -> Iterator[Line]:
    """Lines of code, no comments or docstrings, that enough context precedes."""
    lines = document.text.split("\n")
    inside = False  # a triple-quoted string; both kinds of quotes are taken for one, which errs by a few lines at most
    for number, line in enumerate(lines):
        text = line.removesuffix("\r")  # of a line's end that is two characters; the context keeps both
        quotes = text.count('"""') + text.count("'''")
        outside = not inside and not quotes
        inside ^= bool(quotes % 2)
        visible = text.lstrip()
        if not outside or visible.startswith("#") or text != text.rstrip():
            continue
        if len("".join(visible.split())) < MIN_VISIBLE or len(text.encode()) > MAX_LINE_BYTES:
            continue
        context = _context(lines, number)
        if context is not None:
            yield Line(document.name, number, text, context)


def _context(lines: list[str], number: int) -> str | None:
    """The whole lines before line `number` that fit into CONTEXT_BYTES, each with its newline."""
    first, size = number, 0
    while first > 0 and size + len(lines[first - 1].encode()) + 1 <= CONTEXT_BYTES[1]:
        first -= 1
        size += len(lines[first].encode()) + 1
    context = "".join(f"{line}\n" for line in lines[first:number])
    return context if len(context.strip().encode()) >= CONTEXT_BYTES[0] else None


BUILDERS = {"python_bits_per_byte": excerpts, "python_cloze": cloze}
WANTED = {
    "python_bits_per_byte": f"whole lines that together make {MIN_EXCERPT_BYTES} to {EXCERPT_BYTES} bytes",
    "python_cloze": (
        f"a line of code of {MIN_VISIBLE} to {MAX_LINE_BYTES} bytes, right before it {CONTEXT_BYTES[0]} to "
        f"{CONTEXT_BYTES[1]} bytes of whole lines, and elsewhere {CHOICES - 1} lines of like length and indentation"
    ),
}
"""What a text must hold to make an item of a task."""


def write_items(task: str, documents: Sequence["Document"], folder: Path) -> Path:
    """The JSONL file with the items of one of our tasks, written if it is not there yet, or not as it was.

    Its name holds a hash of the documents and of this file's own source, so a change of either makes a new file, and
    one of its own content.
    """
    digest = hashlib.sha256(Path(__file__).read_bytes())
    for document in documents:
        for part in (document.name, document.text):
            encoded = part.encode()
            digest.update(len(encoded).to_bytes(8) + encoded)
    name = f"{task}-{digest.hexdigest()[:16]}"
    for path in folder.glob(f"{name}-*.jsonl"):
        if path.stem == f"{name}-{_content(path.read_bytes())}":
            return path
    return _written(folder, name, BUILDERS[task](documents))


def write_given(task: str, items: Sequence[Item], folder: Path) -> Path:
    """The JSONL file with items that the data itself has."""
    return _written(folder, task, items)


def _written(folder: Path, name: str, items: Iterable[Item]) -> Path:
    """The file of that name, and a hash of its content; written if it is not there yet, or not as it was."""
    content = "".join(json.dumps(item, sort_keys=True) + "\n" for item in items).encode()
    path = folder / f"{name}-{_content(content)}.jsonl"
    if not (path.is_file() and path.read_bytes() == content):
        write_atomically(path, content)
    return path


def _content(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def read_items(path: Path) -> list[Item]:
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def dataset(task: str, item_files: dict[str, str], **_: Any) -> dict[str, Any]:
    """What lm-eval calls for our tasks' documents (`custom_dataset` in their YAML): no download, no cache of its own.

    `task` comes from the YAML's dataset_kwargs, `item_files` from the TaskManager's metadata.
    """
    import datasets

    return {"test": datasets.Dataset.from_list(read_items(Path(item_files[task])))}
