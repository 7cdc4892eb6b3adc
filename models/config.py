"""Every toggle of the model, typed: the table of contents of `models/`. FP8's are in `precision/config.py`.

Field names are the papers' (DeepSeek-V2 2405.04434, DeepSeek-V3 2412.19437, Loss-Free Balancing 2408.15664). Each
toggle says what "off" is. `models/rules.py` refuses what cannot be built; `models/sizes.py` names whole configurations.
"""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from models.base.bounds import Count, DType, Epsilon, Layers, NotNegative, Positive, Share
from models.base.typed import Above, AtLeast, AtMost
from models.precision.config import PrecisionConfig


@dataclass(frozen=True)
class RopeConfig:
    """Rotary positions (2104.09864), and how they reach beyond the trained length.

    `linear` divides every position by `factor` (2306.15595); `ntk` raises theta so that the slowest pair is divided by
    it and the fastest one is kept (2309.00071 eq. 14); `yarn` (2309.00071; V3 4.3) divides only the slow frequencies,
    and sharpens the softmax. `none` is plain RoPE. Nothing here is trained: a trained model can be switched to another
    scaling (`Transformer.set_rope`).
    """

    theta: Annotated[float, Above(1)] = 10000.0
    scaling: Literal["none", "linear", "ntk", "yarn"] = "none"
    factor: Annotated[float, AtLeast(1)] = 1.0
    """s: how many times longer the context becomes (V3: 40)."""
    original_length: Annotated[int, AtLeast(1)] = 4096
    """The trained length: what is stretched reaches `factor` times as far. YaRN: against it a frequency counts as slow
    or fast."""
    beta_fast: Positive = 32.0
    """YaRN: pairs that turn more often than this within the trained length keep their frequency."""
    beta_slow: Positive = 1.0
    """YaRN: pairs that turn less often are divided by `factor`; those between are blended."""
    mscale: NotNegative = 1.0
    """YaRN: queries and keys are multiplied by sqrt(t) = 0.1 mscale ln s + 1 each (V3: 1; V2: 0.707; 0: not at all)."""


@dataclass(frozen=True)
class AttentionConfig:
    """Causal self-attention (V2 2.1, V3 2.1.1). What each kind caches per token and layer, in elements:

    `mla`: kv_lora_rank + qk_rope_head_dim, one latent and one RoPE key for all heads. `mha`: 2 n_heads head_dim.
    `gqa`: 2 n_kv_heads head_dim, each key and value shared by n_heads / n_kv_heads queries. `mqa`: 2 head_dim.
    """

    kind: Literal["mla", "mha", "gqa", "mqa"] = "mla"
    n_heads: Count = 4
    q_lora_rank: Count | None = None
    """Rank of MLA's query compression (V3: 1536); None projects queries directly (as V2-Lite does)."""
    kv_lora_rank: Count = 64
    qk_nope_head_dim: Count = 32
    qk_rope_head_dim: Count = 16
    v_head_dim: Count = 32
    head_dim: Count = 32
    """Head width of `mha`, `gqa` and `mqa` (queries, keys and values; RoPE over all of it). MLA ignores it."""
    n_kv_heads: Count = 2
    """Key and value heads of `gqa`. The other kinds ignore it: `mha` has n_heads, `mqa` one."""
    qk_norm: bool = False
    """RMSNorm on each head's queries and keys before RoPE, with gains that all heads share (2302.05442 2, 2409.02060
    2.1). `mla` norms the parts with and without RoPE apart, because one RoPE key serves all heads; its keys then exist
    in no absorbed form. Off, as in V3: no norms but those of the latents."""
    kv_norm: bool | None = None
    """RMSNorm on what keys and values are made of: `mla`'s latents, and in the other kinds all keys and all values of a
    token before they are parted into heads. None: `mla` has it (V2 eq. 9, as published) and the others have not, a
    difference between them that is no compression."""


@dataclass(frozen=True)
class BalanceConfig:
    """How expert load is kept even. `none` removes every mechanism.

    `aux_loss`: alpha * sum_i f_i P_i (V3 eq. 17-20), counted per `scope`. `bias`: auxiliary-loss-free (2408.15664,
    V3 2.1.2), b_i += u * sign(mean load - load_i) once per optimizer step. `bias_aux_loss`: both, as V3 was trained
    (u = 0.001, alpha = 0.0001, sequence scope).
    """

    kind: Literal["none", "aux_loss", "bias", "bias_aux_loss"] = "bias"
    scope: Literal["sequence", "microbatch", "batch"] = "sequence"
    """Over which tokens f and P are taken: each sequence, each microbatch, or the whole optimizer batch."""
    alpha: NotNegative = 0.0001
    """Strength of the auxiliary loss. Unused without one."""
    update_speed: NotNegative = 0.001
    """u (V3: gamma), the bias update speed. Unused without a bias."""
    frozen_fraction: Share = 0.0
    """Share of the training, at its end, in which the update speed is 0 (V3: 500B of 14.8T tokens, 0.034)."""
    bias_rule: Literal["sign", "proportional"] = "sign"
    """`sign`: every expert moves by u. `proportional`: by u * (mean load - load_i) / mean load (2408.15664 table 3;
    relative to the mean, so that u does not depend on the batch)."""
    bias_form: Literal["additive", "multiplicative"] = "additive"
    """What top-k sees: s_i + b_i, or s_i * (1 + b_i) (2408.15664 table 4, which starts its factor at 1)."""
    load_scope: Literal["batch", "microbatch"] = "batch"
    """Whose load moves the bias: the whole optimizer batch's, or only the last microbatch's, as a rank that does not
    exchange its counts would see it (2501.11873 table 1: the worst arm of all)."""

    @property
    def has_bias(self) -> bool:
        """Whether the router keeps a bias for each expert."""
        return self.kind in ("bias", "bias_aux_loss")

    @property
    def has_loss(self) -> bool:
        """Whether a term is added to the loss."""
        return self.kind in ("aux_loss", "bias_aux_loss")

    @property
    def counts_microbatches(self) -> bool:
        """Whether it matters how the batch is cut into microbatches."""
        return (self.has_loss and self.scope == "microbatch") or (self.has_bias and self.load_scope == "microbatch")

    @property
    def needs_batch_load(self) -> bool:
        """Whether that term must know the whole batch's assignments before the first backward (a counting pass)."""
        return self.has_loss and self.scope == "batch"


@dataclass(frozen=True)
class MoEConfig:
    """DeepSeekMoE (2401.06066, V3 2.1.2): shared experts beside fine-grained routed ones."""

    n_routed_experts: Count = 16
    n_shared_experts: Annotated[int, AtLeast(0), AtMost(10_000_000)] = 1
    """0: only routed experts."""
    top_k: Count = 4
    moe_intermediate_size: Count = 64
    """Hidden width of one expert. Halving it with twice the experts and twice the top_k is a finer granularity."""
    scoring: Literal["sigmoid", "softmax"] = "sigmoid"
    """Affinities: each expert's sigmoid (V3 eq. 15), or a softmax over the experts (V2)."""
    normalise: bool = True
    """Gates are divided by the sum of the chosen ones (V3 eq. 13). Off: affinities as they are (V2)."""
    routed_scaling_factor: Positive = 1.0
    """Multiplies the gates (V3: 2.5)."""
    n_group: Count = 1
    """Node-limited routing (V3 2.1.2): experts lie in this many equal groups (V3: 8) ..."""
    topk_group: Count = 1
    """... and a token chooses among its best `topk_group` of them (V3: 4), judged by the sum of their highest
    top_k / topk_group scores. Equal to `n_group`: no limit, and no code for it on the path."""
    backend: Literal["grouped_mm", "loop"] = "grouped_mm"
    """`grouped_mm`: one grouped GEMM for all experts. `loop`: one GEMM per expert, the reference; also for FP64."""
    balance: BalanceConfig = field(default_factory=BalanceConfig)


@dataclass(frozen=True)
class MTPConfig:
    """Multi-token prediction (V3 2.2). Depth 0 leaves no trace in the model or the loss.

    `chained` (V3): depth k joins the hidden state of depth k - 1 with the embedding of token i + k, by a projection and
    a block of its own, and predicts token i + k + 1. `parallel` (Gloeckle et al. 2404.19737): each head is a block on
    the trunk's last hidden state, knowing no later token. `linear` (their appendix B): a matrix in place of the block,
    so that whatever is predicted must stand in the trunk's state. Embedding and head are shared with the main model.
    """

    depth: Annotated[int, AtLeast(0), AtMost(4)] = 0
    style: Literal["chained", "parallel", "linear"] = "chained"
    hidden: Literal["before_norm", "after_norm"] = "before_norm"
    """Where a module takes the hidden state that it reads: before or after its depth's norm in front of the head (the
    main model's, then the modules' own). Eq. 21 leaves it open (DeepSeek-V3 issue 839). The published weights need
    `after_norm`: so transformers' MtpModel feeds them, and vllm's pull request 47448, which found that a state from
    before the norm mismatches `hnorm` and costs acceptance. With gains of 1 both are alike."""
    weight: NotNegative = 0.3
    """lambda of eq. 25: the loss is lambda / D times the sum of the depths' cross entropies ..."""
    tail_weight: NotNegative = 0.1
    """... and this from `tail_from` on (V3: the last 4.8T of 14.8T tokens)."""
    tail_from: Share = 0.676
    """Share of the training after which `tail_weight` holds."""

    @property
    def chained(self) -> bool:
        """Whether a depth reads the one before it, and the embedding of a later token."""
        return self.style == "chained"

    @property
    def blocks(self) -> int:
        """Of attention and feed-forward, those that the modules have."""
        return 0 if self.style == "linear" else self.depth


ScheduleName = Literal["none", "gpipe", "1f1b", "interleaved_1f1b", "zb1p", "zbv", "dualpipe", "dualpipev"]


@dataclass(frozen=True)
class PipelineConfig:
    """In which order a training step's chunks run (V3 3.2.1). A chunk is what one stage does with one microbatch.

    `none`: each microbatch through the whole model and back. `gpipe`, `1f1b`, `zb1p`: one stage on each rank.
    `interleaved_1f1b`, `zbv`, `dualpipev`: two stages on each rank. `dualpipe` (V3's own): one stage on each rank for
    each of two directions, so that every stage is held twice. `zb1p`, `zbv` and both DualPipes split a backward chunk
    into its input's and its weights' gradients. The schedule changes the order of sums and no other number.
    """

    schedule: ScheduleName = "none"
    stages: Layers = 1
    """That a microbatch passes. Layers are spread over them by cost, embedding and head counted; the embedding is on
    the first, head and MTP modules on the last."""
    microbatches: Count | None = None
    """null: `train.microbatches`."""


@dataclass(frozen=True)
class ModelConfig:
    """A DeepSeek-V3-shaped decoder. Defaults are the size that `scale=cpu` trains."""

    vocab_size: Annotated[int, AtLeast(1), AtMost(100_000_000)] = 1024
    d_model: Count = 128
    n_layers: Layers = 3
    feed_forward: Literal["moe", "dense"] = "moe"
    """`dense`: every layer carries a SwiGLU of `intermediate_size`, and there are no experts."""
    first_k_dense: Annotated[int, AtLeast(0)] = 1
    """The first k layers carry a dense SwiGLU feed-forward instead of experts (V3: 3)."""
    intermediate_size: Count = 320
    """Hidden width of the dense feed-forward."""
    rope: RopeConfig = field(default_factory=RopeConfig)
    attention: AttentionConfig = field(default_factory=AttentionConfig)
    moe: MoEConfig = field(default_factory=MoEConfig)
    mtp: MTPConfig = field(default_factory=MTPConfig)
    precision: PrecisionConfig = field(default_factory=PrecisionConfig)
    pipeline: PipelineConfig = field(default_factory=PipelineConfig)
    norm_eps: Epsilon = 1e-6
    init_std: Annotated[float, AtLeast(1e-9), AtMost(1000)] | None = None
    """Standard deviation of every weight matrix; None follows V3's width rule 0.508 / sqrt(d_model)."""
    dtype: DType = "auto"
    """Compute type of the matrix products; master weights are at least FP32. `auto` is resolved before a trial."""

    @property
    def std(self) -> float:
        """0.006 at V3's width 7168, hence 0.508 / sqrt(d)."""
        return self.init_std if self.init_std is not None else 0.508 / self.d_model**0.5

    @property
    def dense_layers(self) -> int:
        """How many layers, from the first, have no experts."""
        return self.n_layers if self.feed_forward == "dense" else self.first_k_dense

    @property
    def moe_layers(self) -> int:
        """How many layers of the main model have experts."""
        return self.n_layers - self.dense_layers

    @property
    def routers(self) -> int:
        """Of the whole model, MTP modules included."""
        return self.moe_layers + self.mtp.blocks * (self.feed_forward == "moe")
