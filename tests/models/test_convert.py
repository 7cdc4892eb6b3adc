"""To the published `deepseek_v3` format and back: transformers reads what we write, and we read what it writes."""

import errno
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
import torch
from safetensors.torch import load, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from torch import Tensor
from transformers import AutoModelForCausalLM, DeepseekV3ForCausalLM
from transformers.modeling_layers import MtpModel

from models.base.typed import ConfigError
from models.checkpoint import load_checkpoint, save_checkpoint
from models.config import BalanceConfig, ModelConfig, MoEConfig
from models.convert import main
from models.published import FIXED, check_held, hf_config, model_config
from models.sizes import size
from models.transformer import Transformer
from models.vocabulary import END_OF_TEXT

Built = Callable[..., Transformer]
Tokens = Callable[..., Tensor]

pytestmark = pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")

WEIGHTS = ("config.json", "model.safetensors")
TOKENIZER = ("tokenizer.json", "tokenizer_config.json")
FP32 = {"dtype": "float32", "init_std": None, "moe.backend": "grouped_mm"}
GROUPS = {"moe.n_routed_experts": 12, "moe.n_group": 4, "moe.topk_group": 2, "moe.top_k": 4}
YARN = {"scaling": "yarn", "factor": 40.0, "original_length": 64, "beta_fast": 8.0}

CASES: dict[str, dict[str, Any]] = {
    "bias": {"moe.balance": {"kind": "bias", "update_speed": 0.02}},
    "no bias": {"moe.balance": {"kind": "aux_loss", "alpha": 0.3, "scope": "batch"}},
    "query compression": {"attention.q_lora_rank": 10, "moe.balance.kind": "bias_aux_loss"},
    "two shared experts": {"moe.n_shared_experts": 2},
    "no shared expert": {"moe.n_shared_experts": 0, "mtp.depth": 1},
    "groups": {**GROUPS, "moe.balance.kind": "bias", "moe.routed_scaling_factor": 2.5},
    "groups that limit nothing": {**GROUPS, "moe.topk_group": 4, "moe.top_k": 3},
    "yarn": {"rope": YARN},
    "yarn without temperature": {"rope": YARN | {"mscale": 0.0, "factor": 1.5}},
    "linear": {"rope": {"scaling": "linear", "factor": 2.5, "original_length": 77, "theta": 500.0}},
    "another trained length": {"rope": {"original_length": 77}},
    "gates as they are": {"moe.normalise": False, "init_std": 0.11, "d_model": 36},
    "mtp": {"mtp": {"depth": 2, "weight": 0.7, "tail_from": 0.5}, "moe.balance.kind": "bias"},
    "mtp after the norm": {"mtp": {"depth": 1, "hidden": "after_norm"}},
    "dense": {"feed_forward": "dense", "moe.scoring": "softmax"},
    "dense, mtp": {"feed_forward": "dense", "mtp.depth": 2},
    "all layers dense, mtp not": {"first_k_dense": 3, "mtp.depth": 1, "moe.balance.kind": "bias"},
    "no layer dense": {"first_k_dense": 0},
    "odd names": {"attention.head_dim": 12, "attention.n_kv_heads": 3, "moe.backend": "loop"},
}


def write_tokenizer(folder: Path, *special: str) -> None:
    """61 tokens, of which the first ones are special: END_OF_TEXT, or those named."""
    special = special or (END_OF_TEXT,)
    names = [*special, *(f"w{n}" for n in range(len(special), 61))]
    tokenizer = Tokenizer(WordLevel({name: n for n, name in enumerate(names)}, unk_token="w60"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.add_special_tokens(list(special))
    tokenizer.save(str(folder / "tokenizer.json"))


@pytest.fixture
def ours(built: Built, tmp_path: Path) -> Callable[..., Transformer]:
    """`ours(changes)`: a model with gains and biases of its own, saved in tmp_path / "ours" with a tokenizer."""

    def make(changes: dict[str, Any], gains: bool = True) -> Transformer:
        model = built(FP32 | changes)
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim < 2 and gains:
                    parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
        for router in model.routers():
            if router.balance.has_bias:
                router.e_score_correction_bias += 0.1 * torch.randn(len(router.weight), generator=generator)
        save_checkpoint(tmp_path / "ours", model, {"data": {"source": "text", "seq_len": 29}, "trial": "abc"})
        write_tokenizer(tmp_path / "ours")
        return model

    return make


@pytest.fixture
def theirs(ours: Callable[..., Transformer], tmp_path: Path) -> Path:
    """A folder of theirs, written by us, without what rode along: as a stranger's."""
    ours({"mtp.depth": 1, "moe.balance.kind": "bias"})
    folder = tmp_path / "theirs"
    assert main(["to-hf", str(tmp_path / "ours"), str(folder)]) == 0
    change(folder, v3_ablations=None)
    return folder


def change(folder: Path, **fields: Any) -> None:
    """Set fields of config.json; None removes them."""
    values = json.loads((folder / "config.json").read_text()) | fields
    kept = {name: value for name, value in values.items() if name not in fields or value is not None}
    (folder / "config.json").write_text(json.dumps(kept))


def tensors_of(folder: Path) -> dict[str, Tensor]:
    """Read, not mapped: the file may be overwritten."""
    return load((folder / "model.safetensors").read_bytes())


def same_weights(a: Transformer, b: Transformer) -> None:
    before, after = a.state_dict(), b.state_dict()
    assert list(before) == list(after)
    for name, tensor in before.items():
        assert after[name].dtype == tensor.dtype, name
        assert torch.equal(after[name].view(torch.int32), tensor.view(torch.int32)), name


def refused(capsys: pytest.CaptureFixture[str], words: list[str], out: Path, *named: str) -> None:
    """Exit code 2, one line that names what is wrong, and nothing left behind."""
    beside = sorted(out.parent.iterdir())
    assert main([*words, str(out)]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith("error: ") and captured.err.count("\n") == 1, captured.err
    for name in named:
        assert name in captured.err
    assert sorted(out.parent.iterdir()) == beside, "something was left behind"


@pytest.mark.parametrize("changes", CASES.values(), ids=CASES.keys())
def test_transformers_reads_it_and_we_read_it_back(
    ours: Callable[..., Transformer], tokens: Tokens, tmp_path: Path, changes: dict[str, Any]
) -> None:
    model = ours(changes)
    hf, back = tmp_path / "hf", tmp_path / "back"
    assert main(["to-hf", str(tmp_path / "ours"), str(hf)]) == 0
    assert {path.name for path in hf.iterdir()} == {*WEIGHTS, *TOKENIZER, "generation_config.json"}
    read, report = AutoModelForCausalLM.from_pretrained(hf, output_loading_info=True)
    assert type(read) is DeepseekV3ForCausalLM and read.dtype == torch.float32
    assert not report["missing_keys"] and not report["mismatched_keys"] and not report["error_msgs"]
    assert all(int(name.split(".")[2]) >= model.config.n_layers for name in report["unexpected_keys"])
    x = tokens(2, 17)
    with torch.no_grad():
        expected = model.eval()(x).logits
        torch.testing.assert_close(read(x).logits, expected, rtol=0, atol=1e-5)

    assert main(["from-hf", str(hf), str(back)]) == 0
    loaded, extra = load_checkpoint(back)
    assert loaded.config == model.config and extra["trial"] == "abc"
    assert extra["data"] == {"source": "text", "seq_len": 29} and "end_of_text" not in extra
    same_weights(model, loaded)
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        assert (back / name).read_bytes() == (tmp_path / "ours" / name).read_bytes(), name
    with torch.no_grad():
        assert torch.equal(loaded(x).logits, expected)


def test_what_is_written_under_which_name(ours: Callable[..., Transformer], tmp_path: Path) -> None:
    model = ours({"mtp.depth": 2, "moe.balance.kind": "bias"})
    main(["to-hf", str(tmp_path / "ours"), str(tmp_path / "hf")])
    tensors, w = tensors_of(tmp_path / "hf"), model.state_dict()
    gate_up = w["model.layers.2.mlp.experts.gate_up_proj"]
    expected = {
        "model.layers.2.mlp.experts.5.gate_proj.weight": gate_up[5, :16],
        "model.layers.2.mlp.experts.5.up_proj.weight": gate_up[5, 16:],
        "model.layers.1.mlp.experts.0.down_proj.weight": w["model.layers.1.mlp.experts.down_proj"][0],
        "model.layers.1.mlp.gate.e_score_correction_bias": w["model.layers.1.mlp.gate.e_score_correction_bias"],
        "model.layers.4.mlp.gate.e_score_correction_bias": w["mtp.1.block.mlp.gate.e_score_correction_bias"],
        "model.layers.3.mlp.experts.2.up_proj.weight": w["mtp.0.block.mlp.experts.gate_up_proj"][2, 16:],
    }
    for layer, k in ((3, 0), (4, 1)):
        own = {"enorm": "enorm", "hnorm": "hnorm", "eh_proj": "eh_proj", "shared_head.norm": "norm"}
        own |= {n: f"block.{n}" for n in ("input_layernorm", "self_attn.kv_b_proj", "mlp.shared_experts.up_proj")}
        expected |= {f"model.layers.{layer}.{n}.weight": w[f"mtp.{k}.{m}.weight"] for n, m in own.items()}
        expected[f"model.layers.{layer}.embed_tokens.weight"] = w["model.embed_tokens.weight"]
        expected[f"model.layers.{layer}.shared_head.head.weight"] = w["lm_head.weight"]
    for name, tensor in expected.items():
        assert torch.equal(tensors[name], tensor), name
    # 4 MoE layers of 6 experts x 3 matrices instead of 2 tensors each, and 2 copies per module
    assert len(tensors) == len(w) + 4 * (6 * 3 - 2) + 2 * 2


def test_the_config_is_v3s_published_one() -> None:
    """Field by field, of V3's config.json as far as it says something about the model (YaRN on, as published)."""
    published = {
        "architectures": ["DeepseekV3ForCausalLM"],
        "attention_bias": False,
        "first_k_dense_replace": 3,
        "hidden_act": "silu",
        "hidden_size": 7168,
        "intermediate_size": 18432,
        "kv_lora_rank": 512,
        "max_position_embeddings": 163840,
        "model_type": "deepseek_v3",
        "moe_intermediate_size": 2048,
        "moe_layer_freq": 1,
        "n_group": 8,
        "n_routed_experts": 256,
        "n_shared_experts": 1,
        "norm_topk_prob": True,
        "num_attention_heads": 128,
        "num_experts_per_tok": 8,
        "num_hidden_layers": 61,
        "num_key_value_heads": 128,
        "num_nextn_predict_layers": 1,
        "q_lora_rank": 1536,
        "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64,
        "rms_norm_eps": 1e-06,
        "rope_scaling": {
            "beta_fast": 32,
            "beta_slow": 1,
            "factor": 40,
            "mscale": 1.0,
            "mscale_all_dim": 1.0,
            "original_max_position_embeddings": 4096,
            "type": "yarn",
        },
        "rope_theta": 10000,
        "routed_scaling_factor": 2.5,
        "scoring_func": "sigmoid",
        "tie_word_embeddings": False,
        "topk_group": 4,
        "topk_method": "noaux_tc",
        "v_head_dim": 128,
        "vocab_size": 129280,
    }
    config = model_config(published)
    written = hf_config(config)
    assert {name: written[name] for name in published} == published
    v3, _ = size("deepseek_v3")
    assert config.attention.q_lora_rank == v3.attention.q_lora_rank and config.mtp.depth == v3.mtp.depth
    assert (config.rope.scaling, config.rope.factor, config.moe.balance.kind) == ("yarn", 40.0, "bias")
    # a field that is not there has V3's own value, as transformers has it
    assert hf_config(model_config({"model_type": "deepseek_v3"})) == hf_config(model_config(published)) | {
        "rope_scaling": None,
        "max_position_embeddings": 4096,
    }


def test_a_folder_that_transformers_wrote(theirs: Path, tokens: Tokens, tmp_path: Path) -> None:
    """It drops MTP modules, writes `rope_parameters` and `dtype`, and still says there is one module."""
    hf = AutoModelForCausalLM.from_pretrained(theirs)
    hf.save_pretrained(tmp_path / "saved", max_shard_size="20KB")
    shards = sorted((tmp_path / "saved").glob("model-*.safetensors"))
    assert len(shards) > 2 and not (tmp_path / "saved" / "model.safetensors").exists()
    saved = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert saved["num_nextn_predict_layers"] == 1 and "rope_parameters" in saved
    assert main(["from-hf", str(tmp_path / "saved"), str(tmp_path / "back")]) == 0
    loaded, extra = load_checkpoint(tmp_path / "back")
    assert loaded.config.mtp.depth == 0 and sorted(extra) == ["data", "format", "model", "weights_sha256"]
    original, _ = load_checkpoint(tmp_path / "ours")
    main_model = {n: t for n, t in original.state_dict().items() if not n.startswith("mtp.")}
    assert all(torch.equal(tensor, main_model[name]) for name, tensor in loaded.state_dict().items())
    assert len(main_model) == len(loaded.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(loaded(tokens(2, 9)).logits, hf(tokens(2, 9)).logits, rtol=0, atol=1e-5)


def test_bf16_weights_become_fp32_ones(theirs: Path, tmp_path: Path) -> None:
    tensors = tensors_of(theirs)
    rounded = {n: t if n.endswith("correction_bias") else t.bfloat16() for n, t in tensors.items()}
    save_file(rounded, theirs / "model.safetensors")
    change(theirs, torch_dtype="bfloat16")
    assert main(["from-hf", str(theirs), str(tmp_path / "back")]) == 0
    loaded, _ = load_checkpoint(tmp_path / "back")
    assert loaded.config.dtype == "bfloat16" and loaded.lm_head.weight.dtype == torch.float32
    assert torch.equal(loaded.lm_head.weight, rounded["lm_head.weight"].float())


@pytest.mark.parametrize("hidden", ["before_norm", "after_norm"])
def test_transformers_own_mtp_reader_computes_depths_after_the_norm(
    ours: Callable[..., Transformer], tokens: Tokens, tmp_path: Path, capsys: pytest.CaptureFixture[str], hidden: str
) -> None:
    """Modules that read their hidden state before the norm mean something else there, which is said."""
    shape = {"moe.balance.kind": "bias", "moe.moe_intermediate_size": 20}
    model = ours({"mtp": {"depth": 2, "hidden": hidden}, **shape})
    main(["to-hf", str(tmp_path / "ours"), str(tmp_path / "hf")])
    note = "note: model.mtp.hidden=before_norm: others feed MTP modules after_norm, so drafts will be worse there\n"
    assert capsys.readouterr().err == (note if hidden == "before_norm" else "")
    hf = AutoModelForCausalLM.from_pretrained(tmp_path / "hf")
    hf._keys_to_ignore_on_load_unexpected = [r"model\.layers\.[34]\..*"]  # theirs knows layer 61 only
    reader, x = MtpModel.from_pretrained(hf), tokens(2, 9)
    with torch.no_grad():
        for k, found in enumerate(theirs_mtp(hf, reader, x, depth=2), start=1):
            apart = float((found - model(x, mtp=True).mtp_logits[k - 1]).abs().max())
            assert apart < 1e-5 if hidden == "after_norm" else apart > 0.05, f"depth {k}: {apart}"


def test_a_tokenizer_that_lacks_is_said_and_a_damaged_one_is_named_where_it_lies(
    ours: Callable[..., Transformer], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours({})
    file = tmp_path / "ours" / "tokenizer.json"
    file.unlink(missing_ok=True)
    assert main(["to-hf", str(tmp_path / "ours"), str(tmp_path / "without")]) == 0
    said = capsys.readouterr().err
    assert said.startswith(f"note: {tmp_path / 'ours'}: has no tokenizer.json; ") and said.count("\n") == 1
    file.write_text("{")
    assert main(["to-hf", str(tmp_path / "ours"), str(tmp_path / "damaged")]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {file}: unreadable (") and said.endswith("; put a whole copy there\n")
    assert not (tmp_path / "damaged").exists()


def theirs_mtp(hf: Any, reader: MtpModel, x: Tensor, depth: int) -> list[Tensor]:
    """transformers' logits of each depth on the true text."""
    hidden, found = hf(x, output_hidden_states=True).hidden_states[-1], []
    for k in range(1, depth + 1):
        places = torch.arange(k, x.shape[1]).unsqueeze(0)
        hidden = reader.forward_layer(k - 1, hidden[:, : x.shape[1] - k], places, None, input_ids=x[:, k:])
        found.append(reader._project_to_logits(hidden))
    return found


def test_published_mtp_weights_draft_as_in_transformers(built: Built, tokens: Tokens, tmp_path: Path) -> None:
    """A stranger's folder with V3's 61 layers: transformers finds the module at layer 61 by itself."""
    narrow = {"d_model": 12, "intermediate_size": 8, "moe.moe_intermediate_size": 4, "attention.n_heads": 2}
    model = built({**FP32, **narrow, "n_layers": 61, "first_k_dense": 60, "mtp.depth": 1, "moe.balance.kind": "bias"})
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim < 2:
                parameter.mul_(1 + 0.5 * torch.randn(parameter.shape, generator=generator))
    save_checkpoint(tmp_path / "ours", model)
    assert main(["to-hf", str(tmp_path / "ours"), str(tmp_path / "theirs")]) == 0
    change(tmp_path / "theirs", v3_ablations=None)
    assert main(["from-hf", str(tmp_path / "theirs"), str(tmp_path / "back")]) == 0
    back, _ = load_checkpoint(tmp_path / "back")
    assert back.config.mtp.hidden == "after_norm"
    hf = AutoModelForCausalLM.from_pretrained(tmp_path / "theirs")
    x = tokens(2, 17)
    with torch.no_grad():
        found = theirs_mtp(hf, MtpModel.from_pretrained(hf), x, 1)[0]
        output = back(x, mtp=True)
    torch.testing.assert_close(output.mtp_logits[0], found, rtol=0, atol=1e-4)
    assert torch.equal(output.mtp_logits[0].argmax(dim=-1), found.argmax(dim=-1))


ENDS: dict[str, tuple[dict[str, dict[str, Any]], str | None]] = {
    "eos_token": ({"tokenizer_config": {"eos_token": "</s>"}}, "</s>"),
    "a group": ({"tokenizer_config": {"eos_token": {"content": "</s>", "special": True}}}, "</s>"),
    "of an older folder": ({"special_tokens_map": {"eos_token": "</s>"}}, "</s>"),
    "an id": ({"config": {"eos_token_id": 1}}, "</s>"),
    "the first of several ids": ({"config": {"eos_token_id": [1, 4]}}, "</s>"),
    "an id in generation_config.json": ({"generation_config": {"eos_token_id": [1]}}, "</s>"),
    "no special token": ({"config": {"eos_token_id": 7}}, "w7"),
    "the tokenizer before the config": (
        {"tokenizer_config": {"eos_token": "</s>"}, "config": {"eos_token_id": 7}},
        "</s>",
    ),
    "none": ({"tokenizer_config": {"eos_token": None}}, None),
    "unknown ones": ({"tokenizer_config": {"eos_token": "<eos>"}, "config": {"eos_token_id": [99, "x"]}}, None),
}


@pytest.mark.parametrize(("files", "end"), ENDS.values(), ids=ENDS.keys())
def test_what_ends_a_strangers_text_is_kept(
    theirs: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    files: dict[str, dict[str, Any]],
    end: str | None,
) -> None:
    """As their own files say it; where none does, that is said. Back in their format it is the same one."""
    for name in ("tokenizer_config", "generation_config"):
        (theirs / f"{name}.json").unlink()
    write_tokenizer(theirs, "<s>", "</s>")
    change(theirs, eos_token_id=None, bos_token_id=None)
    for name, values in files.items():
        if name == "config":
            change(theirs, **values)
        else:
            (theirs / f"{name}.json").write_text(json.dumps(values | {"bos_token": "<s>"}))
    capsys.readouterr()
    assert main(["from-hf", str(theirs), str(tmp_path / "back")]) == 0
    _, extra = load_checkpoint(tmp_path / "back")
    assert extra.get("end_of_text") == end
    said = capsys.readouterr().err
    assert said == "" if end else said.startswith("note: ") and "no token of tokenizer.json ends a text" in said
    assert main(["to-hf", str(tmp_path / "back"), str(tmp_path / "again")]) == 0
    written = json.loads((tmp_path / "again" / "config.json").read_text())
    assert written["eos_token_id"] == {"</s>": 1, "w7": 7, None: None}[end]
    if "tokenizer_config" in files and end:
        assert written["bos_token_id"] == 0
    if "tokenizer_config" in files:
        name = "tokenizer_config.json"
        assert (tmp_path / "again" / name).read_bytes() == (theirs / name).read_bytes(), "their own, as it is"


def test_an_end_that_the_tokenizer_lacks_is_refused(
    ours: Callable[..., Transformer], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours({})
    change(tmp_path / "ours", end_of_text="</s>")
    refused(capsys, ["to-hf", str(tmp_path / "ours")], tmp_path / "hf", "end_of_text=</s>")
    (tmp_path / "ours" / "tokenizer.json").write_text('{"model": "a tokenizer"}')
    refused(capsys, ["to-hf", str(tmp_path / "ours")], tmp_path / "hf", "tokenizer.json: is no tokenizer")


UNHELD: dict[str, tuple[dict[str, Any], str]] = {
    "mha": ({"attention.kind": "mha"}, "model.attention.kind=mha"),
    "gqa": ({"attention.kind": "gqa", "attention.n_kv_heads": 1}, "model.attention.kind=gqa"),
    "mqa": ({"attention.kind": "mqa"}, "model.attention.kind=mqa"),
    "softmax": ({"moe.scoring": "softmax"}, "model.moe.scoring=softmax"),
    "parallel": ({"mtp.depth": 1, "mtp.style": "parallel"}, "model.mtp.style=parallel"),
    "linear": ({"mtp.depth": 1, "mtp.style": "linear"}, "model.mtp.style=linear"),
    "times": ({"moe.balance": {"kind": "bias", "bias_form": "multiplicative"}}, "bias_form=multiplicative"),
    "1 of a group": ({**GROUPS, "moe.top_k": 2}, "model.moe.topk_group=2"),
    "3 of a group": ({**GROUPS, "moe.top_k": 6}, "model.moe.topk_group=2"),
    "groups of one": ({"moe.n_group": 6, "moe.topk_group": 6}, "model.moe.n_group=6"),
    "another eps": ({"norm_eps": 1e-5}, "model.norm_eps=1e-05"),
    "fp64": ({"dtype": "float64", "moe.backend": "loop"}, "model.dtype=float64"),
    "ntk": ({"rope": {"scaling": "ntk", "factor": 4.0}}, "model.rope.scaling=ntk"),
    "short yarn": ({"rope": YARN | {"original_length": 4}}, "model.rope.original_length=4"),
}


@pytest.mark.parametrize(("changes", "named"), UNHELD.values(), ids=UNHELD.keys())
def test_what_the_format_cannot_hold_is_refused(
    ours: Callable[..., Transformer],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    changes: dict[str, Any],
    named: str,
) -> None:
    ours(changes)
    refused(capsys, ["to-hf", str(tmp_path / "ours")], tmp_path / "hf", named, "deepseek_v3")


def test_where_the_text_lies_here_is_not_handed_on(ours: Callable[..., Transformer], tmp_path: Path) -> None:
    ours({})
    change(tmp_path / "ours", data={"source": "text", "path": "/home/me/text", "seq_len": 29})
    assert main(["to-hf", str(tmp_path / "ours"), str(tmp_path / "hf")]) == 0
    said = "".join(path.read_text() for path in (tmp_path / "hf").glob("*.json"))
    assert "/home/me" not in said and '"source": "text"' in said


def test_what_lies_beside_a_model_is_of_the_kind_that_we_write(
    ours: Callable[..., Transformer], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours({})
    change(tmp_path / "ours", data=[1])
    refused(capsys, ["to-hf", str(tmp_path / "ours")], tmp_path / "hf", "data=[1]: expected a group of keys", "ours")


def test_a_bias_is_known_by_what_its_strategy_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not by its name: another strategy with a bias of this form cannot be held either."""
    config = ModelConfig(moe=MoEConfig(balance=BalanceConfig(kind="none", bias_form="multiplicative")))
    check_held(config)
    monkeypatch.setattr(BalanceConfig, "has_bias", True)
    with pytest.raises(ConfigError, match="bias_form=multiplicative"):
        check_held(config)


FOREIGN: dict[str, tuple[dict[str, Any], str]] = {
    "another model": ({"model_type": "deepseek_v2"}, "model_type=deepseek_v2"),
    "no model": ({"model_type": None}, "model_type="),
    "biases": ({"attention_bias": True}, "attention_bias=True"),
    "tied": ({"tie_word_embeddings": True}, "tie_word_embeddings=True"),
    "halves": ({"rope_interleave": False}, "rope_interleave=False"),
    "fp8": ({"quantization_config": {"quant_method": "fp8"}}, "quantization_config="),
    "activation": ({"hidden_act": "gelu"}, "hidden_act=gelu"),
    "dropout": ({"attention_dropout": 0.1}, "attention_dropout=0.1"),
    "scores": ({"scoring_func": "softmax"}, "scoring_func=softmax"),
    "kv heads": ({"num_key_value_heads": 1}, "num_key_value_heads=1"),
    "type": ({"torch_dtype": "float8_e4m3fn"}, "torch_dtype=float8_e4m3fn"),
    "half dense": ({"first_k_dense_replace": 4, "num_nextn_predict_layers": 2}, "first_k_dense_replace=4"),
    "width": ({"hidden_size": "wide"}, "model.d_model=wide"),
    "no width": ({"hidden_size": 0, "initializer_range": None}, "model.d_model=0"),
    "no groups": ({"topk_group": 0}, "model.moe.topk_group=0"),
    "their groups": ({"n_group": 3, "topk_group": 2}, "model.moe.topk_group=2"),
    "wider": ({"hidden_size": 25}, "model.embed_tokens.weight"),
    "deeper": ({"num_hidden_layers": 5}, "model.layers.3.eh_proj.weight"),
    "another vocabulary": ({"vocab_size": 62}, "[62, 24]"),
    "query rank": ({"q_lora_rank": 8}, "self_attn.q_proj.weight"),
    "rope kind": ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "rope_scaling.type=dynamic"),
    "rope text": ({"rope_scaling": "yarn"}, "rope_scaling=yarn"),
    "no factor": ({"rope_scaling": {"type": "yarn", "mscale": 1, "mscale_all_dim": 1}}, "model.rope.factor=null"),
    "v2's scale": ({"rope_scaling": {"type": "yarn", "factor": 4, "mscale": 1, "mscale_all_dim": 0.7}}, "mscale=1"),
    "no scale": ({"rope_scaling": {"type": "yarn", "factor": 4}}, "mscale=None"),
    "long": ({"rope_scaling": {"type": "linear", "factor": 4, "long_factor": [1]}}, "long_factor=[1]"),
    "contradiction": ({"v3_ablations": {"model": {"moe": {"top_k": 3}}}}, "contradicts"),
    "wrong key": ({"v3_ablations": {"model": {"moe": {"topk": 3}}}}, "v3_ablations.model.moe.topk"),
    "not a group": ({"v3_ablations": [1]}, "v3_ablations"),
    "not a template": ({"v3_ablations": {"chat_template": [1]}}, "v3_ablations.chat_template=[1]: expected text"),
    "bias kept": ({"v3_ablations": {"model": {"moe": {"balance": {"kind": "none"}}}}}, "e_score_correction_bias"),
}


@pytest.mark.parametrize(("fields", "named"), FOREIGN.values(), ids=FOREIGN.keys())
def test_a_foreign_config_is_refused_by_name(
    theirs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], fields: dict[str, Any], named: str
) -> None:
    change(theirs, **fields)
    capsys.readouterr()
    refused(capsys, ["from-hf", str(theirs)], tmp_path / "back", named, "theirs")


def tampered(theirs: Path, how: str) -> None:
    """Change what lies in `theirs` so that it must be refused."""
    weights, index = theirs / "model.safetensors", theirs / "model.safetensors.index.json"
    tensors = tensors_of(theirs)
    if how == "a missing tensor":
        del tensors["model.layers.1.mlp.experts.3.up_proj.weight"]
    elif how == "an unknown tensor":
        tensors["model.layers.1.self_attn.q_proj.bias"] = torch.zeros(3)
    elif how == "an own embedding":
        tensors["model.layers.3.embed_tokens.weight"][0, 0] += 1
    elif how == "fp8 weights":
        tensors["lm_head.weight"] = tensors["lm_head.weight"].to(torch.float8_e4m3fn)
    elif how == "fp64 weights":
        tensors["lm_head.weight"] = tensors["lm_head.weight"].double()
    elif how == "a transposed expert":
        name = "model.layers.1.mlp.experts.3.up_proj.weight"
        tensors[name] = tensors[name].T.contiguous()
    elif how == "truncated weights":
        weights.write_bytes(weights.read_bytes()[:-9])
        return
    elif how == "a pickle by another name":
        torch.save(tensors, weights)
        return
    elif how == "a pickle":
        torch.save(tensors, theirs / "pytorch_model.bin")
        weights.unlink()
        return
    elif how == "no weights":
        weights.unlink()
        return
    elif how == "an index of a file that is not there":
        index.write_text(json.dumps({"weight_map": dict.fromkeys(tensors, "model-00001.safetensors")}))
        weights.unlink()
        return
    elif how == "an index that leads outside":
        shutil.move(weights, theirs.parent / "outside.safetensors")
        index.write_text(json.dumps({"weight_map": dict.fromkeys(tensors, "../outside.safetensors")}))
        return
    elif how == "an index that is a list":
        weights.unlink()
        index.write_text("[1]")
        return
    elif how == "an index of numbers":
        weights.unlink()
        index.write_text(json.dumps({"weight_map": {"a": 1}}))
        return
    elif how == "config.json is cut off":
        (theirs / "config.json").write_text('{"model_type"')
        return
    elif how == "no config.json":
        (theirs / "config.json").unlink()
        return
    save_file(tensors, weights)


@pytest.mark.parametrize(
    ("how", "named"),
    [
        ("a missing tensor", "model.layers.1.mlp.experts.3.up_proj.weight: is missing"),
        ("an unknown tensor", "model.layers.1.self_attn.q_proj.bias"),
        ("an own embedding", "model.layers.3.embed_tokens.weight"),
        ("fp8 weights", "lm_head.weight: is torch.float8_e4m3fn"),
        ("fp64 weights", "lm_head.weight: is torch.float64"),
        ("a transposed expert", "model.layers.1.mlp.experts.3.up_proj.weight"),
        ("truncated weights", "truncated"),
        ("a pickle by another name", "not safetensors"),
        ("a pickle", "pytorch_model.bin: a pickle can run code"),
        ("no weights", "model.safetensors is missing"),
        ("an index of a file that is not there", "model-00001.safetensors"),
        ("an index that leads outside", "../outside.safetensors"),
        ("an index that is a list", "model.safetensors.index.json"),
        ("an index of numbers", "weight_map"),
        ("config.json is cut off", "config.json"),
        ("no config.json", "config.json"),
    ],
)
def test_tampered_or_incomplete_folders_are_refused(
    theirs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], how: str, named: str
) -> None:
    tampered(theirs, how)
    capsys.readouterr()
    refused(capsys, ["from-hf", str(theirs)], tmp_path / "back", named)


def test_places_of_this_machine_are_understood_and_not_passed_on(
    ours: Callable[..., Transformer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours({})
    config = tmp_path / "ours/config.json"
    data = {"seq_len": 8, "path": "/here/text", "domains": {"a": "/here/too"}}
    config.write_text(json.dumps(json.loads(config.read_text()) | {"data": data}))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert main(["to-hf", "~/ours", "~/hf"]) == 0
    written = (tmp_path / "hf/config.json").read_text()
    assert "/here" not in written and '"seq_len": 8' in written


@pytest.mark.parametrize("direction", ["to-hf", "from-hf"])
def test_an_output_that_is_not_empty_is_left_alone(
    theirs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], direction: str
) -> None:
    source = tmp_path / ("ours" if direction == "to-hf" else "theirs")
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    capsys.readouterr()
    refused(capsys, [direction, str(source)], out, "OUT=", "not empty")
    assert [path.name for path in out.iterdir()] == ["mine.txt"]
    refused(capsys, [direction, str(source)], out / "mine.txt", "OUT=")
    assert main([direction, str(source), str(out / ("b" * 300))]) == 2
    assert re.match(r"error: OUT=.*bb: cannot be made \(File name too long\)", capsys.readouterr().err)
    (tmp_path / "loop").symlink_to("loop")
    refused(capsys, [direction, str(source)], tmp_path / "loop", "OUT=", "link to itself")
    (tmp_path / "loop").unlink()
    (out / "mine.txt").unlink()
    assert main([direction, str(source), str(out)]) == 0, "an empty folder is as good as none"
    assert main([direction, str(source), str(tmp_path / "a" / "b")]) == 0, "and so are folders to be made"


@pytest.mark.parametrize("direction", ["to-hf", "from-hf"])
def test_a_full_disk_leaves_nothing_behind(
    theirs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, direction: str
) -> None:
    """The tokenizer comes last, when the weights are written already."""

    def full(source: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(target))

    monkeypatch.setattr("shutil.copyfile", full)
    capsys.readouterr()
    source = tmp_path / ("ours" if direction == "to-hf" else "theirs")
    refused(capsys, [direction, str(source)], tmp_path / "out", "No space left")


def test_a_source_that_is_no_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for direction in ("to-hf", "from-hf"):
        refused(capsys, [direction, str(tmp_path / "nothing")], tmp_path / "out", "config.json", "nothing")


def test_every_fixed_field_is_what_transformers_defaults_to() -> None:
    """So a folder that leaves one out means the same here and there. Two it does not know: it has no other kind."""
    from transformers import DeepseekV3Config

    defaults = DeepseekV3Config()
    unknown = [name for name in FIXED if not hasattr(defaults, name)]
    assert set(unknown) == {"scoring_func", "topk_method", "moe_layer_freq", "quantization_config"}
    assert all(getattr(defaults, name) == value for name, value in FIXED.items() if name not in unknown)
