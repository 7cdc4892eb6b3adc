"""The decoder: embedding, blocks, norm, head. Module names are those of the published `deepseek_v3` checkpoints."""

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.attention import build_attention
from models.balance import Balance, Routing
from models.config import ConfigError, ModelConfig, validate
from models.layers import Embedding, Linear, RMSNorm, SwiGLU
from models.moe import MoE
from models.rope import rope_angles


@dataclass
class Output:
    logits: Tensor
    """(B, T, V), in the compute type."""
    routings: list[Routing]
    """One per MoE layer, in order."""


class Block(nn.Module):
    """Pre-norm attention, then a dense or a MoE feed-forward."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.d_model, config.norm_eps)
        self.self_attn = build_attention(config)
        self.post_attention_layernorm = RMSNorm(config.d_model, config.norm_eps)
        dense = layer < config.first_k_dense
        self.mlp = SwiGLU(config.d_model, config.intermediate_size) if dense else MoE(config)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, causal: bool) -> tuple[Tensor, Routing | None]:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, causal)
        normed = self.post_attention_layernorm(x)
        if isinstance(self.mlp, MoE):
            out, routing = self.mlp(normed)
            return x + out, routing
        return x + self.mlp(normed), None


class Trunk(nn.Module):
    """Everything below the output head."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.embed_tokens = Embedding(config.vocab_size, config.d_model)
        self.layers = nn.ModuleList(Block(config, layer) for layer in range(config.n_layers))
        self.norm = RMSNorm(config.d_model, config.norm_eps)


class Transformer(nn.Module):
    """tokens (B, T) -> Output. `config.dtype` is the compute type; parameters are FP32 (FP64 for float64)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        validate(config)
        if config.dtype == "auto":
            raise ConfigError("model.dtype=auto: must be resolved (models.transformer.resolve_dtype) before building")
        self.config = config
        self.dtype: torch.dtype = getattr(torch, config.dtype)
        self.causal = True
        self.model = Trunk(config)
        self.lm_head = Linear(config.d_model, config.vocab_size)
        if self.dtype == torch.float64:
            self.double()

    def forward(self, tokens_BT: Tensor) -> Output:
        cos, sin = self._angles(tokens_BT)
        x = self.model.embed_tokens(tokens_BT, self.dtype)
        routings = []
        for block in self.model.layers:
            x, routing = block(x, cos, sin, self.causal)
            if routing is not None:
                routings.append(routing)
        return Output(self.lm_head(self.model.norm(x)), routings)

    def _angles(self, tokens_BT: Tensor) -> tuple[Tensor, Tensor]:
        a = self.config.attention
        dim = a.qk_rope_head_dim if a.kind == "mla" else a.head_dim
        key = (tokens_BT.shape[1], tokens_BT.device)
        if getattr(self, "_angles_key", None) != key:
            with torch.inference_mode(False):  # inference tensors could not be kept for a later backward
                self._angles_key, self._angles_value = key, rope_angles(key[0], dim, a.rope_theta, self.dtype, key[1])
        return self._angles_value

    def balances(self) -> list[Balance]:
        """The balancing strategy of each MoE layer, in order."""
        return [block.mlp.gate.balance for block in self.model.layers if isinstance(block.mlp, MoE)]


def initialise(model: nn.Module, seed: int, std: float, perturb: float = 0.0) -> None:
    """Normal(0, std) for matrices, ones for norms, each parameter from its own generator.

    The generator is seeded by (seed, name, shape), so adding or removing a module leaves every other initial value as
    it was: arms that share parameters start from the same ones. `perturb` multiplies each value by
    1 + perturb * normal, from a second generator (the A/A arm).
    """
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim >= 2:
                parameter.copy_(_normal(parameter, seed, name) * std)
            else:
                parameter.fill_(1.0)
            if perturb:
                parameter.mul_(1 + perturb * _normal(parameter, seed, name + ":perturb"))


def _normal(like: Tensor, seed: int, name: str) -> Tensor:
    digest = hashlib.sha256(f"{seed}/{name}/{tuple(like.shape)}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
    return torch.randn(like.shape, generator=generator, dtype=torch.float64).to(like)


def resolve_dtype(dtype: str, device: str) -> str:
    """`auto`: BF16 where the hardware multiplies it natively (AVX512-BF16, CUDA), else FP32."""
    if dtype != "auto":
        return dtype
    if device == "cuda":
        return "bfloat16"
    native = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
    return "bfloat16" if native else "float32"
