"""The tokenizer: lossless, deterministic, and honest about bytes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from models.typed import ConfigError
from tasks import tokenizer as module
from tasks.tokenizer import END_OF_TEXT, encode_packed, load_tokenizer, token_bytes, train_tokenizer

TEXTS = [f"def function_{i}(argument):\n    return argument * {i * i}\r\n" for i in range(200)]


@pytest.fixture(scope="module")
def trained() -> Tokenizer:
    return train_tokenizer(TEXTS, 320)


def test_training_twice_gives_the_same_tokenizer(trained: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    assert train_tokenizer(iter(TEXTS), 320).to_str() == trained.to_str()
    assert trained.get_vocab_size() == 320 and trained.token_to_id(END_OF_TEXT) == 0


@settings(max_examples=100, deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=80))
def test_any_text_comes_back_and_its_bytes_add_up(trained: Tokenizer, text: str) -> None:
    ids = trained.encode(text).ids
    assert trained.decode(ids, skip_special_tokens=False) == text
    assert token_bytes(trained)[ids].sum() == len(text.encode())


def test_end_of_text_inside_a_text_is_text(trained: Tokenizer) -> None:
    for tokenizer in (trained, load_tokenizer(trained.to_str())):
        ids = tokenizer.encode(f"a{END_OF_TEXT}b").ids
        assert 0 not in ids and tokenizer.decode(ids) == f"a{END_OF_TEXT}b"
    assert token_bytes(trained)[0] == 0 and (token_bytes(trained)[1:] > 0).all()


def test_packing_ends_every_document(trained: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = np.concatenate([[*trained.encode(text).ids, 0] for text in TEXTS])
    packed = encode_packed(trained, [(text, 0) for text in TEXTS])
    assert packed.dtype == np.uint16 and (packed == expected).all()
    monkeypatch.setattr(module, "_PIECE_CHARACTERS", 30)
    monkeypatch.setattr(module, "_BATCH_CHARACTERS", 100)
    in_pieces = encode_packed(trained, [(text, 0) for text in [*TEXTS, "x" * 100]])
    assert (in_pieces == 0).sum() == len(TEXTS) + 1
    assert trained.decode(in_pieces.tolist()) == "".join(TEXTS) + "x" * 100


def test_impossible_vocabularies() -> None:
    with pytest.raises(ConfigError, match="model.vocab_size=256: must be at least 257"):
        train_tokenizer(TEXTS, 256)
    with pytest.raises(ConfigError, match="only yields 259 tokens"):
        train_tokenizer(["a b c"], 300)
