"""Multi-token prediction against a plain, slow version of V3's equations 21 to 25, and what its modules must not do."""

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from models.config import ModelConfig, MTPConfig
from models.measure.evaluation import evaluate, evaluate_mtp
from models.mtp import mtp_weight
from models.training.config import OptimConfig
from models.training.executor import Microbatching, update_routers
from models.training.optim import adamw
from models.transformer import Transformer

Built = Callable[..., Transformer]
Tokens = Callable[..., Tensor]
Weights = dict[str, Tensor]
CHAIN = {"mtp.depth": 2}


def rms(x: Tensor, gain: Tensor) -> Tensor:
    return x / ((x * x).mean(dim=-1, keepdim=True) + 1e-6).sqrt() * gain


def rotated(x: Tensor, position: int, theta: float = 10000.0) -> Tensor:
    """One head's vector at one position, pair by pair as complex numbers."""
    dim = x.shape[-1]
    angles = position * theta ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)
    turned = torch.view_as_complex(x.reshape(-1, 2).contiguous()) * torch.polar(torch.ones_like(angles), angles)
    return torch.view_as_real(turned).flatten()


def swiglu(x: Tensor, w: Weights, at: str) -> Tensor:
    return w[f"{at}.down_proj.weight"] @ (F.silu(w[f"{at}.gate_proj.weight"] @ x) * (w[f"{at}.up_proj.weight"] @ x))


def block(xs: list[Tensor], w: Weights, at: str, config: ModelConfig) -> list[Tensor]:
    """A V3 layer on a list of positions: MLA by V2's eq. 9-19, then a dense or a MoE feed-forward."""
    a, m = config.attention, config.moe
    nope, rope, keys, values = a.qk_nope_head_dim, a.qk_rope_head_dim, [], []
    out = []
    for i, x in enumerate(xs):
        u = rms(x, w[f"{at}.input_layernorm.weight"])
        down = w[f"{at}.self_attn.kv_a_proj_with_mqa.weight"] @ u
        latent = rms(down[: a.kv_lora_rank], w[f"{at}.self_attn.kv_a_layernorm.weight"])
        shared_key = rotated(down[a.kv_lora_rank :], i)
        expanded = (w[f"{at}.self_attn.kv_b_proj.weight"] @ latent).view(a.n_heads, -1)
        keys.append([torch.cat((head[:nope], shared_key)) for head in expanded])
        values.append([head[nope:] for head in expanded])
        queries = (w[f"{at}.self_attn.q_proj.weight"] @ u).view(a.n_heads, -1)
        heads = []
        for h in range(a.n_heads):
            q = torch.cat((queries[h][:nope], rotated(queries[h][nope:], i)))
            scores = torch.stack([q @ keys[j][h] / math.sqrt(nope + rope) for j in range(i + 1)]).softmax(dim=0)
            heads.append(sum(p * values[j][h] for j, p in enumerate(scores)))
        mid = x + w[f"{at}.self_attn.o_proj.weight"] @ torch.cat(heads)
        v = rms(mid, w[f"{at}.post_attention_layernorm.weight"])
        if f"{at}.mlp.gate.weight" not in w:
            out.append(mid + swiglu(v, w, f"{at}.mlp"))
            continue
        affinity = (w[f"{at}.mlp.gate.weight"] @ v).sigmoid()
        chosen = (affinity + w[f"{at}.mlp.gate.e_score_correction_bias"]).topk(m.top_k).indices.tolist()
        y = swiglu(v, w, f"{at}.mlp.shared_experts")
        for e in chosen:
            gate, up = (w[f"{at}.mlp.experts.gate_up_proj"][e] @ v).chunk(2)
            gated = affinity[e] / sum(affinity[c] for c in chosen)
            y = y + gated * (w[f"{at}.mlp.experts.down_proj"][e] @ (F.silu(gate) * up))
        out.append(mid + y)
    return out


def plain(w: Weights, config: ModelConfig, sequence: list[int], weight: float) -> tuple[Tensor, Tensor, list[Tensor]]:
    """One sequence of T + 1 tokens t_1 .. t_{T+1}, position by position: the main loss, eq. 25, and per depth the
    cross entropies of its T - k predictions."""
    length, depth = len(sequence) - 1, config.mtp.depth
    embedding, head = w["model.embed_tokens.weight"], w["lm_head.weight"]
    hidden = [embedding[t] for t in sequence[:length]]
    for layer in range(config.n_layers):
        hidden = block(hidden, w, f"model.layers.{layer}", config)

    def nats(h: Tensor, gain: Tensor, target: int) -> Tensor:
        return -(head @ rms(h, gain)).log_softmax(dim=-1)[target]

    main = torch.stack([nats(hidden[i], w["model.norm.weight"], sequence[i + 1]) for i in range(length)]).mean()
    each: list[Tensor] = []
    after = config.mtp.hidden == "after_norm"
    hidden = [rms(h, w["model.norm.weight"]) for h in hidden] if after else hidden
    trunk = hidden
    for k in range(1, depth + 1):
        at = f"mtp.{k - 1}"
        if config.mtp.style == "chained":
            joined = []
            for i in range(length - k):  # eq. 21; the published matrix has the embedding's columns first
                e = rms(embedding[sequence[i + k]], w[f"{at}.enorm.weight"])
                h = rms(hidden[i], w[f"{at}.hnorm.weight"])
                joined.append(w[f"{at}.eh_proj.weight"] @ torch.cat((e, h)))
            hidden = block(joined, w, f"{at}.block", config)
        elif config.mtp.style == "parallel":
            hidden = block(trunk[: length - k], w, f"{at}.block", config)
        else:
            hidden = [w[f"{at}.block.proj.weight"] @ h for h in trunk[: length - k]]
        gain = w[f"{at}.norm.weight"]
        each.append(torch.stack([nats(hidden[i], gain, sequence[i + k + 1]) for i in range(length - k)]))
        hidden = [rms(h, gain) for h in hidden] if after else hidden
    mtp = weight / depth * sum((ce.sum() / length for ce in each), torch.zeros((), dtype=torch.float64))
    return main, mtp, each


def perturbed(built: Built, changes: dict[str, Any], seed: int = 0) -> Transformer:
    """With gains that are not 1 and biases that are not 0, so that none can be forgotten unseen."""
    model = built({"moe.balance.kind": "bias", **changes}, seed)
    generator = torch.Generator().manual_seed(seed + 99)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim < 2:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    for router in model.routers():
        router.e_score_correction_bias += 0.1 * torch.randn(6, generator=generator, dtype=torch.float64)
    return model


@pytest.mark.parametrize(
    ("changes", "progress"),
    [
        ({"mtp.depth": 1}, 0.0),
        ({"mtp.depth": 2}, 0.9),
        ({"mtp.depth": 3, "n_layers": 2}, 0.0),
        ({"mtp.depth": 2, "feed_forward": "dense", "n_layers": 2}, 0.0),
        ({"mtp.depth": 1, "mtp.style": "parallel"}, 0.0),
        ({"mtp.depth": 3, "mtp.style": "parallel", "n_layers": 2}, 0.7),
        ({"mtp.depth": 2, "mtp.style": "linear", "n_layers": 2}, 0.7),
        ({"mtp.depth": 1, "mtp.hidden": "after_norm"}, 0.0),
        ({"mtp.depth": 3, "mtp.hidden": "after_norm", "n_layers": 2}, 0.9),
        ({"mtp.depth": 2, "mtp.hidden": "after_norm", "mtp.style": "parallel", "n_layers": 2}, 0.0),
    ],
    ids=[
        *("depth 1", "depth 2, late", "depth 3", "dense", "one head", "three heads, late", "matrices, late"),
        *("after the norm", "depth 3, after the norm, late", "two heads after the norm"),
    ],
)
def test_losses_and_every_gradient(
    built: Built, tokens: Tokens, record_property: Any, changes: dict[str, Any], progress: float
) -> None:
    model = perturbed(built, changes)
    batch, depth = tokens(2, 8, seed=5), changes["mtp.depth"]
    result = Microbatching(model, 2).step(batch, progress)

    w = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    leaves = {name: w[name].requires_grad_() for name, _ in model.named_parameters()}
    weight = 0.3 if progress < 0.676 else 0.1
    rows = [plain(w, model.config, row, weight) for row in batch.tolist()]
    main, mtp = (torch.stack([row[i] for row in rows]).mean() for i in (0, 1))  # type: ignore[arg-type]
    torch.autograd.backward(main + mtp)

    losses = {name: float(value.detach()) for name, value in result.losses.items()}
    assert losses["loss"] == pytest.approx(float(main.detach()), abs=1e-12)
    assert losses["mtp_loss"] == pytest.approx(float(mtp.detach()), abs=1e-12)
    for k in range(1, depth + 1):
        mean = torch.stack([row[2][k - 1] for row in rows]).mean()
        assert losses[f"mtp_loss_{k}"] == pytest.approx(float(mean.detach()), abs=1e-12)
    worst = 0.0
    for name, parameter in model.named_parameters():
        expected = leaves[name].grad
        assert parameter.grad is not None and expected is not None and expected.abs().max() > 0, name
        difference = float((parameter.grad - expected).abs().max())
        worst = max(worst, difference)
        assert difference < 1e-11, f"{name}: the gradients differ by {difference:.1e}"
    record_property("largest difference of a gradient", worst)
    print(f"largest difference of a gradient: {worst:.1e}")


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("style", ["chained", "parallel", "linear"])
def test_before_and_after_the_norm_part_where_gains_are_not_1(
    built: Built, tokens: Tokens, style: str, depth: int
) -> None:
    """The same weights: only the modules' logits part, at every depth; where gains are 1 those of chained modules
    hardly do, since `hnorm` norms again. (A parallel head reads its state without a norm before.)"""
    x = tokens(2, 9)
    changes = {"mtp.depth": depth, "mtp.style": style}
    for gains in (True, False):
        before, after = (
            perturbed(built, {**changes, "mtp.hidden": place}) if gains else built({**changes, "mtp.hidden": place})
            for place in ("before_norm", "after_norm")
        )
        assert list(before.state_dict()) == list(after.state_dict())
        with torch.no_grad():
            one, other = before(x, mtp=True), after(x, mtp=True)
        assert torch.equal(one.logits, other.logits)
        for a, b in zip(one.mtp_logits, other.mtp_logits, strict=True):
            part = float((a - b).abs().max()) > 1e-3
            assert part == (gains or style == "parallel")


@pytest.mark.parametrize("style", ["chained", "parallel", "linear"])
def test_main_logits_do_not_know_of_the_modules(built: Built, tokens: Tokens, style: str) -> None:
    """Each parameter has a generator of its own, so those that two depths share begin alike."""
    without, with_two = built(), built({"mtp.depth": 2, "mtp.style": style})
    x = tokens(2, 9)
    assert torch.equal(without(x).logits, with_two(x).logits)
    assert torch.equal(without(x).logits, with_two(x, mtp=True).logits)
    assert with_two(x).mtp_logits == [] and len(with_two(x, mtp=True).mtp_logits) == 2
    routed = 2 if style == "linear" else 4
    assert len(with_two(x).routings) == 2 and len(with_two(x, mtp=True).routings) == with_two.config.routers == routed


def test_depth_0_leaves_no_trace(built: Built, tokens: Tokens) -> None:
    """Whatever the other MTP settings: the same names, losses, loads and gradients, bit for bit."""
    plain_model = built()
    zero = built({"mtp": {"depth": 0, "style": "parallel", "weight": 9.0, "tail_weight": 8.0, "tail_from": 0.1}})
    assert list(plain_model.state_dict()) == list(zero.state_dict())
    assert not [name for name, _ in zero.named_modules() if "mtp" in name]
    results = [Microbatching(model, 2).step(tokens(4, 9), progress=0.5) for model in (plain_model, zero)]
    assert list(results[0].losses) == list(results[1].losses) == ["loss", "aux_loss"]
    assert all(torch.equal(results[0].losses[name], results[1].losses[name]) for name in results[0].losses)
    assert torch.equal(results[0].load_LE, results[1].load_LE)
    for (name, a), b in zip(plain_model.named_parameters(), zero.parameters(), strict=True):
        assert a.grad is not None and b.grad is not None and torch.equal(a.grad, b.grad), name


def test_depth_adds_to_the_main_models_gradient(built: Built, tokens: Tokens) -> None:
    """The modules teach the trunk: on, the shared parameters' gradients are others; the main loss is the same."""
    without, with_one = built(), built({"mtp.depth": 1})
    losses = [Microbatching(model, 1).step(tokens(2, 9)).losses["loss"] for model in (without, with_one)]
    assert torch.equal(*losses)
    ones = dict(with_one.named_parameters())
    for name, parameter in without.named_parameters():
        # the main model's own norm and nothing else lies outside the modules' way
        assert parameter.grad is not None and ones[name].grad is not None
        assert torch.equal(parameter.grad, ones[name].grad) == (name == "model.norm.weight"), name


def test_dropping_the_modules_leaves_the_main_model(built: Built, tokens: Tokens) -> None:
    model = built({"mtp.depth": 2, "moe.balance.kind": "bias"})
    optimizer = adamw(model, OptimConfig(lr=1e-2))
    start = copy.deepcopy(model.state_dict())
    for step in range(3):
        optimizer.zero_grad()
        result = Microbatching(model, 2).step(tokens(4, 9, seed=step))
        optimizer.step()
        update_routers(model, result, 0.0)
    trained = model.state_dict()
    still = [name for name in trained if torch.equal(trained[name], start[name])]
    assert still == [], "every parameter and bias has moved"
    dropped = built({"moe.balance.kind": "bias"}, seed=7)
    dropped.load_state_dict({name: t for name, t in trained.items() if not name.startswith("mtp.")})
    x = tokens(3, 11, seed=8)
    with torch.no_grad():
        assert torch.equal(model(x, mtp=True).logits, dropped(x).logits)


def test_the_weight_falls_at_10_of_14_8_trillion_tokens() -> None:
    config = MTPConfig(depth=1)
    assert [mtp_weight(config, at) for at in (0.0, 0.6759, 0.676, 1.0)] == [0.3, 0.3, 0.1, 0.1]
    assert config.tail_from == pytest.approx(10 / 14.8, abs=5e-4)
    other = MTPConfig(depth=1, weight=0.5, tail_weight=0.0, tail_from=0.25)
    assert [mtp_weight(other, at) for at in (0.2, 0.25)] == [0.5, 0.0]


def test_the_weight_only_scales(built: Built, tokens: Tokens) -> None:
    model = built(CHAIN)
    early, late = (Microbatching(model, 1).step(tokens(2, 9), progress).losses for progress in (0.0, 0.8))
    assert float(late["mtp_loss"] / early["mtp_loss"]) == pytest.approx(1 / 3, rel=1e-14)
    assert torch.equal(early["mtp_loss_1"], late["mtp_loss_1"]) and torch.equal(early["loss"], late["loss"])


@pytest.mark.parametrize("style", ["chained", "parallel"])
def test_balancing_covers_the_modules_experts(built: Built, tokens: Tokens, style: str) -> None:
    model = built({"mtp.depth": 2, "mtp.style": style, "moe.balance": {"kind": "bias", "update_speed": 0.01}})
    batch, length = tokens(4, 9), 8
    result = Microbatching(model, 2).step(batch)
    assert len(model.routers()) == 4 and len(model.main_routers()) == 2
    top_k = model.config.moe.top_k
    assert result.load_LE.sum(dim=1).tolist() == [4 * n * top_k for n in (length, length, length - 1, length - 2)]
    update_routers(model, result, 0.0)
    for k in (0, 1):
        load = result.load_LE[2 + k].double()
        bias = model.mtp[k].block.mlp.gate.e_score_correction_bias  # type: ignore[union-attr]
        assert bias.abs().max() > 0
        torch.testing.assert_close(bias, 0.01 * (load.mean() - load).sign(), rtol=0, atol=0)


@pytest.mark.parametrize("scope", ["sequence", "microbatch", "batch"])
def test_the_auxiliary_loss_covers_the_modules_experts(built: Built, tokens: Tokens, scope: str) -> None:
    """Alone (lambda 0), it still reaches the modules' routers; and it is the sum of alpha f.P over all four layers."""
    balance = {"kind": "aux_loss", "alpha": 0.5, "scope": scope}
    model = built({"mtp": {"depth": 2, "weight": 0.0}, "moe.balance": balance})
    batch = tokens(3, 9)
    result = Microbatching(model, 1).step(batch)
    for module in model.mtp:
        gradient = module.block.mlp.gate.weight.grad  # type: ignore[union-attr]
        assert gradient is not None and gradient.abs().max() > 1e-6
    total = 0.0
    with torch.no_grad():
        for routing in model(batch[:, :-1], mtp=True).routings:
            s = routing.scores_BTE
            top = torch.zeros_like(s).scatter_(-1, s.topk(2, dim=-1).indices, 1.0)
            p = s / s.sum(dim=-1, keepdim=True)
            if scope == "sequence":
                total += float(0.5 * (top.mean(dim=1) * 6 / 2 * p.mean(dim=1)).sum(dim=-1).mean())
            else:
                total += float(0.5 * (top.mean(dim=(0, 1)) * 6 / 2 * p.mean(dim=(0, 1))).sum())
    assert float(result.losses["aux_loss"]) == pytest.approx(total, rel=1e-12)


def alike(a: Tensor, b: Tensor) -> list[bool]:
    """Per position of (1, T, V). Not bit for bit: the rows of an expert's product change with the other tokens."""
    apart = (a - b).abs().amax(dim=-1)[0]
    assert bool(((apart < 1e-12) | (apart > 1e-8)).all()), f"neither equal nor different: {apart}"
    return [value < 1e-12 for value in apart.tolist()]


@pytest.mark.parametrize("style", ["chained", "parallel", "linear"])
def test_what_depth_k_sees(built: Built, tokens: Tokens, style: str) -> None:
    """Chained, position i sees tokens up to i + k and each of them matters; a parallel head sees those up to i."""
    model = built({"mtp.depth": 3, "mtp.style": style})
    x, length = tokens(1, 8), 8
    with torch.no_grad():
        before = model(x, mtp=True).mtp_logits
        for changed in range(length):
            other = x.clone()
            other[0, changed] = (other[0, changed] + 1) % 61
            for k, logits in enumerate(model(other, mtp=True).mtp_logits, start=1):
                ahead = k if style == "chained" else 0
                same = alike(logits, before[k - 1])
                expected = [i + ahead < changed for i in range(length - k)]
                assert same == expected, f"depth {k}, token {changed} changed"


def test_documents_are_kept_apart_in_the_modules_too(built: Built, tokens: Tokens) -> None:
    """With `document_end`, the block of depth k at position i attends to its own document only."""
    model = built({"mtp.depth": 1})
    x = tokens(1, 9).clamp_min(1)
    x[0, 3] = 0
    other = x.clone()
    other[0, 1] = (x[0, 1] % 60) + 1
    with torch.no_grad():
        one, two = (model(tokens_BT, mtp=True, document_end=0).mtp_logits[0] for tokens_BT in (x, other))
        same = alike(one, two)
    assert same == [False] * 4 + [True] * 4, "positions 0 to 3 are the first document, its end included"


@pytest.mark.parametrize("style", ["chained", "parallel", "linear"])
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_evaluate_mtp_against_a_plain_loop(built: Built, tokens: Tokens, style: str, depth: int) -> None:
    # a vocabulary in which guesses often agree, so that chains of every length occur
    model = built({"mtp.depth": depth, "mtp.style": style, "vocab_size": 3})
    batches = [tokens(5, 10, seed=1) % 3, tokens(3, 12, seed=2) % 3]
    measured = evaluate_mtp(model, batches)
    nats, accepted, count = [0.0] * depth, [0] * depth, 0
    with torch.no_grad():
        for batch in batches:
            length = batch.shape[1] - 1
            output = model(batch[:, :-1], mtp=True)
            for row in range(len(batch)):
                for i in range(length - depth):
                    count += 1
                    for k in range(1, depth + 1):
                        nats[k - 1] -= float(output.mtp_logits[k - 1][row, i].log_softmax(-1)[batch[row, i + k + 1]])
                    for k in range(1, depth + 1):  # a draft counts only if all before it were accepted
                        if output.mtp_logits[k - 1][row, i].argmax() != output.logits[row, i + k].argmax():
                            break
                        accepted[k - 1] += 1
    assert measured.losses == pytest.approx([n / count for n in nats], abs=1e-12)
    assert measured.acceptance == [a / count for a in accepted]
    assert measured.tokens_per_forward == pytest.approx(1 + sum(accepted) / count, abs=1e-12)
    assert 0 < accepted[-1] < count and accepted == sorted(accepted, reverse=True)


def test_evaluation_of_the_main_model_does_not_run_the_modules(built: Built, tokens: Tokens) -> None:
    batches = [tokens(3, 9)]
    with_two, without = evaluate(built(CHAIN), batches), evaluate(built(), batches)
    assert with_two.loss == without.loss and torch.equal(with_two.load_LE, without.load_LE)
    assert evaluate_mtp(built(), batches).tokens_per_forward == 1.0
