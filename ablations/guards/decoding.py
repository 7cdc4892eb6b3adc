"""Decoding is the same function as the forward pass: plain, absorbed, and with MTP's drafts."""

import torch
from torch import Tensor

from ablations.guards.subject import Subject
from ablations.record.guardresult import Fact, GuardResult
from models.decoding.generate import Cache, absorbing, decode
from models.decoding.speculative import self_speculative
from models.kinds import attention_of
from models.layers import inferring
from models.transformer import Transformer

EXACT = 1e-9
TOKENS, DRAFTED = 72, 12
"""Read one by one (beyond a multiple of the slots that attention looks at), and drafted."""


def decoding(subject: Subject) -> GuardResult:
    """In FP64, without document masks, which decoding does not know."""
    model = subject.exact().eval()
    tokens = subject.few[:2, :TOKENS]
    forms = {"cached": False} | ({"absorbed": True} if attention_of(model.config).absorbs else {})
    off = {name: largest_difference(model, tokens, form) for name, form in forms.items()}
    off["prompted"] = from_prompts(model, tokens)
    facts: dict[str, Fact] = {**off, "limit": EXACT}
    wrong = [f"{name} logits differ by {value:.1e}" for name, value in off.items() if not value <= EXACT]
    if beside := kept_beside(model, tokens):
        wrong.append(f"a layer's cache holds {beside} bytes that it does not count")
    if model.config.mtp.depth:
        facts["drafts_agree"] = agree = drafted_alike(model, tokens[:, : DRAFTED // 3])
        wrong += [] if agree else ["decoding with drafts chooses other tokens than the forward pass"]
    if wrong:
        return GuardResult("decoding", False, "; ".join(wrong), facts)
    return GuardResult("decoding", True, f"logits differ by {max(off.values()):.1e} at most", facts)


def largest_difference(model: Transformer, tokens_BT: Tensor, absorb: bool) -> float:
    """Of a logit, from one forward pass to a pass for each token."""
    rows, length = tokens_BT.shape
    with inferring(model), absorbing(model, absorb):
        whole = model(tokens_BT).logits
        cache = Cache(model, rows, length)
        steps = [decode(model, tokens_BT[:, t : t + 1], [t] * rows, cache)[0] for t in range(length)]
    return float((torch.cat(steps, dim=1) - whole).abs().max())


def from_prompts(model: Transformer, tokens_BT: Tensor) -> float:
    """The same, where prompts are read at once, and rows then stand at places of their own: what a longer prompt's
    reading has left behind a shorter one is to be written over before it is seen."""
    rows, length = tokens_BT.shape
    starts = [max(1, length // 2 - row) for row in range(rows)]
    with inferring(model):
        whole = model(tokens_BT).logits
        cache = Cache(model, rows, length)
        read = decode(model, tokens_BT[:, : max(starts)], [0] * rows, cache)[0]
        worst = float((read - whole[:, : max(starts)]).abs().max())
        row = torch.arange(rows)
        for step in range(length - max(starts)):
            places = torch.tensor(starts) + step
            logits = decode(model, tokens_BT[row, places].unsqueeze(1), places.tolist(), cache)[0]
            worst = max(worst, float((logits[:, 0] - whole[row, places]).abs().max()))
    return worst


def kept_beside(model: Transformer, tokens_BT: Tensor) -> int:
    """Bytes that layers' caches hold after a pass, beyond those that they say."""
    with inferring(model):
        cache = Cache(model, *tokens_BT.shape)
        decode(model, tokens_BT, [0] * len(tokens_BT), cache)
    held = [v for layer in cache.layers for value in vars(layer).values() for v in _tensors(value)]
    return sum(tensor.nbytes for tensor in held) - sum(layer.nbytes for layer in cache.layers)


def _tensors(value: object) -> list[Tensor]:
    parts = value if isinstance(value, list | tuple) else value.values() if isinstance(value, dict) else [value]
    return [part for part in parts if isinstance(part, Tensor)]


def drafted_alike(model: Transformer, prompts_BP: Tensor) -> bool:
    """Self-speculative decoding's tokens are those that forward passes choose one by one."""
    text = prompts_BP
    with inferring(model):
        for _ in range(DRAFTED - DRAFTED // 3):
            text = torch.cat((text, model(text).logits[:, -1:].argmax(dim=-1)), dim=1)
        made = self_speculative(model, prompts_BP, DRAFTED - DRAFTED // 3).tokens
    return torch.equal(made, text[:, prompts_BP.shape[1] :])
