"""The named sizes against what their papers print, and the command that prints them."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from models.base.typed import ConfigError
from models.config import ModelConfig, MTPConfig
from models.cost import COUNTS, DOLLARS_PER_GPU_HOUR, cost, gpu_hours, in_units, main, parts
from models.rules import check_length, validate
from models.sizes import SIZES, size
from models.transformer import Transformer

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", SIZES)
def test_every_size_can_be_built(name: str) -> None:
    """On the meta device; what is counted from the config is what is there."""
    config, seq_len = size(name)
    validate(config)
    check_length(config, seq_len)
    with torch.device("meta"):
        model = Transformer(replace(config, dtype="bfloat16"))
    found = cost(config, seq_len)
    count = sum(p.numel() for p in model.parameters())
    assert count == found.total_params + found.mtp_params == sum(parts(config).values())


def test_tiny_is_the_default() -> None:
    assert size("tiny")[0] == ModelConfig()


def test_deepseek_v3_is_the_published_one() -> None:
    """2412.19437: 671B parameters, 37B active; ISCA 2025: 70.272 KB of KV per token, 250 GFLOPs per training token.

    The last is the main model's, causal, at 4096 tokens; the MTP module that V3 trained with adds 4 %. With embedding
    and head once more, the published files hold 684.5B parameters.
    """
    config, seq_len = size("deepseek_v3")
    found = cost(config, seq_len)
    assert seq_len == 4096
    assert found.total_params / 1e9 == pytest.approx(671.026, abs=0.001)
    assert found.active_params / 1e9 == pytest.approx(37.552, abs=0.001)
    assert found.active_products / 1e9 == pytest.approx(36.626, abs=0.001)
    assert found.kv_bytes == 70_272
    copies = 2 * config.vocab_size * config.d_model
    assert (found.total_params + found.mtp_params + copies) / 1e9 == pytest.approx(684.49, abs=0.01)
    without = cost(replace(config, mtp=MTPConfig()), seq_len)
    assert without.flops_per_token / 1e9 == pytest.approx(250.46, abs=0.01)
    assert found.flops_per_token / 1e9 == pytest.approx(260.65, abs=0.01)
    m, balance = config.moe, config.moe.balance
    assert (m.scoring, m.normalise, m.routed_scaling_factor, m.n_group, m.topk_group) == ("sigmoid", True, 2.5, 8, 4)
    assert (balance.kind, balance.scope, balance.alpha) == ("bias_aux_loss", "sequence", 1e-4)
    assert (config.first_k_dense, config.mtp.depth) == (3, 1) and config.std == pytest.approx(0.006, rel=1e-3)


def test_v3_at_the_published_throughput_is_the_published_price() -> None:
    """Table 1: pre-training took 2,664K H800 hours, $5.328M at $2."""
    assert gpu_hours() == pytest.approx(2.664e6)
    assert gpu_hours() * DOLLARS_PER_GPU_HOUR == pytest.approx(5.328e6)
    assert gpu_hours(tokens=1e12) == pytest.approx(180e3)


def test_v2_lite_is_the_published_one() -> None:
    """2405.04434, appendix B.1: 15.7B, 2.4B active (without the embedding); scores are a softmax, not normalised."""
    config, seq_len = size("v2_lite_16b")
    found = cost(config, seq_len)
    assert found.total_params / 1e9 == pytest.approx(15.7, abs=0.05)
    assert found.active_products / 1e9 == pytest.approx(2.451, abs=0.001)
    assert found.active_params / 1e9 == pytest.approx(2.661, abs=0.001)
    assert (config.moe.scoring, config.moe.normalise, config.attention.q_lora_rank) == ("softmax", False, None)


def test_a_size_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match="size=deepsek_v3: no such size; did you mean deepseek_v3") as caught:
        size("deepsek_v3")
    assert "\n" not in str(caught.value)


TINY = ("1.429 M", "838.720 K with the embedding", "707.648 K without it", "480 B (80 elements")
"""Of the table of the default size."""


@pytest.mark.parametrize(
    ("value", "words"), [(0, "0"), (999, "999"), (1000, "1.000 K"), (999_999, "999.999 K"), (2.5e16, "25,000.000 T")]
)
def test_a_number_is_shown_in_the_unit_of_its_size(value: float, words: str) -> None:
    assert in_units(value, COUNTS) == words


def test_the_table_adds_up(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["deepseek_v3"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("deepseek_v3\n")
    for words in (
        "671.026 B",
        "37.552 B with the embedding",
        "36.626 B without it",
        "70.272 KB",
        "4096 tokens",
        "2.664 M H800 hours",
        "$5.328 M",
    ):
        assert words in out
    assert main(["tiny"]) == 0
    small = capsys.readouterr().out
    assert " 0.0" not in small, "every number has a unit of its size"
    for words in (*TINY, "128 tokens a sequence"):
        assert words in small
    assert main([]) == 0
    every = capsys.readouterr().out
    assert all(f"{name}\n" in every for name in SIZES) and every.count("H800") == 1


@pytest.mark.parametrize(("name", "code"), [("deepseek_v3", 0), ("v4", 2)])
def test_the_command(name: str, code: int) -> None:
    done = subprocess.run([sys.executable, "-m", "models.cost", name], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == code
    lines = (done.stdout if code == 0 else done.stderr).splitlines()
    refused = len(lines) == 1 and lines[0].startswith("error: size=v4: no such size")
    assert len(lines) > 5 if code == 0 else refused
    assert (done.stderr if code == 0 else done.stdout) == ""
