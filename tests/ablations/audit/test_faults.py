"""Each fault is found by the check that is there for it, and what is no fault by none."""

import foreign_models
import pytest
import torch
from torch import nn

from ablations.audit.case import case_of, undisturbed
from ablations.audit.checks import CHECKS, Report, audit
from ablations.audit.learning import derivative
from ablations.audit.subject import Plain
from ablations.audit.target import adapted


def looked_at(name: str) -> Report:
    return audit(adapted(getattr(foreign_models, name)()), name)


def outcomes(report: Report, outcome: str) -> set[str]:
    return {verdict.name for verdict in report.verdicts if verdict.outcome == outcome}


GOOD = ["Good", "TokensChoose", "DropsInTraining", "PerTokenFP8", "WithAuxiliary", "Bare"]


@pytest.mark.parametrize("name", GOOD)
def test_a_good_model_passes(name: str) -> None:
    report = looked_at(name)
    assert outcomes(report, "fails") == set() and report.passes
    assert [verdict.name for verdict in report.verdicts] == [check.name for check in CHECKS]
    untried = {"PerTokenFP8": {"derivative"}, "Bare": {"cache"}}.get(name, set())
    assert outcomes(report, "cannot be tried") == untried


FAULTS = {
    "AllOnesMask": ({"causality", "padding", "cache"}, "there is no causal mask"),
    "SeesOneAhead": ({"causality", "padding", "cache"}, "2 places ahead and no further: mask, or inputs, are off"),
    "LeaksInTraining": ({"causality"}, "in training alone: it sees to the end"),
    "LeaksBehindZeros": ({"causality", "padding", "cache"}, "there is no causal mask"),
    "LeaksALittle": ({"causality"}, "too little to show in values"),
    "ExpertsChoose": ({"causality", "rows", "padding", "cache"}, "no gradient leads there, so it is a choice"),
    "PerTensorFP8": ({"causality", "rows", "cache"}, "one quantisation scale for the whole tensor"),
    "WithBatchNorm": ({"causality", "rows", "determinism"}, "blocks.0.feed_forward.norm takes statistics"),
    "DropsInEvaluation": ({"determinism"}, "a functional dropout without training=self.training"),
    "WithDetached": ({"size", "derivative"}, "on blocks.0.feed_forward.down.weight: something detaches it"),
    "HalfTheGradient": ({"derivative"}, "a part is detached, counted twice"),
    "ShiftedTwice": ({"scoring"}, "shifted by 2: they are shifted twice"),
    "NotShifted": ({"scoring"}, "shifted by 0: each token predicts itself"),
    "Summed": ({"scoring"}, "it is a sum, and no mean"),
    "CacheOffByOne": ({"cache"}, "from place 1 on: position or mask is off by one"),
    "RemembersTheLast": ({"cache"}, "kept in the model, and not in the state"),
    "WithDead": ({"size"}, "1,056 are dead: no gradient reaches unused.weight, unused.bias; the loss does not depend"),
    "LargeStart": ({"start"}, "initial weights are too large"),
    "LongRowsDiffer": ({"padding", "cache"}, "how long a row is"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_found_and_named(name: str) -> None:
    checks, cause = FAULTS[name]
    report = looked_at(name)
    assert outcomes(report, "fails") == checks and not report.passes
    assert any(cause in verdict.detail for verdict in report.verdicts), [v.detail for v in report.verdicts]


def test_every_check_has_a_fault_that_it_alone_or_with_others_finds() -> None:
    assert set().union(*(checks for checks, _ in FAULTS.values())) == {check.name for check in CHECKS}


def test_experts_that_no_token_reached_are_not_dead() -> None:
    size = next(verdict for verdict in looked_at("TokensChoose").verdicts if verdict.name == "size")
    assert size.facts["dead"] == 0 and size.facts["unreached"] >= 8, "four tensors of an expert in each of two layers"


def test_a_dropout_that_eval_does_not_reach_is_named() -> None:
    class Hidden(foreign_models.Good):
        def __init__(self) -> None:
            super().__init__()
            self.drop = nn.Dropout(0.2)
            self.drop.eval = self.drop.train  # type: ignore[method-assign]

        def train(self, mode: bool = True) -> nn.Module:
            super().train(mode)
            self.drop.training = True
            return self

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            return self.head(self.drop(self.embed(tokens)))

    report = audit(adapted(Hidden()), "Hidden")
    assert "determinism" in outcomes(report, "fails")
    assert any("drop is still in training mode after eval()" in verdict.detail for verdict in report.verdicts)


def test_what_a_model_cannot_do_in_fp64_is_compared_in_its_own_type() -> None:
    class Single(foreign_models.Good):
        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            assert self.embed.weight.dtype == torch.float32
            return super().forward(tokens)

    class Leaking(Single):
        attention = foreign_models.Unmasked

    report = audit(adapted(Single()), "Single")
    assert report.dtype == "float32" and outcomes(report, "fails") == set()
    assert "causality" in outcomes(audit(adapted(Leaking()), "Leaking"), "fails")


@pytest.mark.parametrize("name", ["Good", "WithBatchNorm", "LeaksBehindZeros"])
def test_the_model_is_left_as_it_was(name: str) -> None:
    model = getattr(foreign_models, name)()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    audit(adapted(model), name)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not model.training and all(p.grad is None for p in model.parameters())


def test_a_model_that_raises_fails() -> None:
    class Raising(foreign_models.Good):
        def decode(self, tokens: torch.Tensor, state: object) -> tuple[torch.Tensor, object]:
            if state is not None:
                raise KeyError("kept")
            return super().decode(tokens, state)

    cache = next(verdict for verdict in audit(adapted(Raising()), "Raising").verdicts if verdict.name == "cache")
    assert (cache.outcome, cache.detail) == ("fails", "the model raises KeyError: 'kept'")


def test_logits_that_are_all_alike_are_no_pass() -> None:
    class Blind(nn.Module):
        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            return torch.zeros(*tokens.shape, 7)

    report = audit(Plain(Blind()), "Blind")
    assert {"causality", "rows", "padding"} <= outcomes(report, "fails")
    assert any("all logits are alike" in verdict.detail for verdict in report.verdicts)


def test_a_trained_model_has_no_start() -> None:
    report = audit(adapted(foreign_models.LargeStart(), trained=True), "trained")
    assert outcomes(report, "fails") == set() and outcomes(report, "cannot be tried") == {"start"}


def test_a_slope_is_measured_where_the_loss_is_rounded_to_fp32() -> None:
    class Rounded(foreign_models.HalfTheGradient):
        def loss(self, tokens: torch.Tensor) -> torch.Tensor:
            return super().loss(tokens).float()

    case = case_of(adapted(Rounded()), 3, 64)
    with undisturbed(case.exact.module, False):
        assert not derivative(case).passed
