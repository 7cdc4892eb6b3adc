"""How far a long task is, said every few seconds."""

import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")
Report = Callable[[str], None]

SECONDS = 5.0
"""Between two lines of one task."""


class Progress:
    """Says `WHAT: 120 of 1,000 MB, 4.2 MB/s` while bytes are done, of which `total` are known to come."""

    def __init__(self, report: Report | None, what: str, total: int | None = None) -> None:
        self._report, self._what, self._total = report, what, total
        self._begun = self._said = time.monotonic()
        self._done = 0

    def add(self, size: int) -> None:
        """`size` further bytes are done."""
        self._done += size
        now = time.monotonic()
        if self._report is None or now - self._said < SECONDS:
            return
        self._said = now
        of = "" if self._total is None else f" of {self._total / 1e6:,.0f}"
        rate = self._done / 1e6 / max(now - self._begun, 1e-9)
        self._report(f"{self._what}: {self._done / 1e6:,.0f}{of} MB, {rate:.1f} MB/s")

    def through(self, items: Iterable[T], size: Callable[[T], int]) -> Iterator[T]:
        """The items as they are; each is done when the next is asked for."""
        for item in items:
            yield item
            self.add(size(item))
