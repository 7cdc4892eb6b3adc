"""Small language models as strangers write them: a good one, and some with one fault each."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

VOCAB, WIDTH, HEADS, LONGEST = 61, 32, 4, 128
NUMBER = 7


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def mask(self, queries: int, keys: int) -> Tensor:
        """True where a query sees a key."""
        return torch.ones(queries, keys, dtype=torch.bool).tril(keys - queries)

    def forward(self, x: Tensor, kept: Any = None) -> tuple[Tensor, Any]:
        rows, length, _ = x.shape
        q, k, v = self.qkv(x).view(rows, length, 3, HEADS, -1).permute(2, 0, 3, 1, 4)
        if kept is not None:
            k, v = torch.cat((kept[0], k), dim=2), torch.cat((kept[1], v), dim=2)
        scores = q @ k.transpose(2, 3) / math.sqrt(q.shape[-1])
        scores = scores.masked_fill(~self.mask(length, k.shape[2]), -math.inf)
        return self.out((scores.softmax(dim=-1) @ v).transpose(1, 2).flatten(2)), (k, v)


class FeedForward(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(x)))


class Block(nn.Module):
    def __init__(self, attention: nn.Module, feed_forward: nn.Module) -> None:
        super().__init__()
        self.before, self.attention = nn.LayerNorm(WIDTH), attention
        self.between, self.feed_forward = nn.LayerNorm(WIDTH), feed_forward

    def forward(self, x: Tensor, kept: Any = None) -> tuple[Tensor, Any]:
        attended, kept = self.attention(self.before(x), kept)
        x = x + attended
        return x + self.feed_forward(self.between(x)), kept


class Good(nn.Module):
    """Learned positions, two blocks, a loss and a cache."""

    attention: type[nn.Module] = Attention
    feed_forward: type[nn.Module] = FeedForward

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.places = nn.Embedding(VOCAB, WIDTH), nn.Embedding(LONGEST, WIDTH)
        self.blocks = nn.ModuleList(Block(self.attention(), self.feed_forward()) for _ in range(2))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, VOCAB, bias=False)
        for p in self.parameters():
            if p.ndim == 2:
                nn.init.normal_(p, std=0.05)

    def first_place(self, kept: Any) -> int:
        return 0 if kept is None else kept[0][0].shape[2]

    def decode(self, tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        first = self.first_place(state)
        x, kept = self.embed(tokens) + self.places(torch.arange(first, first + tokens.shape[1])), []
        for i, block in enumerate(self.blocks):
            x, own = block(x, None if state is None else state[i])
            kept.append(own)
        return self.head(self.norm(x)), kept

    def forward(self, tokens: Tensor) -> Tensor:
        return self.decode(tokens, None)[0]

    def loss(self, tokens: Tensor) -> Tensor:
        return F.cross_entropy(self(tokens)[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())


class Unmasked(Attention):
    def mask(self, queries: int, keys: int) -> Tensor:
        return torch.ones(queries, keys, dtype=torch.bool)


class OneAhead(Attention):
    def mask(self, queries: int, keys: int) -> Tensor:
        return torch.ones(queries, keys, dtype=torch.bool).tril(keys - queries + 1)


class UnmaskedInTraining(Attention):
    def mask(self, queries: int, keys: int) -> Tensor:
        return super().mask(queries, keys) | self.training


class UnmaskedBehindZeros(Unmasked):
    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.zeros(WIDTH))

    def forward(self, x: Tensor, kept: Any = None) -> tuple[Tensor, Any]:
        out, kept = super().forward(x, kept)
        return out * self.gain, kept


class Attenuated(Attention):
    """Sees the future through so small a gain that no value shows it."""

    def forward(self, x: Tensor, kept: Any = None) -> tuple[Tensor, Any]:
        return super().forward(x + 1e-7 * x.mean(dim=1, keepdim=True), kept)


class ExpertChoice(nn.Module):
    """Each expert takes its best tokens, of all rows and places."""

    def __init__(self) -> None:
        super().__init__()
        self.router, self.experts = nn.Linear(WIDTH, 4, bias=False), nn.ModuleList(FeedForward() for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        flat, out = x.flatten(0, 1), torch.zeros_like(x.flatten(0, 1))
        scores = self.router(flat).softmax(dim=-1)
        for e, expert in enumerate(self.experts):
            taken = scores[:, e].topk(max(1, len(flat) // 4)).indices
            out = out.index_add(0, taken, expert(flat[taken]) * scores[taken, e : e + 1])
        return out.view_as(x)


class TopK(nn.Module):
    """Each token takes its best experts: the eighth is never the best."""

    def __init__(self) -> None:
        super().__init__()
        self.router, self.experts = nn.Linear(WIDTH, 8), nn.ModuleList(FeedForward() for _ in range(8))
        with torch.no_grad():
            self.router.bias[7] = -1e3

    def forward(self, x: Tensor) -> Tensor:
        gates, chosen = self.router(x).softmax(dim=-1).topk(2, dim=-1)
        out = torch.zeros_like(x)
        for e, expert in enumerate(self.experts):
            row, place, slot = (chosen == e).nonzero(as_tuple=True)
            out = out.index_put((row, place), gates[row, place, slot, None] * expert(x[row, place]), accumulate=True)
        return out


class Rounded(FeedForward):
    """FP8 with one scale for all tokens of the batch."""

    def forward(self, x: Tensor) -> Tensor:
        scale = x.detach().abs().amax() / 448
        low = (x / scale).to(torch.float8_e4m3fn).to(x.dtype) * scale
        return super().forward(x + (low - x).detach())


class RoundedByToken(FeedForward):
    """FP8 with a scale for each token."""

    def forward(self, x: Tensor) -> Tensor:
        scale = x.detach().abs().amax(dim=-1, keepdim=True) / 448
        low = (x / scale).to(torch.float8_e4m3fn).to(x.dtype) * scale
        return super().forward(x + (low - x).detach())


class BatchNormed(FeedForward):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.norm(x.transpose(1, 2)).transpose(1, 2))


class AlwaysDropping(FeedForward):
    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(super().forward(x), 0.1)


class Dropping(FeedForward):
    """As it should be."""

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(super().forward(x), 0.1, training=self.training)


class Detached(FeedForward):
    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.gelu(self.up(x)), self.down.weight.detach(), self.down.bias)


class Halved(FeedForward):
    """Half of its gradient is lost."""

    def forward(self, x: Tensor) -> Tensor:
        out = super().forward(x)
        return 0.5 * out + 0.5 * out.detach()


def variant(name: str, **parts: Any) -> type[Good]:
    return type(name, (Good,), parts)


AllOnesMask = variant("AllOnesMask", attention=Unmasked)
SeesOneAhead = variant("SeesOneAhead", attention=OneAhead)
LeaksInTraining = variant("LeaksInTraining", attention=UnmaskedInTraining)
LeaksBehindZeros = variant("LeaksBehindZeros", attention=UnmaskedBehindZeros)
LeaksALittle = variant("LeaksALittle", attention=Attenuated)
ExpertsChoose = variant("ExpertsChoose", feed_forward=ExpertChoice)
TokensChoose = variant("TokensChoose", feed_forward=TopK)
PerTensorFP8 = variant("PerTensorFP8", feed_forward=Rounded)
PerTokenFP8 = variant("PerTokenFP8", feed_forward=RoundedByToken)
WithBatchNorm = variant("WithBatchNorm", feed_forward=BatchNormed)
DropsInEvaluation = variant("DropsInEvaluation", feed_forward=AlwaysDropping)
DropsInTraining = variant("DropsInTraining", feed_forward=Dropping)
WithDetached = variant("WithDetached", feed_forward=Detached)
HalfTheGradient = variant("HalfTheGradient", feed_forward=Halved)


class ShiftedTwice(Good):
    def loss(self, tokens: Tensor) -> Tensor:
        return F.cross_entropy(self(tokens)[:, :-2].flatten(0, 1), tokens[:, 2:].flatten())


class NotShifted(Good):
    def loss(self, tokens: Tensor) -> Tensor:
        return F.cross_entropy(self(tokens).flatten(0, 1), tokens.flatten())


class Summed(Good):
    def loss(self, tokens: Tensor) -> Tensor:
        return super().loss(tokens) * tokens[:, 1:].numel()


class WithAuxiliary(Good):
    """In training a term beside it, which is no fault."""

    def loss(self, tokens: Tensor) -> Tensor:
        return super().loss(tokens) + (0.01 * self.head.weight.square().mean() if self.training else 0.0)


class CacheOffByOne(Good):
    def first_place(self, kept: Any) -> int:
        return max(0, super().first_place(kept) - 1)


class RemembersTheLast(Good):
    """What was read is the module's own, whatever state it is given."""

    def decode(self, tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        logits, self.read = super().decode(tokens, None if state is None else self.read)
        return logits, "mine"


class WithDead(Good):
    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Linear(WIDTH, WIDTH)


class LargeStart(Good):
    def __init__(self) -> None:
        super().__init__()
        nn.init.normal_(self.head.weight, std=1.0)


class LongRowsDiffer(Good):
    def forward(self, tokens: Tensor) -> Tensor:
        return super().forward(tokens) / tokens.shape[1]


class Bare(nn.Module):
    """Takes `targets`, offers no cache, and gives the last place's logits alone without them."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Good()

    def forward(self, idx: Tensor, targets: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        logits = self.inner(idx)
        if targets is None:
            return logits[:, -1:], None
        return logits, F.cross_entropy(logits.flatten(0, 1), targets.flatten())


class LastAlone(nn.Module):
    """No logits of all places, and no way to them."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Good()

    def forward(self, tokens: Tensor) -> Tensor:
        return self.inner(tokens)[:, -1]


class Smaller(Good):
    """Fewer tokens than logits."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(40, WIDTH)


def needs(width: int) -> nn.Module:
    return Good()


def raises() -> nn.Module:
    raise RuntimeError("no weights here")


def no_module() -> str:
    return "a model"


def leaves() -> nn.Module:
    raise SystemExit(3)


def talks() -> nn.Module:
    print("building")
    return Good()


class Leaving(Good):
    """Leaves the process as if all were well, in the pass of that number."""

    left = 3

    def forward(self, tokens: Tensor) -> Tensor:
        self.left -= 1
        if self.left < 0:
            raise SystemExit(0)
        return super().forward(tokens)


class LeavingLate(Leaving):
    left = 30


class NoLogits(Good):
    def forward(self, tokens: Tensor) -> Any:
        return {"hidden": super().forward(tokens)}


class NotFinite(Good):
    def forward(self, tokens: Tensor) -> Tensor:
        return super().forward(tokens) / 0
