"""What a teacher writes is learned from: its right answers, or all that it has finished."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from models.base.typed import ConfigError
from tasks.config import DataConfig
from tasks.drawn import END
from tasks.problems.data import PACKED, ProblemData
from tasks.problems.problem import ASSISTANT, SO, USER
from tasks.problems.sums import EQUALS, PLUS, ZERO
from tasks.problems.taught import TaughtData

V, T = 64, 64
CONFIG = DataConfig(
    source="problem", problem="sums", template="chat", seq_len=T, answers_only=True, settings={"digits": [1, 2]}
)


class Scripted:
    """Says `=> sum`, which is none of the problem's own answers. Where the first number is odd it says one too many;
    where the second ends with 7 it has no end."""

    def __init__(self) -> None:
        self.seeds, self.words = list[int](), 0

    def __call__(self, prompts: list[NDArray[np.int64]], room: int, seed: int) -> NDArray[np.int64]:
        self.seeds.append(seed)
        out = np.full((len(prompts), room), END)
        for row, prompt in zip(out, prompts, strict=True):
            first, second = terms(prompt.tolist())
            said = [SO, *digits(first + second + first % 2)]
            if second % 10 == 7:
                said = (said * room)[:room]
            row[: len(said)] = said
            self.words += len(said) + (second % 10 != 7)
        return out


def terms(prompt: list[int]) -> tuple[int, int]:
    assert (prompt[0], prompt[-1], prompt[-2]) == (USER, ASSISTANT, EQUALS)
    plus = prompt.index(PLUS)
    return number(prompt[1:plus]), number(prompt[plus + 1 : -2])


def number(tokens: list[int]) -> int:
    return int("".join(str(token - ZERO) for token in tokens))


def digits(value: int) -> list[int]:
    return [ZERO + int(digit) for digit in str(value)]


def pairs(tokens_NT1: torch.Tensor) -> list[tuple[int, int, list[int]]]:
    """(first number, second, answer) of every instance."""
    found = []
    for row in tokens_NT1.tolist():
        for begin in [i for i, token in enumerate(row) if token == USER]:
            middle = row.index(ASSISTANT, begin)
            found.append((*terms(row[begin : middle + 1]), row[middle + 1 : row.index(END, middle)]))
    return found


@pytest.mark.parametrize("chosen", ["right", "finished"])
def test_what_is_chosen_of_its_answers_is_learned(chosen: str) -> None:
    data = TaughtData(CONFIG, V, Scripted(), chosen)
    batch = data.train_sequences(3, 0, 40)
    found = pairs(batch.tokens_BT1)
    assert len(found) > 200 and all(answer == [SO, *digits(a + b + a % 2)] for a, b, answer in found)
    assert not any(b % 10 == 7 for _, b, _ in found), "what has no end is never learned"
    odd = np.mean([a % 2 for a, _, _ in found])
    assert odd == 0 if chosen == "right" else 0.4 < odd < 0.6
    counted = sum(len(answer) + 1 for *_, answer in found)
    assert batch.mask_BT is not None and int(batch.mask_BT.sum()) == counted, "answers with their ends"


def test_it_is_a_function_of_seed_and_place() -> None:
    data, again = (TaughtData(CONFIG, V, Scripted(), "right") for _ in range(2))
    whole = data.train_sequences(3, PACKED - 5, 12)
    parts = [again.train_sequences(3, PACKED - 5 + i, 4) for i in (8, 0, 4)]
    assert torch.equal(whole.tokens_BT1, torch.cat([parts[i].tokens_BT1 for i in (1, 2, 0)]))
    assert not torch.equal(whole.tokens_BT1, data.train_sequences(4, PACKED - 5, 12).tokens_BT1)
    writer = data.writer
    assert isinstance(writer, Scripted) and len(set(writer.seeds)) == len(writer.seeds), "never the same dice twice"


def test_held_out_sequences_and_questions_are_as_without_it() -> None:
    writer = Scripted()
    taught, plain = TaughtData(CONFIG, V, writer, "right"), ProblemData(CONFIG, V)
    for split in ("validation", "test"):
        ours, theirs = (next(data.evaluation_batches(split, 8 * T)) for data in (taught, plain))
        assert torch.equal(ours.tokens_BT1, theirs.tokens_BT1) and taught.questions(split) == plain.questions(split)
    assert not writer.seeds
    asked = {(a, b) for a, b, _ in pairs(plain.train_sequences(0, 0, 64).tokens_BT1)}
    held = {tuple(sorted((a, b))) for a, b, _ in pairs(next(taught.evaluation_batches("test", 32 * T)).tokens_BT1)}
    seen = {tuple(sorted((a, b))) for a, b, _ in pairs(taught.train_sequences(0, 0, 64).tokens_BT1)}
    assert asked and held and not held & seen


def test_all_that_was_written_is_counted_once() -> None:
    writer = Scripted()
    data = TaughtData(CONFIG, V, writer, "right")
    data.train_sequences(3, 0, 2 * PACKED)
    assert data.written(3, 0, 2 * PACKED) == pytest.approx(writer.words)
    each = [data.written(3, first, 16) for first in range(0, 2 * PACKED, 16)]
    assert sum(each) == pytest.approx(writer.words) and each[0] == each[1] != each[-1]


def test_a_teacher_that_knows_nothing_is_given_up() -> None:
    def never(prompts: list[NDArray[np.int64]], room: int, seed: int) -> NDArray[np.int64]:
        return np.full((len(prompts), room), SO)

    for chosen, what in (("right", "right"), ("finished", "finished")):
        with pytest.raises(ConfigError, match=f"distil.chosen={what}: of the teacher's last .* none is; train it"):
            TaughtData(CONFIG, V, never, chosen).train_sequences(0, 0, 1)  # type: ignore[arg-type]


def test_the_stage_s_own_shares_of_wrong_answers_have_no_part() -> None:
    wrong = replace(CONFIG, settings={"digits": [1, 2], "wrong": 1.0})
    ours, theirs = (TaughtData(config, V, Scripted(), "right") for config in (wrong, CONFIG))
    assert torch.equal(ours.train_sequences(0, 0, 8).tokens_BT1, theirs.train_sequences(0, 0, 8).tokens_BT1)
