"""What a context is asked: by its definition, on a text of counted tokens."""

import numpy as np
import pytest

from tasks.config import SHORTEST_CONTEXT
from tasks.context import CUE, DEPTHS, KEY, NEEDLES, needles, repeated, windows
from tasks.positions import ends_of_bins

TEXT = np.arange(1000, 21_000, dtype=np.uint16)
WORDS = list(range(1, 900))
OWN = CUE + KEY


@pytest.mark.parametrize("length", [SHORTEST_CONTEXT, 129, 1024])
@pytest.mark.parametrize("depth", DEPTHS)
def test_a_passkey_stands_at_its_depth_and_its_cue_again_at_the_end(length: int, depth: float) -> None:
    tokens, mask, others = needles(TEXT, WORDS, length, depth)
    assert tokens.shape == (NEEDLES, length + 1) and mask.shape == others.shape == (NEEDLES, length)
    place = round(depth * (length + 1 - 2 * OWN))
    assert (tokens[:, place : place + OWN] == tokens[:, -OWN:]).all(), "cue and key, as they are asked for"
    assert (tokens[:, 1:][mask].reshape(NEEDLES, KEY) == tokens[:, -KEY:]).all() and mask.sum() == NEEDLES * KEY
    rest = np.delete(tokens, np.r_[place : place + OWN, length + 1 - OWN : length + 1], axis=1)
    assert (np.diff(rest, axis=1) == 1).all(), "all else is text as it stands"
    drawn = np.concatenate([tokens[:, -OWN:], others[mask].reshape(NEEDLES, KEY)], axis=1)
    assert all(len(set(row)) == OWN + KEY and set(row) <= set(WORDS) for row in drawn), "no two tokens are alike"
    assert len({tuple(row) for row in drawn}) == NEEDLES


def test_all_depths_and_lengths_ask_the_same() -> None:
    first, last, longer = (needles(TEXT, WORDS, *at) for at in ((256, 0.0), (256, 1.0), (512, 0.0)))
    for other in (last, longer):
        assert (other.tokens_NT1[:, -OWN:] == first.tokens_NT1[:, -OWN:]).all()
    assert (first.tokens_NT1[:, OWN:-OWN] == last.tokens_NT1[:, : -2 * OWN]).all()
    assert (needles(TEXT, WORDS, 256, 0.5, seed=1).tokens_NT1 != needles(TEXT, WORDS, 256, 0.5).tokens_NT1).any()


@pytest.mark.parametrize("length", [64, 65, 4096])
def test_the_second_half_is_the_first(length: int) -> None:
    tokens, mask = repeated(TEXT, length)
    half = length // 2
    assert tokens.shape == (len(tokens), length + 1) and (tokens[:, :half] == tokens[:, half : 2 * half]).all()
    counted = tokens[:, 1:][mask].reshape(len(tokens), -1)
    assert (counted == tokens[:, CUE:half]).all(), "all of it but the first few"


def test_windows_are_apart_and_spread_over_the_text() -> None:
    found = windows(TEXT, 100, 7)
    assert found.shape == (7, 100) and (np.diff(found, axis=1) == 1).all()
    begins = found[:, 0] - 1000
    assert (np.diff(begins) >= 100).all() and begins[0] == 0 and begins[-1] > 16_000
    assert len(windows(TEXT, 100, 10**6)) == 200 and len(windows(TEXT[:99], 100, 5)) == 0


def test_bins_end_at_powers_of_two_and_at_the_last_place() -> None:
    assert ends_of_bins(128) == [16, 32, 64, 128]
    assert ends_of_bins(100) == [16, 32, 64, 100]
