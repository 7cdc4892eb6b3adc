"""Fill in the middle (2207.14255; V3 4.1): a document's middle is moved behind what follows it, so that a model that
only reads forward learns to fill a gap.

V3's form is prefix, suffix, middle (PSM), by document and before packing:

    <|fim_begin|> prefix <|fim_hole|> suffix <|fim_end|> middle <|endoftext|>

Which documents, and where they are cut, is hashed from their names: the same for every arm, seed and machine, and a
higher rate rearranges further documents, none otherwise. The three parts are tokenized apart, as in 2207.14255 3. The
tokenizer is trained on the text as it was, so that it is the same at every rate.
"""

import hashlib

from tasks.config import END_OF_TEXT_ID
from tasks.text.tokenizer import Segment

FIM_TOKENS = ("<|fim_begin|>", "<|fim_hole|>", "<|fim_end|>")
FIM_BEGIN_ID, FIM_HOLE_ID, FIM_END_ID = (END_OF_TEXT_ID + i for i in (1, 2, 3))
_WORD = 2**64


def reserved(rate: float | None) -> tuple[str, ...]:
    """The special tokens beside end of text: three wherever there is a rate, be it 0, so that rates compare."""
    return () if rate is None else FIM_TOKENS


def rearranges(name: str, rate: float | None) -> bool:
    """Whether the training document of this name is among the share `rate` (0 to 1)."""
    return rate is not None and _draws(name)[0] < rate * _WORD


def arrange(name: str, text: str, rate: float | None) -> list[Segment]:
    """A training document as texts, each with the special token after it: one, or four where it is rearranged.

    The cuts are two places between characters, each uniform over 0 .. len(text); any part may be empty.
    """
    if not rearranges(name, rate):
        return [(text, END_OF_TEXT_ID)]
    low, high = sorted(draw * (len(text) + 1) // _WORD for draw in _draws(name)[1:])
    prefix, middle, suffix = text[:low], text[low:high], text[high:]
    return [("", FIM_BEGIN_ID), (prefix, FIM_HOLE_ID), (suffix, FIM_END_ID), (middle, END_OF_TEXT_ID)]


def _draws(name: str) -> tuple[int, int, int]:
    """Three independent words of 64 bits. Not the hash that thins a corpus, or what is kept would all be chosen."""
    digest = hashlib.sha256(f"fim/{name}".encode(errors="surrogateescape")).digest()
    first, second, third = (int.from_bytes(digest[i : i + 8], "big") for i in (0, 8, 16))
    return first, second, third
