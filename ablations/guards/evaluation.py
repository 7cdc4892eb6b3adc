"""All arms are measured alike: without the rounding that one was trained with, and without a trace of its balancing."""

from dataclasses import replace

import torch

from ablations.guards.subject import Subject
from ablations.record.guardresult import Fact, GuardResult
from models.measure.evaluation import evaluate
from models.precision.config import PrecisionConfig
from models.transformer import Transformer

SHIFT, EXACT = 0.25, 1e-9


def evaluation(subject: Subject) -> GuardResult:
    """A named recipe's model is evaluated bit for bit as a BF16 model with its weights is; a constant added to the bias
    of every expert, which only the choice of experts sees, changes no logit; and nothing is left of training's passes
    but the weights."""
    wrong, facts = [], dict[str, Fact]()
    if subject.keys.model.precision.recipe != "auto":
        own, plain = evaluated_as_bf16(subject)
        facts |= {"loss": own, "loss_in_bf16": plain}
        if own != plain:
            wrong.append(f"its loss is {own:.6f}, and that of a BF16 model with its weights {plain:.6f}")
    model, tokens = subject.exact().eval(), subject.short[:2, :-1]
    with torch.no_grad():
        before = model(tokens).logits
        model.train()(subject.short[:, :-1])
        facts["change_by_training"] = traces = float((model.eval()(tokens).logits - before).abs().max())
    if not traces <= EXACT:
        wrong.append(f"a pass in training mode changes evaluation by {traces:.1e}: the model keeps something of it")
    biased = [router for router in model.routers() if router.balance.has_bias]
    if biased and subject.keys.model.moe.balance.bias_form == "additive":
        with torch.no_grad():
            for router in biased:
                router.e_score_correction_bias += SHIFT
            change = float((model(tokens).logits - before).abs().max())
        facts |= {"change_by_bias": change, "limit": EXACT}
        if not change <= EXACT:
            wrong.append(f"a bias that is the same for all experts changes logits by {change:.1e}: gates see it")
    if wrong:
        return GuardResult("evaluation", False, "; ".join(wrong), facts)
    return GuardResult("evaluation", True, "weights alone decide", facts)


def evaluated_as_bf16(subject: Subject) -> tuple[float, float]:
    """Loss of the model as the arm builds it, and of a plain BF16 model."""
    keys, batch = subject.keys, subject.short.to(subject.keys.train.device)
    own = subject.module().transformer
    plain = Transformer(replace(keys.model, dtype="bfloat16", precision=PrecisionConfig(recipe="bf16")))
    plain.load_state_dict(own.state_dict())
    plain = plain.to(keys.train.device)
    return evaluate(own, [batch], keys.document_end).loss, evaluate(plain, [batch], keys.document_end).loss
