"""The decoder: embedding, blocks, norm, head. Module names are those of the published `deepseek_v3` checkpoints."""

import dataclasses
import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from models.attention import LayerCache, Places, build_attention, softmax_scale, within_documents
from models.balance import Routing
from models.base.bounds import DType
from models.base.typed import ConfigError
from models.config import ModelConfig, RopeConfig
from models.kinds import attention_of
from models.layers import KEPT, Embedding, Linear, RMSNorm, Start, Starts, SwiGLU
from models.moe import MoE, Router
from models.mtp import ChainedModule, LinearBlock, ParallelHead, handed_on, shortened
from models.rope import rope_turns
from models.rules import TYPE_OF_RECIPE, validate


@dataclass
class Output:
    logits: Tensor
    """(B, T, V), in the compute type: of the next token."""
    routings: list[Routing]
    """One per MoE layer in order, those of the MTP modules last."""
    mtp_logits: list[Tensor] = field(default_factory=list)
    """Depth k = 1 .. D: (B, T - k, V), position i of token i + k + 1."""


class Block(nn.Module):
    """Pre-norm attention, then a dense or a MoE feed-forward. In training, `compiled` runs it where it is set."""

    compiled: "Callable[[Block, Tensor, Places], tuple[Tensor, Routing | None]] | None" = None

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.d_model, config.norm_eps)
        self.self_attn = build_attention(config)
        self.post_attention_layernorm = RMSNorm(config.d_model, config.norm_eps)
        dense = layer < config.dense_layers or config.feed_forward == "dense"
        self.mlp = SwiGLU(config.d_model, config.intermediate_size) if dense else MoE(config)

    def forward(self, x: Tensor, places: Places, cache: LayerCache | None = None) -> tuple[Tensor, Routing | None]:
        if self.compiled is not None and self.training:
            return self.compiled(self, x, places)
        return self.run(x, places, cache)

    def run(self, x: Tensor, places: Places, cache: LayerCache | None = None) -> tuple[Tensor, Routing | None]:
        x = x + self.self_attn(self.input_layernorm(x), places, cache)
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

    _turns_key: tuple[int, torch.device, torch.dtype] | None = None

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        validate(config)
        if config.dtype == "auto":
            raise ConfigError("model.dtype=auto: must be resolved (models.transformer.resolve_dtype) before building")
        self.config = config
        self.model = Trunk(config)
        self.lm_head = Linear(config.d_model, config.vocab_size)
        if config.mtp.depth:
            head = ChainedModule if config.mtp.chained else ParallelHead
            self.mtp = nn.ModuleList(
                head(config, Block(config, config.n_layers) if config.mtp.blocks else LinearBlock(config))
                for _ in range(config.mtp.depth)
            )
        if config.dtype == "float64":
            self.double()
        if config.precision.fp8:
            from models.precision.attach import attach

            attach(self, config.precision, config.moe.backend, getattr(torch, config.dtype))
        for row, router in enumerate(self.routers()):
            router.row = row

    @property
    def dtype(self) -> torch.dtype:
        """The compute type. A model that is trained under a named recipe is evaluated in BF16, whatever the recipe, so
        that its arms differ in their training only."""
        if not self.training and self.config.precision.recipe != "auto":
            return torch.bfloat16
        dtype: torch.dtype = getattr(torch, self.config.dtype)
        return dtype

    def forward(self, tokens_BT: Tensor, mtp: bool = False, document_end: int | None = None) -> Output:
        """Logits of the next token; with `mtp`, also those of the MTP modules. With a token id as `document_end`,
        attention stays within documents, which that token ends."""
        places = self.places(tokens_BT, document_end)
        x, routings = self.through(range(self.config.n_layers), self.model.embed_tokens(tokens_BT, self.dtype), places)
        return self.finish(x, tokens_BT, places, routings, mtp)

    def through(self, layers: Iterable[int], x: Tensor, places: Places) -> tuple[Tensor, list[Routing]]:
        """x (B, T, D) after these layers, and the routings of those with experts."""
        routings = []
        for layer in layers:
            x, routing = self.model.layers[layer](x, places)
            if routing is not None:
                routings.append(routing)
        return x, routings

    def finish(self, x: Tensor, tokens_BT: Tensor, places: Places, routings: list[Routing], mtp: bool) -> Output:
        """What follows the last layer: norm and head, and with `mtp` the MTP modules."""
        normed = self.model.norm(x)
        output = Output(self.lm_head(normed), routings)
        if mtp and self.config.mtp.depth:
            self._predict_further(handed_on(self.config.mtp, x, normed), tokens_BT, places, output)
        return output

    def _predict_further(self, hidden: Tensor, tokens_BT: Tensor, places: Places, output: Output) -> None:
        """Adds logits and routings of the MTP modules; depth k works on the first T - k positions."""
        for k, module in enumerate(self.mtp, start=1):
            assert isinstance(module, ChainedModule | ParallelHead)
            length = tokens_BT.shape[1] - k
            embedded = self.model.embed_tokens(tokens_BT[:, k:], self.dtype) if module.chained else hidden
            further, routing = module(hidden[:, :length], embedded, shortened(places, length))
            if routing is not None:
                output.routings.append(routing)
            normed = module.norm(further)
            output.mtp_logits.append(self.lm_head(normed))
            if module.chained:
                hidden = handed_on(self.config.mtp, further, normed)

    def places(self, tokens_BT: Tensor, document_end: int | None = None) -> Places:
        """Positions 0 .. T - 1, causal; within documents where their end is given."""
        turns = self._turns_of(tokens_BT.shape[1], tokens_BT.device)
        mask = None
        if document_end is not None:
            ends = (tokens_BT == document_end).long()
            mask = within_documents(ends.cumsum(dim=1) - ends)
        return Places(turns, mask)

    def _turns_of(self, length: int, device: torch.device) -> Tensor:
        key = (length, device, self.dtype)
        if self._turns_key != key:
            with torch.inference_mode(False):  # inference tensors could not be kept for a later backward
                positions = torch.arange(length, device=device)
                value = rope_turns(positions, attention_of(self.config).rope_dim, self.config.rope, self.dtype)
            self._turns_key, self._turns = key, value
        return self._turns

    def set_rope(self, rope: RopeConfig) -> None:
        """Switch a trained model to another stretching of its positions (context extension, V3 4.3)."""
        config = dataclasses.replace(self.config, rope=rope)
        validate(config)
        self.config, self._turns_key = config, None
        for module in self.modules():
            if isinstance(module, Block):
                module.self_attn.scale = softmax_scale(config)

    def routers(self) -> list[Router]:
        """The router of each MoE layer in order, those of the MTP modules last."""
        return [module for module in self.modules() if isinstance(module, Router)]

    def main_routers(self) -> list[Router]:
        """Those of the main model alone."""
        return [module for module in self.model.modules() if isinstance(module, Router)]


def initialise(model: nn.Module, seed: int, std: float, perturb: float = 0.0) -> None:
    """Normal(0, std) for matrices, each from its own generator; what its module's `starts` names begins at that value.

    The generator is seeded by (seed, name, shape), so adding or removing a module leaves every other initial value as
    it was: arms that share parameters start from the same ones. `perturb` is for `perturbed` (the A/A arm). Raises
    ConfigError for what is neither.
    """
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            start = start_of(model, name)
            if start == KEPT:
                pass
            elif start is not None:
                parameter.fill_(start)
            elif parameter.ndim >= 2:
                parameter.copy_(_normal(parameter, seed, name) * std)
            else:
                raise ConfigError(
                    f"{name}: is no matrix, and nothing says how it starts; name it in its module's `starts`, as "
                    "models.layers.RMSNorm does"
                )
    if perturb:
        perturbed(model, seed, perturb)


@torch.no_grad()
def perturbed(model: nn.Module, seed: int, relative: float) -> None:
    """Multiply each parameter by 1 + relative * normal, each from its own generator."""
    for name, parameter in model.named_parameters():
        parameter.mul_(1 + relative * _normal(parameter, seed, name + ":perturb"))


def start_of(model: nn.Module, name: str) -> Start | None:
    """How the parameter of this name begins by its module's word; None where that says nothing."""
    path, _, own = name.rpartition(".")
    starts: Starts = getattr(model.get_submodule(path), "starts", {})
    return starts.get(own)


def _normal(like: Tensor, seed: int, name: str) -> Tensor:
    digest = hashlib.sha256(f"{seed}/{name}/{tuple(like.shape)}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
    return torch.randn(like.shape, generator=generator, dtype=torch.float64).to(like)


def resolve_dtype(dtype: DType, device: str, recipe: str = "auto") -> DType:
    """`auto`: what the recipe of `model.precision` needs; without one BF16 where the hardware multiplies it natively
    (AVX512-BF16, CUDA), else FP32."""
    if dtype != "auto":
        return dtype
    if recipe != "auto":
        return TYPE_OF_RECIPE.get(recipe, "bfloat16")
    if device == "cuda":
        return "bfloat16"
    native = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
    return "bfloat16" if native else "float32"
