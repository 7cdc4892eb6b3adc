"""Fill in the middle: training alone is rearranged, by document; the tokenizer and what is scored stay as they were."""

import dataclasses
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.base.typed import ConfigError
from tasks.config import END_OF_TEXT_ID, DataConfig, EvalConfig
from tasks.evals.lm import HarnessLM
from tasks.evals.score import score
from tasks.text.batches import PackedData, _key, prepare
from tasks.text.corpora import load_splits
from tasks.text.fim import FIM_BEGIN_ID, FIM_END_ID, FIM_HOLE_ID, FIM_TOKENS, arrange, rearranges
from tasks.text.splits import SPLITS
from tasks.text.tokenizer import END_OF_TEXT

VOCAB = 320
RATES = (None, 0.0, 0.1, 1.0)
NAMES = [f"package/module_{i}.py" for i in range(20_000)]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    folder = tmp_path_factory.mktemp("corpus")
    source = random.Random(0)
    for i in range(200):
        body = "".join(
            f"def f{source.randrange(10**5)}(x):\n    return x + {source.randrange(99)}\n" for _ in range(40)
        )
        (folder / f"{i:03}.txt").write_text(body + "# é😀\n")
    return DataConfig(source="text", path=str(folder), seq_len=16, batch_size=6)


@pytest.fixture(scope="module")
def packed(config: DataConfig, tmp_path_factory: pytest.TempPathFactory) -> dict[float | None, PackedData]:
    """The same corpus at every rate, in one cache."""
    cache = tmp_path_factory.mktemp("cache")
    return {rate: prepare(dataclasses.replace(config, fim_rate=rate), VOCAB, cache) for rate in RATES}


def documents(tokens: np.ndarray) -> list[list[int]]:
    """The tokens of each document, without the end of text."""
    return [part.tolist() for part in np.split(tokens, np.flatnonzero(tokens == END_OF_TEXT_ID) + 1)[:-1]]


# --- one document


@given(name=st.text(max_size=20), text=st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_prefix_suffix_middle_are_the_text_in_v3s_order(name: str, text: str) -> None:
    segments = arrange(name, text, 1.0)
    assert [special for _, special in segments] == [FIM_BEGIN_ID, FIM_HOLE_ID, FIM_END_ID, END_OF_TEXT_ID]
    nothing, prefix, suffix, middle = (part for part, _ in segments)
    assert nothing == "" and prefix + middle + suffix == text
    assert segments == arrange(name, text, 1.0), "drawn from the name alone"
    assert arrange(name, text, 0.0) == arrange(name, text, None) == [(text, END_OF_TEXT_ID)]


def test_cuts_are_uniform_over_the_places_between_characters() -> None:
    text = "abcd"
    cuts = [(len(p), len(p) + len(m)) for _, (p, _), _, (m, _) in (arrange(name, text, 1.0) for name in NAMES)]
    for low in range(5):
        for high in range(low, 5):
            share = (1 if low == high else 2) / 25  # two draws out of five places, in order
            assert cuts.count((low, high)) / len(NAMES) == pytest.approx(share, abs=0.01), (low, high)


def test_a_rate_is_a_share_of_documents_and_a_higher_one_takes_further_documents() -> None:
    chosen = {rate: {name for name in NAMES if rearranges(name, rate)} for rate in (0.0, 0.1, 0.5, 1.0)}
    for rate, names in chosen.items():
        assert len(names) / len(NAMES) == pytest.approx(rate, abs=0.01)
    assert chosen[0.0] < chosen[0.1] < chosen[0.5] < chosen[1.0]
    assert not any(rearranges(name, None) for name in NAMES)


def test_the_choice_does_not_depend_on_which_documents_were_kept(config: DataConfig) -> None:
    """A corpus is thinned in the order of a hash of the names too: with that one, all that is kept would be chosen."""
    whole = load_splits(config).train
    size = sum(len(document.text) for document in whole)
    kept = load_splits(dataclasses.replace(config, max_bytes=size // 4)).train
    assert 30 < len(kept) < 60
    shares = [np.mean([rearranges(document.name, 0.5) for document in part]) for part in (whole, kept)]
    assert abs(shares[0] - shares[1]) < 0.2, shares


# --- the packed corpus


def test_every_rate_has_the_same_tokenizer_and_the_same_held_out_tokens(packed: dict[float | None, PackedData]) -> None:
    reserved = packed[0.0]
    for rate in (0.1, 1.0):
        other = packed[rate]
        assert other.tokenizer.to_str() == reserved.tokenizer.to_str(), rate
        assert other.fingerprint["tokenizer_sha256"] == reserved.fingerprint["tokenizer_sha256"]
        assert other.fingerprint["text_sha256"] == reserved.fingerprint["text_sha256"]
        for split in ("validation", "test"):
            assert np.array_equal(other.tokens(split), reserved.tokens(split)), (rate, split)
            assert other.documents(split) == reserved.documents(split)
    assert len({data.fingerprint["tokens_sha256"]["train"] for data in packed.values()}) == len(RATES)
    assert len({data.folder for data in packed.values()}) == len(RATES), "each rate has a cache of its own"


def test_the_tokens_are_reserved_right_after_end_of_text(packed: dict[float | None, PackedData]) -> None:
    for rate in (0.0, 0.1):
        tokenizer, sizes = packed[rate].tokenizer, packed[rate].token_bytes
        assert [tokenizer.id_to_token(i) for i in range(4)] == [END_OF_TEXT, *FIM_TOKENS]
        assert (FIM_BEGIN_ID, FIM_HOLE_ID, FIM_END_ID) == (1, 2, 3)
        assert sizes[:4].tolist() == [0, 0, 0, 0] and (sizes[4:] > 0).all()
        assert packed[rate].vocab_size == VOCAB
        text = f"a{FIM_TOKENS[0]}b{FIM_TOKENS[1]}c{FIM_TOKENS[2]}d{END_OF_TEXT}"
        ids = tokenizer.encode(text).ids
        assert min(ids) > FIM_END_ID and sizes[ids].sum() == len(text), "what a text spells is text"


def test_without_a_rate_nothing_is_reserved_and_nothing_new_is_said(packed: dict[float | None, PackedData]) -> None:
    plain, reserved = packed[None], packed[0.0]
    assert [plain.tokenizer.token_to_id(token) for token in FIM_TOKENS] == [None] * 3
    assert (plain.token_bytes == 0).sum() == 1
    assert "fim" not in plain.fingerprint, "results of before know no such key, and must stay equal"
    lost = set(plain.tokenizer.get_vocab()) - set(reserved.tokenizer.get_vocab())
    assert len(lost) == 3, "the last three merges make room"
    assert max(plain.tokenizer.get_vocab()[token] for token in lost) == VOCAB - 1


def test_only_the_chosen_training_documents_are_rearranged(
    packed: dict[float | None, PackedData], config: DataConfig
) -> None:
    splits = load_splits(config)
    for rate in (0.0, 0.1, 1.0):
        data = packed[rate]
        chosen = [rearranges(document.name, rate) for document in splits.train]
        assert data.fingerprint["fim"] == {"rate": rate, "documents": sum(chosen)}
        assert (sum(chosen) > 0) == (rate > 0)
        found = documents(data.tokens("train").astype(np.int64))
        assert len(found) == len(splits.train) == data.fingerprint["documents"]["train"]
        decode = data.tokenizer.decode
        for document, tokens, is_chosen in zip(splits.train, found, chosen, strict=True):
            if not is_chosen:
                assert decode(tokens) == document.text
                continue
            assert tokens[0] == FIM_BEGIN_ID and [tokens.count(special) for special in (1, 2, 3)] == [1, 1, 1]
            hole, end = tokens.index(FIM_HOLE_ID), tokens.index(FIM_END_ID)
            assert hole < end
            prefix, suffix, middle = tokens[1:hole], tokens[hole + 1 : end], tokens[end + 1 : -1]
            assert decode(prefix) + decode(middle) + decode(suffix) == document.text
        for split in ("validation", "test"):
            assert not np.isin(data.tokens(split), (1, 2, 3)).any(), "what is scored is never rearranged"
        for split in SPLITS:
            assert data.token_bytes[data.tokens(split)].sum() == data.fingerprint["bytes"][split]


def test_parts_are_tokenized_apart_at_characters(packed: dict[float | None, PackedData], config: DataConfig) -> None:
    data, document = packed[1.0], next(iter(load_splits(config).train))
    expected = [
        token
        for text, special in arrange(document.name, document.text, 1.0)
        for token in [*data.tokenizer.encode(text).ids, special]
    ]
    assert data.tokens("train")[: len(expected)].tolist() == expected


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({"seq_len": 8}, True),
        ({"batch_size": 12}, True),
        ({"ramp_from": 0.5, "ramp_over": 0.5}, True),
        ({"mask_documents": True}, True),
        ({"fim_rate": 0.2}, False),
        ({"fim_rate": None}, False),
        ({"max_bytes": 100_000}, False),
    ],
    ids=str,
)
def test_which_keys_are_of_the_text(
    packed: dict[float | None, PackedData], config: DataConfig, changes: dict[str, float | None], same: bool
) -> None:
    other = dataclasses.replace(config, **{"fim_rate": 0.1, **changes})  # type: ignore[arg-type]
    assert (_key(other, VOCAB) == packed[0.1].folder.name) is same


@pytest.mark.parametrize("rate", [-0.1, 1.1, float("nan")])
def test_no_share_is_refused_before_anything_is_read(config: DataConfig, tmp_path: Path, rate: float) -> None:
    with pytest.raises(ConfigError, match="data.fim_rate=.*: must lie between 0 and 1"):
        prepare(dataclasses.replace(config, fim_rate=rate, path="/nowhere.txt"), VOCAB, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_a_vocabulary_without_room_is_refused(config: DataConfig, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="model.vocab_size=259: must be at least 260") as caught:
        prepare(dataclasses.replace(config, fim_rate=0.0), 259, tmp_path / "cache")
    assert FIM_TOKENS[1] in str(caught.value) and "\n" not in str(caught.value)


def test_another_process_draws_the_same(config: DataConfig, packed: dict[float | None, PackedData]) -> None:
    """PYTHONHASHSEED and numpy's generators have no part in it."""
    code = (
        "import sys; from tasks.text.fim import rearranges, arrange\n"
        "names = [f'package/module_{i}.py' for i in range(200)]\n"
        "print([rearranges(n, 0.5) for n in names], [arrange(n, 'abcdefgh', 1.0) for n in names])\n"
        "assert 'torch' not in sys.modules"
    )
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    here = ([rearranges(n, 0.5) for n in NAMES[:200]], [arrange(n, "abcdefgh", 1.0) for n in NAMES[:200]])
    assert done.stdout.strip() == f"{here[0]} {here[1]}"


# --- what is scored


def test_scoring_reads_and_writes_the_special_tokens(packed: dict[float | None, PackedData], tmp_path: Path) -> None:
    """The held-out items and their tokens are the same at every rate, and so are a model's scores."""
    table = torch.randn(VOCAB, VOCAB, generator=torch.Generator().manual_seed(0))
    found = [
        score(lambda tokens: table[tokens], packed[rate], EvalConfig(items=20), tmp_path / str(rate))
        for rate in (0.0, 0.1)
    ]
    assert found[0] == found[1] and found[0]["python_bits_per_byte"]["n"] > 0
    lm = HarnessLM(lambda tokens: table[tokens], packed[0.1].tokenizer, max_length=16)
    assert lm.eot_token_id == END_OF_TEXT_ID
    assert lm.tok_decode([FIM_BEGIN_ID, FIM_END_ID]) == FIM_TOKENS[0] + FIM_TOKENS[2]
    assert min(lm.tok_encode(f"x{FIM_TOKENS[1]}")) > FIM_END_ID
