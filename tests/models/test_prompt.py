"""A model in a few lines."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer

import models
from ablations.home import ROOT
from models.base.typed import ConfigError
from models.checkpoint import save_checkpoint
from models.decoding.generate import greedy
from models.module import Course, LanguageModel
from models.training.config import OptimConfig
from tasks.text.tokenizer import train_tokenizer


def test_a_built_model_is_that_of_a_trial() -> None:
    model = models.build("tiny", {"attention.kind": "mha", "model.moe.top_k": 2}, seed=3)
    assert (model.config.attention.kind, model.config.moe.top_k) == ("mha", 2)
    trained = LanguageModel(model.config, OptimConfig(), Course(1), seed=3).transformer
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), trained.parameters(), strict=True))
    other = models.build("tiny", {"attention.kind": "mha", "model.moe.top_k": 2}, seed=4)
    assert not torch.equal(other.lm_head.weight, model.lm_head.weight)
    assert model(torch.zeros(1, 5, dtype=torch.long)).logits.shape == (1, 5, 1024)


def test_a_checkpoint_is_loaded_with_its_tokenizer_and_goes_on_with_a_text(tmp_path: Path) -> None:
    model = models.build("tiny", {"vocab_size": 265})
    tokenizer = train_tokenizer(["def main():\n    return 1\n"] * 20, 265)
    save_checkpoint(tmp_path, model)
    with pytest.raises(ConfigError, match="tokenizer.json is missing"):
        models.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text(tokenizer.to_str())
    again, own = models.load(str(tmp_path))
    assert isinstance(own, Tokenizer) and torch.equal(again.lm_head.weight, model.lm_head.weight)
    following = greedy(again, torch.tensor([own.encode("def main").ids]), 6)[0].tolist()
    assert models.complete(again, own, "def main", 6) == own.decode(following)
    with pytest.raises(ConfigError, match="at least one token"):
        models.complete(again, own, "")
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ConfigError, match="tokenizer.json is unreadable \\(EOF while parsing"):
        models.load(tmp_path)
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="^device=cuda: torch sees no CUDA device"):
            models.load(tmp_path, "cuda")


@pytest.mark.parametrize(
    ("size", "changes", "said"),
    [
        ("tinny", {}, "size=tinny: no such size.*did you mean tiny"),
        ("tiny", {"atention.kind": "mha"}, "model.atention: no such key.*did you mean"),
        ("tiny", {"attention.kind": "mla2"}, "model.attention.kind=mla2"),
        ("tiny", {"moe.top_k": 99}, "top_k"),
        ("tiny", {"attention.kind.x": "mha"}, "attention.kind.x: kind is a value"),
    ],
)
def test_a_wrong_model_is_one_line(size: str, changes: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        models.build(size, changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        (3, {}, "expected a size and a mapping"),
        ("tiny", "x", "expected a size and a mapping"),
        ("tiny", {3: 4}, "3: a key is text"),
    ],
)
def test_what_is_no_size_or_key_is_one_line(name: Any, changes: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        models.build(name, changes)


@pytest.mark.parametrize("place", [None, 3, b"x"])
def test_what_is_no_path_is_one_line(place: Any) -> None:
    with pytest.raises(ConfigError, match="load: expected the path of a checkpoint's folder, not"):
        models.load(place)


def test_no_trial_depends_on_it() -> None:
    from ablations.trial.closure import import_closure

    assert ROOT / "models" / "prompt.py" not in import_closure("ablations.trial.train", ROOT)
    assert {"build", "load", "complete"} <= set(dir(models))
    with pytest.raises(AttributeError, match="module models has no attribute bild"):
        models.bild  # noqa: B018
