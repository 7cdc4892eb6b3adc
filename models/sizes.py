"""Whole configurations by name. `v2_lite_16b` and `deepseek_v3` are the published ones: to be counted, not trained."""

from models.base.typed import ConfigError, closest
from models.config import AttentionConfig, BalanceConfig, ModelConfig, MoEConfig, MTPConfig, RopeConfig

V3_BALANCE = BalanceConfig(kind="bias_aux_loss", scope="sequence", alpha=0.0001, update_speed=0.001)

SIZES: dict[str, tuple[ModelConfig, int]] = {
    # The size that scale=cpu trains: the defaults.
    "tiny": (ModelConfig(), 128),
    # A laptop overnight, or minutes on a GPU.
    "small": (
        ModelConfig(
            vocab_size=4096,
            d_model=256,
            n_layers=6,
            intermediate_size=704,
            attention=AttentionConfig(
                n_heads=4, kv_lora_rank=128, qk_nope_head_dim=64, qk_rope_head_dim=32, v_head_dim=64, head_dim=64
            ),
            moe=MoEConfig(n_routed_experts=16, top_k=4, moe_intermediate_size=128),
        ),
        256,
    ),
    # One GPU, under an hour: the size that scale=gpu trains.
    "base": (
        ModelConfig(
            vocab_size=8192,
            d_model=512,
            n_layers=8,
            intermediate_size=1408,
            attention=AttentionConfig(
                n_heads=8, kv_lora_rank=128, qk_nope_head_dim=64, qk_rope_head_dim=32, v_head_dim=64, head_dim=64
            ),
            moe=MoEConfig(n_routed_experts=64, n_shared_experts=2, top_k=6, moe_intermediate_size=192),
        ),
        1024,
    ),
    # DeepSeek-V2-Lite (2405.04434, appendix B.1): 15.7B, 2.4B active.
    "v2_lite_16b": (
        ModelConfig(
            vocab_size=102400,
            d_model=2048,
            n_layers=27,
            first_k_dense=1,
            intermediate_size=10944,
            attention=AttentionConfig(
                n_heads=16, kv_lora_rank=512, qk_nope_head_dim=128, qk_rope_head_dim=64, v_head_dim=128, head_dim=128
            ),
            moe=MoEConfig(
                n_routed_experts=64,
                n_shared_experts=2,
                top_k=6,
                moe_intermediate_size=1408,
                scoring="softmax",
                normalise=False,
                balance=BalanceConfig(kind="aux_loss", scope="sequence", alpha=0.001),
            ),
        ),
        4096,
    ),
    # DeepSeek-V3 (2412.19437, section 4.2): 671B, 37B active, one MTP module.
    "deepseek_v3": (
        ModelConfig(
            vocab_size=129280,
            d_model=7168,
            n_layers=61,
            first_k_dense=3,
            intermediate_size=18432,
            rope=RopeConfig(original_length=4096),
            attention=AttentionConfig(
                n_heads=128,
                q_lora_rank=1536,
                kv_lora_rank=512,
                qk_nope_head_dim=128,
                qk_rope_head_dim=64,
                v_head_dim=128,
                head_dim=128,
            ),
            moe=MoEConfig(
                n_routed_experts=256,
                n_shared_experts=1,
                top_k=8,
                moe_intermediate_size=2048,
                routed_scaling_factor=2.5,
                n_group=8,
                topk_group=4,
                balance=V3_BALANCE,
            ),
            mtp=MTPConfig(depth=1),
        ),
        4096,
    ),
}


def size(name: str, key: str = "size") -> tuple[ModelConfig, int]:
    """The configuration of that name, and its sequence length. Raises ConfigError, about `key`, for no such name."""
    if name not in SIZES:
        raise ConfigError(f"{key}={name}: no such size{closest(name, SIZES)} (known: {', '.join(SIZES)})")
    return SIZES[name]
