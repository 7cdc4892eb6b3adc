"""In-context language learning (RegBench, 2401.12973): strings of a random automaton, another in each sequence.

    g c a | g c f c a g | g | g c a g c   ..   | [g] [c] [a] [g] ..
    `------ there to be read -----------'      `--- answered -----'

As in its code (berlino/seq_icl): all states accept, a string begins in the first, and the next symbol is any that
leads out of the state, equally likely. Which one comes is chance, so that the ceiling is below 1: it is that of who
knows the automaton and the state. Who knows how often each symbol comes at each place of a string, and not behind
what, can name the most frequent one there: that guess is chance.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.base.typed import AtLeast, AtMost, ConfigError, Distinct, NotEmpty
from tasks.drawn import END_WORD, Items, distinct

BAR = 1
FIRST = 2
AUTOMATA = 16_384
"""That chance and ceiling are averages over. Others come within 0.002 of it."""


class Automata(NamedTuple):
    """N of them: S states, the first is where strings begin; of a state E ways out, the first `degree_NS` of which
    are there."""

    degree_NS: NDArray[np.int64]
    symbol_NSE: NDArray[np.int64]
    target_NSE: NDArray[np.int64]


@dataclass(frozen=True)
class Automaton:
    """A sequence's automaton has one of the numbers of `states`, all of them equally often."""

    level: ClassVar[str] = "states"

    states: Annotated[list[Annotated[int, AtLeast(2), AtMost(64)]], NotEmpty(), Distinct()] = field(
        default_factory=lambda: [4, 8, 12]
    )
    symbols: Annotated[int, AtLeast(2), AtMost(1000)] = 18
    """Different ones. An automaton has at least one more than `ways` of them, at most all."""
    ways: Annotated[int, AtLeast(1), AtMost(63)] = 3
    """That lead out of a state, at most: 1 to so many, by different symbols to different other states."""
    longest: Annotated[int, AtLeast(1), AtMost(1_000_000)] = 20
    """String: 1 to so many symbols."""
    read: Annotated[int, AtLeast(1), AtMost(1_000_000)] = 64
    """Tokens at a sequence's beginning that are not asked."""

    @property
    def words(self) -> Sequence[str]:
        return [END_WORD, "|", *(f"s{i}" for i in range(self.symbols))]

    @property
    def chance(self) -> float:
        return self._bounds[0]

    @property
    def ceiling(self) -> float:
        return self._bounds[1]

    @property
    def asked(self) -> int:
        """The first so many symbols of a string are: behind more its end can be likelier than any symbol."""
        return self.longest - self.ways

    def check(self, seq_len: int) -> None:
        at = "data.settings"
        if min(self.states) <= self.ways:
            raise ConfigError(
                f"{at}.states={self.states}: {min(self.states)} states have too few others for ways={self.ways}; "
                f"at least {self.ways + 1}"
            )
        if self.symbols <= self.ways:
            raise ConfigError(f"{at}.symbols={self.symbols}: too few for ways={self.ways}; at least {self.ways + 1}")
        if self.asked < 1:
            raise ConfigError(f"{at}.longest={self.longest}: must be above ways={self.ways}, or nothing can be asked")
        if self.longest > seq_len:
            raise ConfigError(f"{at}.longest={self.longest}: longer than data.seq_len={seq_len}; at most that")
        if self.read + self.ways + 1 > seq_len:
            raise ConfigError(
                f"{at}.read={self.read}: may leave nothing to ask in data.seq_len={seq_len}; "
                f"at most {seq_len - self.ways - 1}, or lengthen it"
            )

    def draw(self, rng: np.random.Generator, count: int, seq_len: int) -> Items:
        levels = rng.choice(np.array(self.states), count)
        automata = self.automata(rng, levels)
        lengths = rng.integers(1, self.longest + 1, (count, seq_len + 1))
        bars = np.zeros((count, seq_len + 2), dtype=bool)
        np.put_along_axis(bars, np.minimum(np.cumsum(lengths + 1, axis=1) - 1, seq_len + 1), True, axis=1)
        tokens = np.full((count, seq_len + 1), BAR)
        answers = np.zeros((count, seq_len + 1), dtype=bool)
        chosen = rng.random((count, seq_len + 1))
        row, state, before = np.arange(count), np.zeros(count, dtype=np.int64), np.zeros(count, dtype=np.int64)
        for t in range(seq_len + 1):
            way = (chosen[:, t] * automata.degree_NS[row, state]).astype(np.int64)
            bar = bars[:, t]
            tokens[:, t] = np.where(bar, BAR, FIRST + automata.symbol_NSE[row, state, way])
            answers[:, t] = ~bar & (before < self.asked) & (t >= self.read)
            state = np.where(bar, 0, automata.target_NSE[row, state, way])
            before = np.where(bar, 0, before + 1)
        return Items(tokens, answers[:, 1:], levels)

    def automata(self, rng: np.random.Generator, states_N: NDArray[np.int64]) -> Automata:
        """Random ones, of so many states each. What is drawn for states beyond them cannot be reached."""
        shape = (len(states_N), max(self.states))
        alphabet = rng.integers(self.ways + 1, self.symbols + 1, len(states_N))
        symbols = distinct(rng, len(states_N), self.symbols, self.symbols)
        symbol = _different(rng, alphabet[:, None], shape, self.ways)
        target = _different(rng, states_N[:, None] - 1, shape, self.ways)
        return Automata(
            rng.integers(1, self.ways + 1, shape),
            np.take_along_axis(symbols, symbol.reshape(len(states_N), -1), axis=1).reshape(symbol.shape),
            target + (target >= np.arange(shape[1])[:, None]),  # any but itself
        )

    @cached_property
    def _bounds(self) -> tuple[float, float]:
        """Chance and ceiling, over AUTOMATA automata and all of their strings: always the same ones."""
        rng, found = np.random.default_rng(0), np.zeros(2)
        block = 256
        for first in range(0, AUTOMATA, block):
            levels = np.array(self.states)[np.arange(first, first + block) % len(self.states)]
            found += self._bounds_of(self.automata(rng, levels))
        return float(found[0]) / AUTOMATA, float(found[1]) / AUTOMATA

    def _bounds_of(self, automata: Automata) -> NDArray[np.float64]:
        """The sums of both over some automata."""
        count, most = automata.degree_NS.shape
        each_NS = 1 / automata.degree_NS
        there_NSE = np.arange(self.ways) < automata.degree_NS[..., None]
        step_NSE = there_NSE * each_NS[..., None]
        ways_NSS = np.zeros((count, most, most))
        np.put_along_axis(ways_NSS, automata.target_NSE, step_NSE, axis=2)
        state_NS = np.zeros((count, most))
        state_NS[:, 0] = 1
        symbols = (np.arange(count)[:, None, None] * self.symbols + automata.symbol_NSE).ravel()
        lengths = self.longest - np.arange(self.asked)  # as many of them have a symbol more
        found = np.zeros(2)
        for share in lengths / lengths.sum():
            often = np.bincount(symbols, (state_NS[..., None] * step_NSE).ravel(), count * self.symbols)
            found += share * often.reshape(count, -1).max(axis=1).sum(), share * (state_NS * each_NS).sum()
            state_NS = np.einsum("ns,nst->nt", state_NS, ways_NSS)
        return found


def _different(
    rng: np.random.Generator, below: NDArray[np.int64], shape: tuple[int, ...], count: int
) -> NDArray[np.int64]:
    """`count` different numbers from 0 on, all equally likely, at each place of `shape`; shape (*shape, count)."""
    found = np.zeros((*shape, count), dtype=np.int64)
    for i in range(count):
        number = rng.integers(0, below - i, shape)
        for taken in np.moveaxis(np.sort(found[..., :i], axis=-1), -1, 0):
            number += number >= taken
        found[..., i] = number
    return found
