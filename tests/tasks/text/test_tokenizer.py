"""The tokenizer: lossless, deterministic, and honest about bytes."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, pre_tokenizers

from models.base.typed import ConfigError
from tasks.text import tokenizer as module
from tasks.text.tokenizer import END_OF_TEXT, MAX_RUN, encode_packed, load_tokenizer, token_bytes, train_tokenizer

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


def test_tokens_come_in_blocks_and_little_is_read_ahead(trained: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BATCH_CHARACTERS", 200)
    read = []
    blocks = module.encode_blocks(trained, ((read.append(text) or text, 0) for text in TEXTS))
    first = next(blocks)
    assert 0 < len("".join(read)) < 4 * 300 and (first == 0).sum() > 1
    whole = encode_packed(trained, [(text, 0) for text in TEXTS])
    assert (np.concatenate([first, *blocks]) == whole).all() and len(read) == len(TEXTS)


def test_a_long_document_is_encoded_in_parts_of_bounded_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PIECE_CHARACTERS", 30)
    monkeypatch.setattr(module, "_BATCH_CHARACTERS", 100)
    texts = [("line of text\n" * 200, 7), ("", 7), ("x" * 30, 7), ("y" * 31, 8)]
    batches = list(module._batches(texts))
    assert max(sum(len(text) for text, _ in batch) for batch in batches) <= 130 and len(batches) > 20
    in_order = [part for batch in batches for text, after in batch for part in (text, *after)]
    specials = [part for part in in_order if not isinstance(part, str)]
    assert "".join(part for part in in_order if isinstance(part, str)) == "".join(text for text, _ in texts)
    assert specials == [special for _, special in texts] and in_order[-3:] == ["y" * 30, "y", 8]


@settings(max_examples=60, deadline=None)
@given(
    unit=st.text(
        st.characters(exclude_categories=["Cs"]) | st.sampled_from("\x1c\x1f\x85 \t\n!²1a_"), min_size=1, max_size=4
    ),
    before=st.text(st.characters(exclude_categories=["Cs"]), max_size=9),
)
@example(unit="\x1c!", before="")  # a space to Python, and none to the trainer
@example(unit=" \n", before="x")
def test_the_trainer_sees_no_long_run_of_anything(unit: str, before: str) -> None:
    """Its time is quadratic in what its own division leaves whole, so that is what is bounded."""
    text = before + unit * (3 * MAX_RUN // len(unit))
    pieces = list(module._short_runs(text))
    divide = pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str
    assert "".join(pieces) == text
    assert max(end - start for piece in pieces for _, (start, end) in divide(piece)) <= MAX_RUN + 1


def test_ordinary_text_reaches_the_trainer_whole() -> None:
    """Or vocabularies would change. The default corpus has numbers of 3,410 digits."""
    for text in ("".join(TEXTS), "1" * 3412, " " * (MAX_RUN - 1), "word " * MAX_RUN):
        assert list(module._short_runs(text)) == [text]


def test_no_token_is_longer_than_what_the_trainer_sees() -> None:
    """Every merge doubles: 14 of them make a token of 16,384 spaces, were they all seen at once."""
    assert token_bytes(train_tokenizer([" " * 40_000], 257 + 14)).max() == MAX_RUN


def test_impossible_vocabularies() -> None:
    with pytest.raises(ConfigError, match="model.vocab_size=256: must be at least 257"):
        train_tokenizer(TEXTS, 256)
    with pytest.raises(ConfigError, match="only yields 259 tokens"):
        train_tokenizer(["a b c"], 300)
