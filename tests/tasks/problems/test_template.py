"""The chat template against transformers' own, and which tokens of an instance are the answer."""

from typing import Any

import numpy as np
import pytest

from tasks.problems.problem import Answers, Questions
from tasks.problems.sums import Sums
from tasks.problems.template import CHAT_TEMPLATE, instances_of, prompted
from tasks.words import text_of, word_tokenizer

SUMS = Sums()
VOCAB = 32


def some(count: int = 50) -> tuple[Questions, Answers]:
    rng = np.random.default_rng(0)
    questions = SUMS.draw(rng, count)
    return questions, SUMS.solved(rng, questions, "steps")


@pytest.mark.parametrize("split_special_tokens", [False, True])
@pytest.mark.parametrize("blank", ["", " "])
def test_transformers_template_gives_the_same_tokens(split_special_tokens: bool, blank: str) -> None:
    """With a blank before a message's text or without, and as our checkpoints' tokenizers are saved (True)."""
    transformers = pytest.importorskip("transformers")
    theirs: Any = transformers.PreTrainedTokenizerFast(
        tokenizer_object=word_tokenizer(SUMS.words, VOCAB, 3),
        split_special_tokens=split_special_tokens,
        chat_template=CHAT_TEMPLATE,
    )
    questions, answers = some()
    ours = instances_of(questions, answers, "chat")
    prompts = prompted(questions, "chat")
    for i in range(50):
        asked, told = (text_of(tokens, SUMS.words).strip() for tokens in (questions.tokens_NQ[i], answers.tokens_NA[i]))
        messages = [{"role": "user", "content": blank + asked}, {"role": "assistant", "content": blank + told}]
        whole = theirs.apply_chat_template(messages, tokenize=True, return_dict=False)
        assert whole == ours.tokens_NW[i, : ours.lengths_N[i]].tolist()
        asking = theirs.apply_chat_template(messages[:1], add_generation_prompt=True, return_dict=False)
        assert asking == [token for token in prompts[i].tolist() if token]


@pytest.mark.parametrize("template", ["plain", "chat"])
def test_an_instance_is_prompt_answer_and_end(template: Any) -> None:
    questions, answers = some()
    found, prompts = instances_of(questions, answers, template), prompted(questions, template)
    for i in range(50):
        asked, told = ([t for t in tokens[i].tolist() if t] for tokens in (questions.tokens_NQ, answers.tokens_NA))
        prompt = [1, *asked, 2] if template == "chat" else asked
        assert [t for t in prompts[i].tolist() if t] == prompt
        whole = [*prompt, *told, 0]
        assert found.lengths_N[i] == len(whole) and found.tokens_NW[i, : len(whole)].tolist() == whole
        assert not found.tokens_NW[i, len(whole) :].any()
        assert np.flatnonzero(found.answered_NW[i]).tolist() == list(range(len(prompt), len(whole)))
        decided = np.flatnonzero(answers.decided_NA[i]) + len(prompt)
        assert np.flatnonzero(found.decided_NW[i]).tolist() == decided.tolist()
