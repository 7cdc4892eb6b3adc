"""What a model answers by itself: the estimator against all subsets, the path through lm-eval against a slow loop."""

import functools
import itertools
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models.base.typed import ConfigError
from models.decoding.generate import Decoding
from models.decoding.sampling import FEWER_EVERY, draw
from models.layers import inferring
from models.prompt import build
from models.transformer import Transformer
from tasks.config import DataConfig, EvalConfig
from tasks.evals.known import check_askable
from tasks.evals.lm import DRAWN_AT_ONCE, DRAWS_SEED
from tasks.evals.problems import GREEDY, SAMPLES, judged, pass_at_k, tokens_written
from tasks.evals.score import score
from tasks.evals.ways import Ways
from tasks.problems.chosen import PROBLEMS
from tasks.problems.data import ProblemData, Prompts

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

PAIRS = {"numbers": [2], "below": 22, "short": 1.0}
"""Two numbers in their order: learned in some steps."""
CONFIG = DataConfig(
    source="problem", problem="sorting", settings=PAIRS, seq_len=48, answers_only=True, mask_documents=True
)
ITEMS, DRAWN = 40, 12


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def data() -> ProblemData:
    return ProblemData(CONFIG, 32)


def small(seed: int = 0) -> Transformer:
    shape = {"vocab_size": 32, "d_model": 32, "n_layers": 2, "dtype": "float32", "feed_forward": "dense"}
    return build("tiny", shape, seed)


@pytest.fixture(scope="module")
def learned(data: ProblemData) -> Transformer:
    model, before = small(), torch.get_num_threads()
    torch.set_num_threads(1)
    adam = torch.optim.Adam(model.train().parameters(), 0.01)
    for step in range(60):
        tokens, mask = data.train_batch(0, step)
        assert mask is not None
        logits = model(tokens[:, :-1], document_end=0).logits
        torch.nn.functional.cross_entropy(logits[mask], tokens[:, 1:][mask]).backward()
        adam.step()
        adam.zero_grad()
    torch.set_num_threads(before)
    return model.eval()


def scored(model: Transformer, data: Any, place: Path, **changes: Any) -> dict[str, dict[str, Any]]:
    """As a trial is scored whose attention stays within documents."""
    asked: dict[str, Any] = {"tasks": [GREEDY, SAMPLES], "items": ITEMS, "samples": DRAWN, **changes}
    with inferring(model):
        return score(
            lambda tokens: model(tokens, document_end=0).logits,
            data,
            EvalConfig(**asked),
            place,
            Ways(decoder=functools.partial(Decoding, model), sampler=functools.partial(draw, model), whole=False),
        )


@pytest.mark.parametrize("answers", range(1, 8))
def test_the_estimator_is_the_mean_over_all_subsets(answers: int) -> None:
    for right, k in itertools.product(range(answers + 1), range(1, answers + 1)):
        subsets = list(itertools.combinations([True] * right + [False] * (answers - right), k))
        assert pass_at_k(answers, right, k) == pytest.approx(sum(map(any, subsets)) / len(subsets), abs=1e-12)
    for wrong in ((answers, answers + 1, 1), (answers, 0, answers + 1), (answers, 0, 0)):
        with pytest.raises(ValueError, match="pass@"):
            pass_at_k(*wrong)


def test_the_estimator_is_unbiased_and_one_minus_the_power_is_not() -> None:
    """Over all that n answers of chance p may be, it comes to 1 - (1 - p)^k."""
    n, k, p = 10, 4, 0.15
    shares = [math.comb(n, c) * p**c * (1 - p) ** (n - c) for c in range(n + 1)]
    truth = 1 - (1 - p) ** k
    assert sum(w * pass_at_k(n, c, k) for c, w in enumerate(shares)) == pytest.approx(truth)
    assert abs(sum(w * (1 - (1 - c / n) ** k) for c, w in enumerate(shares)) - truth) > 0.02
    assert pass_at_k(64, 1, 64) == 1.0 and pass_at_k(64, 3, 1) == pytest.approx(3 / 64)


def prompts_of(data: ProblemData, count: int) -> tuple[Prompts, list[list[int]]]:
    found = data.prompts("test", 0, 0, count)
    return found, [row[:n].tolist() for row, n in zip(found.tokens_NP, found.lengths_N, strict=True)]


def last_logits(model: Transformer, rows: list[list[int]]) -> torch.Tensor:
    """All of one length, read anew, and within their documents."""
    with torch.no_grad():
        return model(torch.tensor(rows), document_end=0).logits[:, -1]


def loop(model: Transformer, rows: list[list[int]], room: int, choose: Callable[[torch.Tensor], list[int]]) -> Any:
    """Answers, their end included, without cache. The rows that have ended are left out when `draw` leaves them out,
    since what is drawn depends on the rows there are."""
    rows, answers = [list(row) for row in rows], [list[int]() for _ in rows]
    here = list(range(len(rows)))
    for step in range(room):
        for i, token in zip(here, choose(last_logits(model, [rows[i] for i in here])), strict=True):
            token = 0 if 0 in answers[i] else token
            rows[i].append(token)
            answers[i].append(token)
        left = [i for i in here if 0 not in answers[i]]
        if not left:
            break
        if step % FEWER_EVERY == FEWER_EVERY - 1 and 2 * len(left) <= len(here):
            here = left
    return [answer[: answer.index(0) + 1] if 0 in answer else answer for answer in answers]


def expected_of(answers: list[list[int]], right: np.ndarray, formatted: np.ndarray, questions: int) -> dict[str, float]:
    counts = right.reshape(questions, -1).sum(axis=1)
    n = len(answers) // questions
    return {
        **{f"pass_{k}": sum(pass_at_k(n, int(c), k) for c in counts) / questions for k in (1, 8, 64) if k <= n},
        "answers_formatted": formatted.mean(),
        "answers_ended": sum(0 in answer for answer in answers) / len(answers),
        "answer_tokens": sum(map(len, answers)) / len(answers),
    }


@pytest.mark.parametrize("trained", [True, False])
def test_the_whole_path_is_a_slow_loop(data: ProblemData, learned: Transformer, tmp_path: Path, trained: bool) -> None:
    """A learned model gets most right; a random one writes all lengths, and much without end."""
    model = learned if trained else small(1)
    found = scored(model, data, tmp_path)
    asked, rows = prompts_of(data, ITEMS)
    answers = loop(model, rows, data.longest_answer, lambda logits: logits.argmax(-1).tolist())
    right = data.judge(asked.questions, answers).right_N
    assert found[GREEDY]["items"] == "".join(str(int(value)) for value in right)
    assert found[GREEDY]["exact_match"] == pytest.approx(right.mean()) and found[GREEDY]["n"] == ITEMS
    assert found[GREEDY]["chance"] == data.problem.chance == 0.5
    if trained:
        assert right.mean() > 0.8
    assert ITEMS * DRAWN <= DRAWN_AT_ONCE, "one batch"
    generator = torch.Generator().manual_seed(DRAWS_SEED << 32)
    drawn = loop(
        model,
        [row for row in rows for _ in range(DRAWN)],
        data.longest_answer,
        lambda logits: torch.multinomial(torch.softmax(logits, -1), 1, generator=generator)[:, 0].tolist(),
    )
    each = asked.rows(np.repeat(np.arange(ITEMS), DRAWN)).questions
    expected = expected_of(drawn, *data.judge(each, drawn), ITEMS)
    assert {name: found[SAMPLES][name] for name in expected} == pytest.approx(expected)
    assert "pass_64" not in found[SAMPLES] and len({len(answer) for answer in drawn}) > (1 if trained else 5)
    assert (found[SAMPLES]["answers_ended"] > 0.99) == trained


def test_a_model_that_has_not_learned_is_right_by_accident_alone(
    data: ProblemData, learned: Transformer, tmp_path: Path
) -> None:
    before, after = (scored(model, data, tmp_path) for model in (small(), learned))
    assert before[GREEDY]["exact_match"] == 0 and before[SAMPLES]["pass_8"] < 0.05
    assert after[GREEDY]["exact_match"] > 0.8 and after[SAMPLES]["pass_1"] > 0.7
    assert after[SAMPLES]["pass_8"] > after[SAMPLES]["pass_1"]
    gap = after[SAMPLES]["pass_8"] - after[SAMPLES]["pass_1"]
    assert after[SAMPLES]["pass_gap"] == pytest.approx(gap)


def test_draws_are_the_same_bits_whenever_and_beside_whatever(
    data: ProblemData, learned: Transformer, tmp_path: Path
) -> None:
    one = scored(learned, data, tmp_path)
    torch.manual_seed(5)
    again = scored(learned, data, tmp_path, tasks=[SAMPLES])
    assert json.dumps(again[SAMPLES]) == json.dumps(one[SAMPLES])
    assert scored(learned, data, tmp_path, tasks=["skill_answers", GREEDY])[GREEDY] == one[GREEDY]
    other = scored(learned, data, tmp_path, tasks=[SAMPLES], split="validation")
    assert other[SAMPLES] != one[SAMPLES]


def test_a_model_that_stays_within_documents_has_a_cache_too(data: ProblemData, tmp_path: Path) -> None:
    """Nothing is read anew: no prompt has an end in it that attention would stop at."""
    model = small()
    with inferring(model):
        found = score(
            lambda tokens: 1 / 0,
            data,
            EvalConfig(tasks=[GREEDY], items=4),
            tmp_path,
            Ways(decoder=functools.partial(Decoding, model), whole=False),
        )
    assert found[GREEDY]["n"] == 4 and all(row.all() for row in prompts_of(data, 20)[0].tokens_NP[:, :3])


def items_of(data: ProblemData) -> list[dict[str, Any]]:
    return data.questions("test")


@pytest.mark.parametrize("template", ["plain", "chat"])
@pytest.mark.parametrize("problem", PROBLEMS)
def test_an_answers_text_is_judged_as_its_tokens(problem: str, template: Any) -> None:
    """Right ones, wrong ones, cut ones, and words that no problem has; what has not ended is neither."""
    config = DataConfig(source="problem", problem=problem, template=template, seq_len=128)
    data = ProblemData(config, 128)
    asked = data.prompts("test", 0, 0, 60)
    items, rng = items_of(data)[:60], np.random.default_rng(0)
    kinds = set()
    for style in ("steps", "short", "wrong"):
        answers = data.problem.solved(rng, asked.questions, style).tokens_NA
        for i, (item, row) in enumerate(zip(items, answers, strict=True)):
            tokens = [token for token in row.tolist() if token]
            for written in (tokens, tokens[:-1], [*tokens, 100], [*tokens, 2], [100, *tokens]):
                if len(written) >= data.longest_answer:
                    continue
                text = data.tokenizer.decode(written, skip_special_tokens=False)
                assert data.tokenizer.encode(text, add_special_tokens=False).ids == written
                found = judged(item, text)
                rewards = data.judge(asked.rows(np.array([i])).questions, [[*written, 0]])
                assert (found.right, found.formatted) == (rewards.right_N[0] == 1, rewards.formatted_N[0] == 1)
                assert found.ended and found.tokens == len(written) + 1
                kinds.add((found.right, found.formatted))
            assert judged(item, data.text(np.array(tokens))).right == (style != "wrong"), "the planted mistake"
            room = (data.longest_answer - len(tokens)) * [tokens[0]]
            endless = judged(item, data.text(np.array([*room, *tokens])))
            assert endless == (False, False, False, data.longest_answer), "whatever its result"
    assert kinds >= {(True, True), (False, True), (False, False)}


@pytest.mark.parametrize("task", [GREEDY, SAMPLES])
def test_only_a_problem_is_answered(task: str) -> None:
    for source in ("skill", "text"):
        with pytest.raises(
            ConfigError, match=f"^eval.tasks={task}: answers are judged by a problem's rule; take [^\n]*$"
        ):
            check_askable([task], source)
    check_askable([task], "problem")


def test_an_answer_that_does_not_fit_is_said_by_name() -> None:
    longest = ProblemData(CONFIG, 32).longest_answer
    with pytest.raises(ConfigError, match=r"data.seq_len=12: a question of data.problem=sorting takes up to 14 tokens"):
        ProblemData(DataConfig(source="problem", problem="sorting", settings=PAIRS, seq_len=12), 32)
    assert longest + 3 + 2 <= 14, "question, markers and the whole answer with its end"


def test_what_is_written_at_most_is_counted() -> None:
    def counted(**changes: Any) -> int:
        return tokens_written(EvalConfig(**{"tasks": [GREEDY, SAMPLES], "items": 10, **changes}), CONFIG)

    assert counted(samples=8) == 10 * (1 + 8) * 9
    assert counted(tasks=[GREEDY]) == 90 and counted(tasks=["skill_answers"]) == 0
    assert counted(items=None) == (1024 + 200 * 64) * 9
    assert tokens_written(EvalConfig(tasks=[SAMPLES]), DataConfig()) == 0
