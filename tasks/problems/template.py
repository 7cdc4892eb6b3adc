"""How a question and its answer stand in a text. The one place that knows.

    plain    QUESTION ANSWER <|endoftext|>                          as text, to be pre-trained on
    chat     <user> QUESTION <assistant> ANSWER <|endoftext|>       the two markers are tokens of the vocabulary

What a model is asked with, a prompt, goes up to where the answer begins. The end belongs to the answer: it is learned,
and an answer without it is not finished.
"""

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tasks.drawn import END, END_WORD, GAP, packed
from tasks.problems.problem import ASSISTANT, SHARED_WORDS, USER, Answers, Questions

Template = Literal["plain", "chat"]

CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    f"{{%- if message['role'] == 'user' -%}}{{{{ ' {SHARED_WORDS[USER]}' }}}}"
    f"{{%- else -%}}{{{{ ' {SHARED_WORDS[ASSISTANT]}' }}}}{{%- endif -%}}"
    "{{ ' ' + message['content'] | trim }}"
    f"{{%- if message['role'] == 'assistant' -%}}{{{{ '{END_WORD}' }}}}{{%- endif -%}}"
    "{%- endfor -%}"
    f"{{%- if add_generation_prompt -%}}{{{{ ' {SHARED_WORDS[ASSISTANT]}' }}}}{{%- endif -%}}"
)
"""The same as `chat`, as `apply_chat_template` of transformers takes it, of messages by user and assistant in turn."""

PLAIN_TEMPLATE = (
    "{%- for message in messages -%}{{ ' ' + message['content'] | trim }}"
    f"{{%- if message['role'] == 'assistant' -%}}{{{{ '{END_WORD}' }}}}{{%- endif -%}}{{%- endfor -%}}"
)
"""Of `plain`."""
CHAT_TEMPLATES: dict[Template, str] = {"plain": PLAIN_TEMPLATE, "chat": CHAT_TEMPLATE}


class Instances(NamedTuple):
    """Questions with their answers, ready to be read."""

    tokens_NW: NDArray[np.int64]
    """END behind each, once as its own last token."""
    answered_NW: NDArray[np.bool_]
    """The answer and its end."""
    decided_NW: NDArray[np.bool_]
    """Of these, what the problem decides (`Answers.decided_NA`)."""
    levels_N: NDArray[np.int64]

    @property
    def lengths_N(self) -> NDArray[np.int64]:
        """With the end."""
        found: NDArray[np.int64] = (self.tokens_NW != END).sum(axis=1) + 1
        return found


def prompted(questions: Questions, template: Template) -> NDArray[np.int64]:
    """Prompts (N, P), END behind each."""
    slots = _prompt_slots(questions, template)
    return packed(slots, slots != GAP, slots.shape[1])


def instances_of(questions: Questions, answers: Answers, template: Template) -> Instances:
    """One to a row; W has room for the longest question, the longest answer and the end."""
    count = len(questions.levels_N)
    prompt = _prompt_slots(questions, template)
    answer = np.where(answers.tokens_NA == END, GAP, answers.tokens_NA)
    end = np.full((count, 1), END)
    slots = np.concatenate([prompt, answer, end], axis=1)
    of_prompt, of_end = np.zeros(prompt.shape, dtype=bool), np.ones((count, 1), dtype=bool)
    there, width = slots != GAP, slots.shape[1]

    def moved(flags: list[NDArray[np.bool_]]) -> NDArray[np.bool_]:
        return packed(np.concatenate(flags, axis=1).astype(np.int64), there, width) > 0

    answered = moved([of_prompt, np.ones(answer.shape, dtype=bool), of_end])
    decided = moved([of_prompt, answers.decided_NA, ~of_end])
    return Instances(packed(slots, there, width), answered, decided, questions.levels_N)


def _prompt_slots(questions: Questions, template: Template) -> NDArray[np.int64]:
    asked = np.where(questions.tokens_NQ == END, GAP, questions.tokens_NQ)
    if template == "plain":
        return asked
    user, assistant = (np.full((len(asked), 1), marker) for marker in (USER, ASSISTANT))
    return np.concatenate([user, asked, assistant], axis=1)
