"""Decoding is the same function as the forward pass: plain, absorbed, and with MTP's drafts."""

import torch
from torch import Tensor

from ablations.guards.subject import Subject
from ablations.record.guardresult import Fact, GuardResult
from models.generate import Cache, absorbing, decode
from models.kinds import attention_of
from models.layers import inferring
from models.speculative import self_speculative
from models.transformer import Transformer

EXACT = 1e-9
TOKENS, PROMPT = 12, 4


def decoding(subject: Subject) -> GuardResult:
    """In FP64, without document masks, which decoding does not know."""
    model = subject.exact().eval()
    tokens = subject.few[:2, :TOKENS]
    forms = {"cached": False} | ({"absorbed": True} if attention_of(model.config).absorbs else {})
    off = {name: largest_difference(model, tokens, form) for name, form in forms.items()}
    facts: dict[str, Fact] = {**off, "limit": EXACT}
    wrong = [f"{name} logits differ by {value:.1e}" for name, value in off.items() if not value <= EXACT]
    if model.config.mtp.depth:
        facts["drafts_agree"] = agree = drafted_alike(model, tokens[:, :PROMPT])
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


def drafted_alike(model: Transformer, prompts_BP: Tensor) -> bool:
    """Self-speculative decoding's tokens are those that forward passes choose one by one."""
    text = prompts_BP
    with inferring(model):
        for _ in range(TOKENS - PROMPT):
            text = torch.cat((text, model(text).logits[:, -1:].argmax(dim=-1)), dim=1)
        made = self_speculative(model, prompts_BP, TOKENS - PROMPT).tokens
    return torch.equal(made, text[:, prompts_BP.shape[1] :])
