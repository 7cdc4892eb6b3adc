"""Each choice answers for itself: nobody else asks which attention or which balancing a config names."""

import ast
import typing
from dataclasses import replace
from pathlib import Path

import pytest

from models.attention import MODULES
from models.balance import STRATEGIES, build_balance
from models.base.typed import build
from models.config import AttentionConfig, BalanceConfig, ModelConfig, MoEConfig
from models.kinds import KINDS, attention_of

ROOT = Path(__file__).parents[2]
ATTENTION = set(typing.get_args(typing.get_type_hints(AttentionConfig)["kind"]))
BALANCE = set(typing.get_args(typing.get_type_hints(BalanceConfig)["kind"]))
ANSWER = {
    "models/published.py": "the published format holds one attention, and what it holds is not the kind's to say",
    "models/config.py": "says what each balancing strategy needs",
}


def asked(path: Path, names: set[str]) -> list[str]:
    """The comparisons with one of these names in a file, or with a tuple of them."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Compare):
            words = {leaf.value for leaf in ast.walk(node) if isinstance(leaf, ast.Constant)}
            if words & names:
                found.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    return found


def test_no_code_asks_for_a_kind_by_name() -> None:
    """`none` and `bias` are names of other things too."""
    sources = [p for floor in ("models", "tasks", "ablations") for p in (ROOT / floor).rglob("*.py")]
    elsewhere = [p for p in sources if str(p.relative_to(ROOT)) not in ANSWER]
    assert [place for p in elsewhere for place in asked(p, ATTENTION | BALANCE - {"none", "bias"})] == []
    assert asked(ROOT / "models/config.py", BALANCE) and not asked(ROOT / "models/config.py", ATTENTION)


def test_every_choice_of_the_config_has_its_class() -> None:
    assert set(KINDS) == set(MODULES) == ATTENTION
    assert set(STRATEGIES) == BALANCE


def test_widths_and_heads_of_each_attention() -> None:
    """By hand, of 6 heads: RoPE's width, heads cached and in the scores, elements cached."""
    found = {}
    for kind in ATTENTION:
        values = {"kind": kind, "n_heads": 6, "n_kv_heads": 2, "head_dim": 10, "qk_rope_head_dim": 4}
        a = attention_of(build(ModelConfig, {"attention": values | {"kv_lora_rank": 7}}))
        found[kind] = (a.rope_dim, a.cached_heads, a.key_heads, a.cached, a.absorbs)
    assert found == {
        "mla": (4, 1, 6, 11, True),
        "mha": (10, 6, 6, 120, False),
        "gqa": (10, 2, 2, 40, False),
        "mqa": (10, 1, 1, 20, False),
    }


@pytest.mark.parametrize("scope", ["sequence", "microbatch", "batch"])
@pytest.mark.parametrize("kind", sorted(BALANCE))
def test_what_a_strategy_needs_is_what_its_class_does(kind: str, scope: str) -> None:
    config = build(BalanceConfig, {"kind": kind, "scope": scope})
    balance = build_balance(replace(MoEConfig(), balance=config))
    assert config.has_bias == balance.has_bias == (type(balance).biased is not STRATEGIES["none"].biased)
    assert config.has_loss == (type(balance).loss is not STRATEGIES["none"].loss)
    assert config.needs_batch_load == balance.needs_batch_load == (config.has_loss and scope == "batch")


def test_the_sizes_of_each_attention_are_those_that_change_it() -> None:
    sizes = {size for kind in KINDS.values() for size in kind.sizes}
    for kind, attention in KINDS.items():
        base = {"kind": kind, "n_heads": 6, "n_kv_heads": 2, "head_dim": 10, "qk_rope_head_dim": 4}
        usual = attention_of(build(ModelConfig, {"attention": base})).params
        other = {size: attention_of(build(ModelConfig, {"attention": base | {size: 6}})).params for size in sizes}
        assert {size for size, params in other.items() if params != usual} == set(attention.sizes), kind
