"""What each kind of attention answers for, from its config alone: widths, parameters, cache, scores, memory, rules.

`models/attention.py` has the modules under the same names. Config rules, costs and RoPE read a kind here and never ask
which one it is. Nothing here needs torch.
"""

from abc import ABC, abstractmethod

from models.base.typed import ConfigError
from models.config import ModelConfig

EXPLICIT_MAX_SCORES = 512 * 512
"""On CPU, products with an explicit mask beat SDPA up to about this many scores per head; their memory is T x L."""


class AttentionKind(ABC):
    """One attention layer. Counts are elements, those of activations per token."""

    key_dim: int
    """Width of a head's queries and keys."""
    value_dim: int
    rope_dim: int
    """Width that RoPE turns in each head."""
    rope_key: str
    """The config's name for it."""
    sizes: tuple[str, ...]
    """The config's names for the sizes that it reads and another kind does not."""
    cached_heads: int
    """Heads that keys and values are kept for between tokens ..."""
    key_heads: int
    """... and those that scores are computed with."""
    kv_normed = False
    """Whether what keys and values are made of is normed, where `kv_norm` leaves it to the kind."""
    unabsorbed: str | None = None
    """Why what is cached cannot be read without expanding it (V2 2.1.2); None where it can."""

    def __init__(self, config: ModelConfig) -> None:
        self.attention, self.d_model = config.attention, config.d_model
        self.n_heads, self.qk_norm = config.attention.n_heads, config.attention.qk_norm
        self.kv_norm = self.kv_normed if config.attention.kv_norm is None else config.attention.kv_norm

    @property
    def absorbs(self) -> bool:
        return self.unabsorbed is None

    @property
    @abstractmethod
    def params(self) -> int:
        """Of the matrices."""

    @property
    def gains(self) -> int:
        """Of the norms inside the layer."""
        return 2 * self.key_dim if self.qk_norm else 0

    @property
    @abstractmethod
    def cached(self) -> int:
        """Kept between tokens while decoding (V2 table 1)."""

    @property
    def projected(self) -> int:
        """Kept for the backward between the layer's input and its queries, keys and values."""
        return 0

    @property
    def normed_rows(self) -> int:
        """Of queries and keys, each with a statistic in FP32 that is kept."""
        return self.n_heads + self.key_heads if self.qk_norm else 0

    @property
    def beside_flash(self) -> int:
        """Kept for the backward by SDPA's flash kernel besides its operands and the layer's output."""
        return 0

    def score_flops(self, seq_len: int) -> float:
        """Scores and weighted sums, forward and backward, per token: at half the length, because causal."""
        return 6.0 * self.n_heads * (self.key_dim + self.value_dim) * (seq_len + 1) / 2

    def kept_bytes(self, seq_len: int, width: int) -> float:
        """Kept per token for the backward on a CPU, in numbers of `width` bytes; the layer's input is counted apart.

        Short sequences write their probabilities out (`EXPLICIT_MAX_SCORES`). Beyond, SDPA has a flash kernel where
        keys are as wide as values. Where they are not (MLA), it computes in at least FP32, with copies of all three
        operands, and writes the probabilities out in that type.
        """
        operands = self.n_heads * self.key_dim + self.key_heads * (self.key_dim + self.value_dim)
        out, wide = width * self.n_heads * self.value_dim, max(width, 4)
        if seq_len**2 <= EXPLICIT_MAX_SCORES:
            core = width * (operands + self.n_heads * seq_len)
        elif self.key_dim == self.value_dim:
            core = width * (operands + self.beside_flash) + wide * self.n_heads  # the logarithm of each row's sum
        else:
            core = wide * (operands + self.n_heads * seq_len)
        return width * self.projected + 4 * self.normed_rows + core + out

    def check(self) -> None:
        """Raise ConfigError for widths that do not go together."""
        if self.rope_dim % 2:
            raise ConfigError(
                f"model.attention.{self.rope_key}={self.rope_dim}: RoPE rotates pairs, so it must be even"
            )


class Latent(AttentionKind):
    """MLA: one latent and one RoPE key for all heads, from which keys and values are expanded."""

    rope_key = "qk_rope_head_dim"
    sizes = ("q_lora_rank", "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")
    cached_heads = 1
    kv_normed = True

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        a = config.attention
        self.rope_dim, self.value_dim, self.key_heads = a.qk_rope_head_dim, a.v_head_dim, a.n_heads
        self.key_dim = a.qk_nope_head_dim + a.qk_rope_head_dim
        if self.qk_norm:
            self.unabsorbed = "model.attention.qk_norm=True: keys are normed after they are expanded from the latents"

    @property
    def params(self) -> int:
        a, d, queries = self.attention, self.d_model, self.n_heads * self.key_dim
        query = d * queries if a.q_lora_rank is None else a.q_lora_rank * (d + queries)
        latent = d * self.cached
        expand = a.kv_lora_rank * self.n_heads * (a.qk_nope_head_dim + a.v_head_dim)
        return query + latent + expand + self.n_heads * a.v_head_dim * d

    @property
    def gains(self) -> int:
        latents = self.attention.kv_lora_rank if self.kv_norm else 0
        return super().gains + latents + (self.attention.q_lora_rank or 0)

    @property
    def cached(self) -> int:
        return self.attention.kv_lora_rank + self.rope_dim

    @property
    def projected(self) -> int:
        """The first product's output, all in one, and the normed latents."""
        a = self.attention
        first = (a.q_lora_rank or self.n_heads * self.key_dim) + self.cached
        normed = self.expanded + (self.n_heads * self.key_dim if a.q_lora_rank else 0) if self.qk_norm else 0
        return first + (a.q_lora_rank or 0) + (a.kv_lora_rank if self.kv_norm else 0) + normed

    @property
    def normed_rows(self) -> int:
        return 3 * self.n_heads + 1 if self.qk_norm else 0

    @property
    def expanded(self) -> int:
        """Keys without their RoPE part and values, one product's output."""
        return self.n_heads * (self.attention.qk_nope_head_dim + self.value_dim)

    @property
    def beside_flash(self) -> int:
        """The whole of `expanded`, of which values are a view, less the values, where no norm keeps it anyway; and
        outputs, as wide as the values, which lie by head and are copied to lie by token."""
        return 0 if self.qk_norm else self.expanded


class Grouped(AttentionKind):
    """GQA: `n_kv_heads` keys and values, each shared by equally many queries."""

    rope_key = "head_dim"
    sizes: tuple[str, ...] = ("head_dim", "n_kv_heads")

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.rope_dim = self.key_dim = self.value_dim = config.attention.head_dim
        self.cached_heads = self.key_heads = self.kept_heads()
        self.unabsorbed = f"model.attention.kind={config.attention.kind} has no latents; only mla can absorb"

    def kept_heads(self) -> int:
        return self.attention.n_kv_heads

    @property
    def params(self) -> int:
        return 2 * self.d_model * self.key_dim * (self.n_heads + self.key_heads)

    @property
    def cached(self) -> int:
        return 2 * self.key_heads * self.key_dim

    @property
    def gains(self) -> int:
        return super().gains + (self.cached if self.kv_norm else 0)

    @property
    def projected(self) -> int:
        """Queries and keys, and keys and values, before they are normed."""
        return super().normed_rows * self.key_dim + (self.cached if self.kv_norm else 0)

    @property
    def normed_rows(self) -> int:
        return super().normed_rows + (2 if self.kv_norm else 0)

    def check(self) -> None:
        super().check()
        if self.n_heads % self.key_heads:
            raise ConfigError(
                f"model.attention.n_kv_heads={self.key_heads}: must divide model.attention.n_heads={self.n_heads}, "
                f"so that every key head serves equally many queries"
            )


class MultiHead(Grouped):
    """MHA: a key and a value for each query."""

    sizes = ("head_dim",)

    def kept_heads(self) -> int:
        return self.n_heads


class MultiQuery(Grouped):
    """MQA: one key and one value for all queries."""

    sizes = ("head_dim",)

    def kept_heads(self) -> int:
        return 1


KINDS: dict[str, type[AttentionKind]] = {"mla": Latent, "mha": MultiHead, "gqa": Grouped, "mqa": MultiQuery}


def attention_of(config: ModelConfig) -> AttentionKind:
    """What `model.attention.kind` names, at this model's widths."""
    return KINDS[config.attention.kind](config)
