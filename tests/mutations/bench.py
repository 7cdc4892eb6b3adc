"""Where mistakes are planted: small arms of `scale=smoke` and a little text, looked at as a sweep looks at them."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import numpy as np

from ablations.config.schema import MatchedConfig
from ablations.config.sweepfile import scale_config
from ablations.config.trialkeys import TrialKeys, with_overrides
from ablations.guards.arm import arm_guards
from ablations.guards.text import separation
from ablations.judge.distinct import apart, distinct
from ablations.judge.result import ArmResult
from ablations.record.documents import ArmDocument
from ablations.record.guardresult import GuardResult
from ablations.record.record import Record
from ablations.sweep.matching import budget, isolation
from ablations.sweep.yardstick import yardstick
from ablations.trial.bare import train_steps
from ablations.trial.fitting import build_model
from ablations.trial.measures import test_metrics
from tasks.text.batches import PackedData
from tasks.text.splits import SPLITS

ARMS: dict[str, dict[str, Any]] = {
    "bias": {},
    "aux_loss": {"model.moe.balance.kind": "aux_loss", "model.moe.balance.alpha": 0.01},
    "batch_aux_loss": {"model.moe.balance.kind": "aux_loss", "model.moe.balance.scope": "batch"},
    "mtp": {"model.mtp.depth": 2},
    "mha": {"model.attention.kind": "mha"},
    "scored": {"eval.tasks": ["python_bits_per_byte"]},
    "frozen": {"model.moe.balance.frozen_fraction": 0.3},
    "documents": {"data.mask_documents": True},
    "fp8": {"model.precision.recipe": "fp8_block", "model.dtype": "bfloat16", "model.precision.kernels": "emulated"},
    "pipeline": {
        "model.pipeline.schedule": "dualpipe", "model.pipeline.stages": 2, "model.pipeline.microbatches": 4,
        "model.mtp.depth": 1,
    },
}  # fmt: skip
"""Keys by arm. Each is what some mistakes need to be possible at all."""


@dataclass(frozen=True)
class Bench:
    data: PackedData

    def keys(self, arm: str) -> TrialKeys:
        usual = {"eval.tasks": [], "train.microbatches": 2}
        return with_overrides(scale_config("smoke").trial, {**usual, **ARMS[arm]}, arm)

    def arm(self, name: str) -> list[GuardResult]:
        """Guards of an arm's own model."""
        return arm_guards(self.keys(name), 0, self.data)

    def miscounted(self) -> list[GuardResult]:
        """Guards of an arm whose bits per byte count a byte more for each token."""
        data = copy.copy(self.data)
        data.token_bytes = data.token_bytes + 1
        return arm_guards(self.keys("scored"), 0, data)

    def beside_baseline(self, arm: str, changes: Mapping[str, Any], declared: list[str]) -> list[GuardResult]:
        """Guards of its keys and text; the baseline is the arm without the changes."""
        base = self.keys(arm)
        own, matched = with_overrides(base, changes, "changed"), MatchedConfig(tolerance=0.001)
        print_of = self.data.fingerprint
        others = {"validation": "b", "test": "c", "by_file": "d"}
        text = {**print_of, "tokens_sha256": others} if "data.max_bytes" in changes else print_of
        return [isolation(own, base, declared), budget(own, base, matched), yardstick(own, base, text, print_of)]

    def leaked(self, share: float) -> list[GuardResult]:
        """Of a text whose test split was learned from."""
        train = np.asarray(self.data.tokens("train"))
        own = np.asarray(self.data.tokens("test"))[:2000].copy()
        own[: int(share * len(own))] = train[: int(share * len(own))]
        splits = {split: np.asarray(self.data.tokens(split)) for split in SPLITS} | {"test": own}
        text: Any = SimpleNamespace(skill=None, tokens=splits.__getitem__, windows=lambda split: len(splits[split]))
        text.shared = lambda split: PackedData.shared(text, split)
        return [separation(text)]

    def finished(self, arms: Mapping[str, Mapping[str, Any]]) -> list[GuardResult]:
        """Guards of finished trials: arms are trained for a few steps, the first one is the baseline."""
        results = {name: self._trained(name, changes) for name, changes in arms.items()}
        plan = SimpleNamespace(baseline=next(iter(arms)), expected=[])
        return list(distinct(results, plan).values())  # type: ignore[arg-type]

    def _trained(self, name: str, changes: Mapping[str, Any]) -> ArmResult:
        keys = with_overrides(self.keys("bias"), changes, name)
        records = {}
        for seed in (0, 1):
            module = build_model(keys, seed)
            train_steps(module, [self.data.train_batch(seed, step) for step in range(2)], keys)
            metrics, load = test_metrics(
                replace(keys, eval=replace(keys.eval, tokens=256)), self.data, module.transformer
            )
            config = {"changes": dict(changes)}
            records[seed] = Record(f"{name}{seed}", seed, "complete", config, metrics=metrics, load=load)
        return ArmResult(name, ArmDocument.__new__(ArmDocument), [0, 1], records)

    def seeds(self, used: list[int], confirmed: list[int]) -> list[GuardResult]:
        result = apart(used, confirmed)
        return [] if result is None else [result]
