"""How a model is read by the tasks, besides by the logits of whole rows."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tasks.text.tokenizer import END_OF_TEXT

if TYPE_CHECKING:
    from tasks.evals.drafts import Decoder, Sampler
    from tasks.evals.trees import TreeLogits


@dataclass(frozen=True)
class Ways:
    """The defaults (`PLAINLY`) read a model by its logits alone, on the CPU."""

    device: str = "cpu"
    end_of_text: str = END_OF_TEXT
    """The tokenizer's token that ends a text, and stands before one."""
    tree_logits: "TreeLogits | None" = None
    """Likelihoods are scored in trees: what requests share is read once."""
    decoder: "Decoder | None" = None
    """Texts are generated with a cache."""
    sampler: "Sampler | None" = None
    """Draws the answers of `problem_samples`."""
    whole: bool = True
    """Whether the model sees over the ends of texts, as trees and caches do."""


PLAINLY = Ways()
