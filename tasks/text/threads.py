"""A function of many items in threads, in the items' order and in bounded memory."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def in_turn(function: Callable[[T], R], items: Iterable[T], at_once: int) -> Iterator[R]:
    """`function(item)` of each item in turn, while up to `at_once` later ones are being worked on.

    It speeds up what leaves Python's lock: numpy on large arrays, tokenizers, and reading the next item meanwhile.
    """
    with ThreadPoolExecutor(at_once) as pool:
        begun: deque[Future[R]] = deque()
        for item in items:
            begun.append(pool.submit(function, item))
            if len(begun) > at_once:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
