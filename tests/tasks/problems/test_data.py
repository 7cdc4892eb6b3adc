"""Sequences and prompts of problems: functions of (seed, i), whole instances, never on two sides, rightly rewarded."""

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from ablations.config.trialkeys import TrialKeys, with_overrides
from ablations.config.trialrules import check
from models.base.typed import ConfigError
from models.training.batch import Batch
from tasks.config import DataConfig
from tasks.order import in_order
from tasks.prepared import items_of, prepare_data
from tasks.problems import data as problems_data
from tasks.problems.chosen import PROBLEMS
from tasks.problems.data import PACKED, ProblemData
from tasks.problems.problem import SHARED_WORDS
from tasks.problems.sums import Sums

V, T = 256, 160
CONFIG = DataConfig(source="problem", problem="sums", template="chat", seq_len=T, answers_only=True)


def made(problem: str = "sums", config: DataConfig = CONFIG, **settings: Any) -> ProblemData:
    return ProblemData(replace(config, problem=problem, settings=settings), V)


def instances(tokens: np.ndarray) -> list[tuple[int, ...]]:
    """Of one sequence: each up to its end, those of filling left out."""
    found, here = [], list[int]()
    for token in tokens.tolist():
        if token:
            here.append(token)
        elif here:
            found.append(tuple(here))
            here = []
    assert not here, "whole ones alone"
    return found


@pytest.mark.parametrize("name", PROBLEMS)
def test_sequences_are_a_function_of_seed_and_place(name: str) -> None:
    data, again = made(name, short=0.3, wrong=0.2), made(name, short=0.3, wrong=0.2)
    whole = data.train_sequences(3, PACKED - 5, 12)
    parts = [again.train_sequences(3, PACKED - 5 + i, 4) for i in (8, 0, 4)]
    for column in range(2):
        joined = torch.cat([parts[i][column] for i in (1, 2, 0)])  # type: ignore[list-item]
        assert torch.equal(whole[column], joined)  # type: ignore[arg-type]
    assert whole.tokens_BT1.shape == (12, T + 1) and whole.mask_BT is not None and whole.mask_BT.any(dim=1).all()
    assert not torch.equal(whole.tokens_BT1, data.train_sequences(4, PACKED - 5, 12).tokens_BT1)
    assert torch.equal(data.train_batch(3, 1).tokens_BT1, data.train_sequences(3, 16, 16).tokens_BT1)
    assert again.fingerprint == data.fingerprint != made(name).fingerprint
    assert made(name).fingerprint != made(name, replace(CONFIG, template="plain")).fingerprint


@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("template", ["plain", "chat"])
@pytest.mark.parametrize("answers_only", [False, True])
def test_sequences_are_filled_with_whole_instances_of_which_the_answers_count(
    name: str, template: Any, answers_only: bool
) -> None:
    data = made(name, replace(CONFIG, template=template, answers_only=answers_only), short=0.2, wrong=0.2)
    tokens, mask = data.train_sequences(0, 0, 2 * PACKED)
    assert mask is not None
    longest = sum(data.problem.longest) + 3
    for row, counted in zip(tokens.numpy(), mask.numpy(), strict=True):
        whole = instances(row)
        filled = sum(len(instance) + 1 for instance in whole)
        assert T + 1 - filled < longest, "another one would fit"
        expected = list[bool]()
        for instance in whole:
            answer = answer_begins(data, instance, template)
            expected += [not answers_only] * answer + [True] * (len(instance) + 1 - answer)
        assert counted.tolist() == [*expected, *[False] * (T + 1 - filled)][1:]


def answer_begins(data: ProblemData, instance: tuple[int, ...], template: str) -> int:
    """Where a question ends: behind the marker, or else its last sign: `=`, or `?` of what has no equals sign."""
    if template == "chat":
        assert instance[0] == 1 and instance.count(1) == instance.count(2) == 1
        return instance.index(2) + 1
    words = [data.problem.words[token] for token in instance]
    return words.index("=" if "=" in words else "?") + 1


@pytest.mark.parametrize("name", PROBLEMS)
def test_styles_come_in_the_shares_of_the_settings(name: str) -> None:
    """Of training; held-out answers are right, and have steps unless the training has none at all."""
    data = made(name, short=0.3, wrong=0.25)
    for split, shares in (("train", (0.3, 0.25)), ("test", (0.0, 0.0)), ("validation", (0.0, 0.0))):
        (whole,) = data.evaluation_batches(split, PACKED * T, PACKED) if split != "train" else [
            data.train_sequences(0, 0, 20 * PACKED)
        ]  # fmt: skip
        short = wrong = count = 0
        for row in whole.tokens_BT1.numpy():
            for instance in instances(row):
                begin, count = instance.index(2) + 1, count + 1
                short += instance[begin] == 3
                wrong += not data.problem.judge(instance[1 : begin - 1], instance[begin:]).right
        for found, share in zip((short, wrong), shares, strict=True):
            assert abs(found - share * count) <= 4.5 * np.sqrt(share * count)
    (whole,) = made(name, short=1.0).evaluation_batches("test", 4 * T, 4)
    assert all(i[i.index(2) + 1] == 3 for row in whole.tokens_BT1.numpy() for i in instances(row))


@pytest.mark.parametrize("name", PROBLEMS)
def test_no_question_is_on_two_sides(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is answered, and whichever way it is written: found among packed sequences, prompts and items."""
    monkeypatch.setattr(problems_data, "SAMPLE", 512)
    data = made(name, short=0.5)
    assert data.shared("test") == data.shared("validation") == 0
    sides = dict[str, set[tuple[int, ...]]]()
    for split in ("train", "validation", "test"):
        batch = next(iter(data.evaluation_batches(split, 600 * T, 600)))
        packed = {i[1 : i.index(2)] for row in batch.tokens_BT1.numpy() for i in instances(row)}
        asked = {tuple(filter(None, row)) for row in data.prompts(split, 7, 0, 500).questions.tokens_NQ.tolist()}
        items = {
            tuple(row[1 : row.index(2)])
            for found in data.evaluation_items(split, 300 * T)
            for row in found.tokens_NT1.tolist()
        }
        sides[split] = packed | asked | items
        assert min(map(len, (packed, asked, items))) > 100
    assert not sides["test"] & sides["validation"] and not sides["train"] & (sides["test"] | sides["validation"])


def test_a_question_is_on_one_side_with_whichever_settings() -> None:
    """So a later stage with harder ones is not tested on what an earlier stage has learned."""
    few, many = made(digits=[2]), made(config=replace(CONFIG, template="plain"), digits=[2, 4], wrong=0.5)
    sides = []
    for data in (few, many):
        asked = data.prompts("train", 0, 0, 4000).questions.tokens_NQ.tolist()
        sides.append({tuple(filter(None, row)) for row in asked})
    held = {tuple(filter(None, row)) for row in many.prompts("test", 1, 0, 2000).questions.tokens_NQ.tolist()}
    assert len(sides[0] & sides[1]) > 500 and not sides[0] & held and any(len(row) == 6 for row in held)


def test_what_both_sides_have_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(problems_data, "is_of", lambda split, hashes: np.ones(len(hashes), dtype=bool))
    assert made(digits=[1]).shared("test") == 1


def test_of_too_few_questions_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Sums, "same", lambda self, questions: np.ones((len(questions.levels_N), 1), dtype=np.int64))
    data, said = made(digits=[1]), "^data.settings=.*has too few questions so for a"
    with pytest.raises(ConfigError, match=said):
        for split in ("train", "test", "validation"):  # all of them are one question, and on one side
            data.prompts(split, 0, 0, 1)
    with pytest.raises(ConfigError, match=said):
        for split in ("train", "test", "validation"):
            list(data.evaluation_batches(split, T))


@pytest.mark.parametrize("name", PROBLEMS)
def test_prompts_are_a_function_of_seed_and_place_and_can_be_repeated(name: str) -> None:
    data = made(name)
    whole, again = data.prompts("train", 2, 250, 20), made(name).prompts("train", 2, 260, 4)
    assert np.array_equal(whole.tokens_NP[10:14], again.tokens_NP)
    assert not np.array_equal(whole.tokens_NP, data.prompts("train", 3, 250, 20).tokens_NP)
    group = whole.rows(np.repeat(np.arange(20), 4))
    assert np.array_equal(group.tokens_NP[8:12], whole.tokens_NP[[2] * 4]) and len(group.questions.levels_N) == 80
    for row, asked, length in zip(whole.tokens_NP, whole.questions.tokens_NQ, whole.lengths_N, strict=True):
        assert row[:length].tolist() == [1, *filter(None, asked.tolist()), 2] and not row[length:].any()


@pytest.mark.parametrize("name", PROBLEMS)
def test_rewards_are_the_judges_and_need_an_end(name: str) -> None:
    data = made(name)
    questions = data.prompts("test", 0, 0, 30).questions
    rng = np.random.default_rng(0)
    right, wrong = (data.problem.solved(rng, questions, style).tokens_NA for style in ("steps", "wrong"))
    ended = [np.append(row, 0) for row in right]
    assert data.judge(questions, ended).right_N.tolist() == [1.0] * 30
    assert data.judge(questions, torch.from_numpy(np.array(ended))).formatted_N.tolist() == [1.0] * 30
    assert data.judge(questions, [[*row, 0, 5, 3] for row in right.tolist()]).right_N.all(), (
        "what is behind is not read"
    )
    unfinished = data.judge(questions, [row[row != 0] for row in right])
    assert not unfinished.right_N.any() and not unfinished.formatted_N.any()
    missed = data.judge(questions, [np.append(row, 0) for row in wrong])
    assert not missed.right_N.any() and missed.formatted_N.all()
    assert not data.judge(questions, [[0]] * 30).formatted_N.any()
    longest = max(int((row != 0).sum()) for row in right)
    assert longest + 1 <= data.longest_answer


@pytest.mark.parametrize("name", PROBLEMS)
def test_nothing_is_longer_than_it_says_and_the_longest_fits(name: str) -> None:
    problem = PROBLEMS[name]()
    rng = np.random.default_rng(0)
    questions, (asked, told) = problem.draw(rng, 3000), problem.longest
    assert questions.tokens_NQ.shape[1] == questions.lengths_N.max() == asked
    lengths = [problem.solved(rng, questions, style).lengths_N.max() for style in ("steps", "short", "wrong")]
    assert max(lengths) == told
    made(name, replace(CONFIG, seq_len=asked + told + 3)).train_sequences(0, 0, PACKED)
    with pytest.raises(ConfigError, match=rf"data.seq_len={asked + told + 2}: a question of data.problem={name}"):
        made(name, replace(CONFIG, seq_len=asked + told + 2))


@pytest.mark.parametrize("name", PROBLEMS)
def test_levels_come_alike_and_order_the_training(name: str) -> None:
    data = made(name)
    levels = data.prompts("train", 0, 0, 3000).questions.levels_N
    counts = np.unique(levels, return_counts=True)[1]
    assert len(counts) > 1 and counts.min() > 0.8 * counts.max()
    hardness = data.train_levels(0, 0, 64)
    taken = in_order(data, 0, 64, "easy_to_hard").train_sequences(0, 0, 64)
    order = np.argsort(hardness, kind="stable")
    assert torch.equal(Batch.of(taken).tokens_BT1, data.train_sequences(0, 0, 64).tokens_BT1[order])


@pytest.mark.parametrize("name", PROBLEMS)
def test_items_are_right_solutions_of_which_is_asked_what_they_decide(name: str) -> None:
    data = made(name, wrong=0.5)
    (items,) = items_of(data, "test", 32 * T)
    assert items.answers_NT.any(axis=1).all() and len(items.tokens_NT1) == 32
    for row, answers in zip(items.tokens_NT1.tolist(), items.answers_NT, strict=True):
        begin, end = row.index(2) + 1, row.index(0)
        assert data.problem.judge(row[1 : begin - 1], row[begin:end]).right
        places = np.flatnonzero(answers) + 1
        assert begin <= places.min() and places.max() < end
    assert 0 < data.skill.chance < 0.75 < data.skill.ceiling == 1 and data.skill.words == data.problem.words


def test_chance_is_what_the_commonest_word_of_a_place_gets() -> None:
    """Of one column without what is carried into it: 10 or more of 100 pairs make each of two signs and a digit."""
    pairs = [(a, b) for a in range(10) for b in range(10)]
    carried = sum(a + b < 10 for a, b in pairs) / 100
    digit = max(sum((a + b) % 10 == d for a, b in pairs) for d in range(10)) / 100
    assert made(digits=[1]).skill.chance == pytest.approx((carried + digit) / 2, abs=0.05)
    sums = [str(a + b) for a in range(10, 100) for b in range(10, 100)]
    counts = [Counter(text[place] for text in sums if place < len(text)) for place in range(3)]
    expected = sum(max(count.values()) for count in counts) / sum(count.total() for count in counts)
    assert made(digits=[2], short=1.0).skill.chance == pytest.approx(expected, abs=0.03)


@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("template", ["plain", "chat"])
def test_its_words_are_tokens(name: str, template: Any) -> None:
    data = made(name, replace(CONFIG, template=template))
    words = data.problem.words
    assert len({*words}) == len(words) and tuple(words[:4]) == SHARED_WORDS
    assert not any(set(word) & set(" \n\t") or not word for word in words)
    assert data.tokenizer.get_vocab_size() == len(data.token_bytes) == V
    for question in data.questions("test")[:40]:
        ids = [data.tokenizer.encode(question[part], add_special_tokens=False).ids for part in ("context", "answer")]
        assert "".join(f" {words[token]}" for part in ids for token in part) == question["context"] + question["answer"]
        asked = ids[0][1:-1] if template == "chat" else ids[0]
        assert data.problem.judge(asked, ids[1]) == (True, True)
    text = data.documents("test")[0].text
    ids = data.tokenizer.encode(text, add_special_tokens=False).ids
    assert data.tokenizer.decode(ids, skip_special_tokens=False) == text
    assert int(data.token_bytes[ids].sum()) == len(text.encode())


def test_prepare_data_knows_it(tmp_path: Any) -> None:
    assert isinstance(prepare_data(replace(CONFIG, problem="sums"), V, tmp_path), ProblemData)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "data.source=problem: needs data.problem=NAME, one of sums, "),
        ({"data.problem": "sum"}, "data.problem=sum: expected one of sums"),
        ({"data.problem": "sums", "data.settings": {"digit": 3}}, "data.settings.digit: no such key"),
        (
            {"data.problem": "sums", "data.settings": {"short": 0.7, "wrong": 0.6}},
            "data.settings.short=0.7: with",
        ),
        ({"data.problem": "sums", "data.settings": {"wrong": 1.5}}, "data.settings.wrong=1.5: must be at most 1"),
        ({"data.problem": "sums", "data.settings": {"digits": [0]}}, "data.settings.digits=[0]: numbers have 1 to 15"),
        (
            {"data.problem": "sums", "data.seq_len": 20},
            "data.seq_len=20: a question of data.problem=sums takes",
        ),
        ({"data.problem": "sums", "data.fim_rate": 0.1}, "data.fim_rate=0.1: is about documents of text"),
        (
            {"data.problem": "sums", "model.vocab_size": 8},
            "model.vocab_size=8: data.problem=sums has 17 words",
        ),
        ({"data.problem": "sums", "data.skill": "recall"}, "data.skill=recall: is read with data.source=skill only"),
    ],
)
def test_a_wrong_key_is_one_line(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        check(with_overrides(TrialKeys(), {"data.source": "problem", **changes}, "here"))
    assert said in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"data.problem": "sums"}, "data.problem=sums: is read with data.source=problem only"),
        ({"data.template": "chat"}, "data.template=chat: is read with data.source=problem only"),
        ({"data.answers_only": True}, "data.answers_only=True: is read with data.source=skill or problem only"),
    ],
)
def test_its_keys_are_of_no_other_source(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        check(with_overrides(TrialKeys(), changes, "here"))
    assert said in str(error.value)


def test_documents_may_be_masked() -> None:
    check(
        with_overrides(
            TrialKeys(),
            {"data.source": "problem", "data.problem": "sums", "data.mask_documents": True, "eval.tasks": []},
            "",
        )
    )
