"""A checkpoint comes back bit for bit, and nothing else is taken for one."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from models.base.typed import ConfigError
from models.checkpoint import load_checkpoint, save_checkpoint
from models.transformer import Transformer

Built = Callable[..., Transformer]


@pytest.fixture
def saved(built: Built, tmp_path: Path) -> Path:
    model = built({"dtype": "float32", "moe.balance.kind": "bias", "attention.q_lora_rank": 10})
    model.routers()[0].e_score_correction_bias += torch.linspace(-1, 1, 6)
    save_checkpoint(tmp_path / "checkpoint", model, {"data": {"source": "text"}})
    return tmp_path / "checkpoint"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
def test_round_trip_is_bit_exact(built: Built, tokens: Callable[..., Tensor], tmp_path: Path, dtype: str) -> None:
    model = built({"dtype": dtype, "moe.balance.kind": "bias_aux_loss", "moe.balance.scope": "batch"})
    for i, router in enumerate(model.routers()):
        router.e_score_correction_bias += 0.1 * torch.randn(6, generator=torch.Generator().manual_seed(i))
    save_checkpoint(tmp_path / "a" / "b", model, {"tokenizer": "abc"})
    loaded, extra = load_checkpoint(tmp_path / "a" / "b")
    assert loaded.config == model.config and extra["tokenizer"] == "abc" and not loaded.training
    before, after = model.state_dict(), loaded.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[n], after[n]) and before[n].dtype == after[n].dtype for n in before)
    with torch.no_grad():
        assert torch.equal(loaded(tokens(2, 9)).logits, model.eval()(tokens(2, 9)).logits)
    assert sorted(p.name for p in (tmp_path / "a" / "b").iterdir()) == ["config.json", "model.safetensors"]


def test_saving_again_replaces(built: Built, saved: Path) -> None:
    other = built({"dtype": "float32"}, seed=1)
    save_checkpoint(saved, other)
    loaded, extra = load_checkpoint(saved)
    assert torch.equal(loaded.lm_head.weight, other.lm_head.weight) and "data" not in extra


def refused(path: Path, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_missing_file_is_named(saved: Path, name: str) -> None:
    (saved / name).unlink()
    refused(saved, name)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.99])
def test_a_truncated_file_is_refused(saved: Path, name: str, share: float) -> None:
    content = (saved / name).read_bytes()
    (saved / name).write_bytes(content[: int(share * len(content))])
    refused(saved, "truncated or not ours")


class Boom:
    def __reduce__(self) -> tuple[Any, ...]:
        return (pytest.fail, ("the pickle was opened",))


def test_a_pickle_is_refused_unopened(saved: Path) -> None:
    (saved / "model.safetensors").write_bytes(pickle.dumps(Boom()))
    refused(saved, "truncated or not ours")
    torch.save({"model": Boom()}, saved / "model.safetensors")
    refused(saved, "truncated or not ours")


FOREIGN: dict[str, Any] = {
    "another project's": {"architectures": ["DeepseekV3ForCausalLM"], "hidden_size": 128},
    "a list": [1, 2],
    "a word": "model",
    "null": None,
    "a number": 3,
    "model is null": {"format": 2, "model": None},
    "model is a list": {"format": 2, "model": [1]},
    "an unknown key": {"format": 2, "model": {"n_layer": 3}},
    "a wrong type": {"format": 2, "model": {"n_layers": "three"}},
    "an impossible model": {"format": 2, "model": {"moe": {"top_k": 99}, "dtype": "float32"}},
    "an unresolved type": {"format": 2, "model": {"dtype": "auto"}},
    "another shape": {"format": 2, "model": {"dtype": "float32"}},
}


@pytest.mark.parametrize("content", FOREIGN.values(), ids=FOREIGN.keys())
def test_a_foreign_config_is_refused(saved: Path, content: Any) -> None:
    if isinstance(content, dict):  # so that it is not the missing digest that is refused
        content = content | {"weights_sha256": json.loads((saved / "config.json").read_text())["weights_sha256"]}
    (saved / "config.json").write_text(json.dumps(content))
    with pytest.raises(ConfigError) as caught:
        load_checkpoint(saved)
    assert "\n" not in str(caught.value)


def test_bytes_that_are_no_text_are_refused(saved: Path) -> None:
    (saved / "config.json").write_bytes(b"\xff\xfe\x00{")
    refused(saved, "truncated or not ours")


def test_a_later_format_is_refused(saved: Path) -> None:
    content = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps(content | {"format": content["format"] + 1}))
    refused(saved, "format")


def test_a_changed_bit_is_refused(saved: Path) -> None:
    weights = bytearray((saved / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (saved / "model.safetensors").write_bytes(weights)
    refused(saved, "SHA-256")


def test_weights_beside_anothers_config_are_refused(built: Built, saved: Path, tmp_path: Path) -> None:
    """The same shapes: only the digest can tell."""
    save_checkpoint(tmp_path / "other", built({"dtype": "float32", "attention.q_lora_rank": 10}, seed=1))
    (saved / "model.safetensors").write_bytes((tmp_path / "other" / "model.safetensors").read_bytes())
    refused(saved, "SHA-256")


def test_a_folder_of_pickles_says_why(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps(Boom()))
    refused(tmp_path, "pickle can run code")
