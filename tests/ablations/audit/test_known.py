"""What is known to be right passes: transformers' models, from a folder or a factory, and this project's own."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import models
from ablations.audit.__main__ import main
from ablations.audit.checks import Report, audit
from ablations.audit.target import adapted, found
from models.checkpoint import save_checkpoint

SMALL = {
    "vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 128,
}  # fmt: skip
LATENT = {"kv_lora_rank": 16, "q_lora_rank": 24, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8}
GATED = {"n_routed_experts": 8, "n_group": 2, "topk_group": 1, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
KINDS: dict[str, dict[str, Any]] = {
    "Llama": {"num_key_value_heads": 2},
    "Mixtral": {"num_key_value_heads": 2, "num_local_experts": 4, "output_router_logits": True},
    "DeepseekV3": {**LATENT, **GATED, "num_key_value_heads": 4, "first_k_dense_replace": 1},
}


def of_transformers(kind: str) -> Any:
    import transformers

    config = getattr(transformers, f"{kind}Config")(**SMALL, **KINDS[kind])
    torch.manual_seed(0)
    return getattr(transformers, f"{kind}ForCausalLM")(config)


def all_pass(report: Report) -> bool:
    assert [v.detail for v in report.verdicts if v.outcome == "fails"] == []
    return report.passes


@pytest.mark.parametrize("kind", KINDS)
def test_transformers_models_pass_from_a_folder(kind: str, tmp_path: Path) -> None:
    of_transformers(kind).save_pretrained(tmp_path)
    report = audit(found(str(tmp_path), trained=False), kind)
    assert all_pass(report) and [v for v in report.verdicts if v.outcome != "passes"] == []
    assert report.dtype == "float64"


def test_transformers_models_pass_from_a_factory_and_a_broken_one_does_not() -> None:
    model = of_transformers("Llama")
    assert all_pass(audit(adapted(model), "Llama"))
    for layer in model.model.layers:
        layer.self_attn.is_causal = False
    model.set_attn_implementation("eager")
    plain = type(model).forward

    def all_ones(self: Any, input_ids: Any, attention_mask: Any = None, **rest: Any) -> Any:
        """A mask of four dimensions is taken as it is."""
        length = input_ids.shape[1]
        return plain(self, input_ids, attention_mask=torch.zeros(1, 1, length, length), **rest)

    type(model).forward, kept = all_ones, plain  # type: ignore[method-assign]
    try:
        report = audit(adapted(model), "Llama without a mask")
    finally:
        type(model).forward = kept  # type: ignore[method-assign]
    causality = next(v for v in report.verdicts if v.name == "causality")
    assert causality.outcome == "fails" and "there is no causal mask" in causality.detail


@pytest.mark.parametrize(
    "changes",
    [{}, {"attention.kind": "mha", "feed_forward": "dense"}, {"moe.scoring": "softmax", "dtype": "bfloat16"}],
    ids=["v3", "dense", "bfloat16"],
)
def test_our_own_passes(changes: dict[str, Any]) -> None:
    report = audit(adapted(models.build("tiny", changes)), "ours", length=32)
    assert all_pass(report) and [v.name for v in report.verdicts if v.outcome != "passes"] == []


def test_our_own_with_one_fp8_scale_for_a_tensor_does_not() -> None:
    model = models.build("tiny", {"precision.recipe": "fp8_tensor", "dtype": "bfloat16"})
    report = audit(adapted(model), "ours", length=32)
    causality = next(v for v in report.verdicts if v.name == "causality")
    assert causality.outcome == "fails" and "in training" in causality.detail


def test_a_checkpoint_of_ours_passes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_checkpoint(tmp_path, models.build("tiny"))
    assert main([str(tmp_path), "length=32", "rows=2", "format=json"]) == 0
    written = json.loads(capsys.readouterr().out)
    assert written["passes"] is True and written["dtype"] == "float64"
    assert {verdict["outcome"] for verdict in written["verdicts"]} == {"passes"}
