"""A short trial under each precision recipe, by the very code that trains: does it run, how fast, and to which loss.

    python -m benchmarks.on_gpu_trials            # at scale=gpu, on a CUDA device
    python -m benchmarks.on_gpu_trials --quick    # at scale=smoke, on a CPU

The text is a skill, drawn as it is asked for, so that nothing is prepared. After each trial one JSON object of all so
far is printed. Seconds are those of the whole training, in which kernels are built and torch.compile works: tokens per
second are those of so short a training, and lower than a long one's.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

STEPS = 24
VARIANTS: dict[str, dict[str, Any]] = {
    "bf16": {"model.precision.recipe": "bf16"},
    "fp32": {"model.precision.recipe": "fp32", "model.dtype": "float32"},
    "fp8_block emulated": {"model.precision.recipe": "fp8_block"},
    "fp8_row emulated": {"model.precision.recipe": "fp8_row"},
    "fp8_tensor emulated": {"model.precision.recipe": "fp8_tensor"},
    "fp8_hybrid emulated": {"model.precision.recipe": "fp8_hybrid"},
}
ON_A_GPU: dict[str, dict[str, Any]] = {
    "fp8_block torch": {"model.precision.recipe": "fp8_block", "model.precision.kernels": "torch"},
    "fp8_block triton": {"model.precision.recipe": "fp8_block", "model.precision.kernels": "triton"},
    "bf16 compiled": {"model.precision.recipe": "bf16", "train.compile": True},
}


def scale_keys(name: str) -> dict[str, Any]:
    """Dotted keys of a trial that a scale's own file sets. Needs neither Hydra nor OmegaConf, as a trial does not."""
    import yaml

    from ablations.config.trialkeys import TRIAL_GROUPS
    from ablations.home import ROOT

    values = yaml.safe_load((ROOT / f"ablations/config/scales/{name}.yaml").read_text(encoding="utf-8"))

    def leaves(group: Mapping[str, Any], at: str) -> Iterator[tuple[str, Any]]:
        for key, value in group.items():
            if isinstance(value, Mapping):
                yield from leaves(value, f"{at}{key}.")
            else:
                yield at + key, value

    return {name: value for group in TRIAL_GROUPS for name, value in leaves(values.get(group, {}), f"{group}.")}


def trained(changes: Mapping[str, Any], quick: bool, folder: Path) -> dict[str, Any]:
    """What the trial's record says, or the line that refused it."""
    import torch

    from ablations.config.trialkeys import TrialKeys, with_overrides
    from ablations.config.trialrules import check
    from ablations.trial.job import TrialJob
    from ablations.trial.train import run_trial

    keys = with_overrides(TrialKeys(), scale_keys("smoke" if quick else "gpu"), "on_gpu_trials")
    steps, length = (4, 128) if quick else (STEPS, keys.data.seq_len)
    common = {
        "data.seq_len": length,
        "data.source": "skill",
        "data.skill": "recall",
        "train.tokens": steps * keys.data.batch_size * length,
        "train.device": "cpu" if quick else "cuda",
        "train.validate_every": 1.0,
        "train.checkpoint_every": 1.0,
        "eval.tokens": 2 * length,
        "eval.tasks": [],
    }
    given = check(with_overrides(keys, {"model.dtype": "bfloat16"} | common | dict(changes), "on_gpu_trials"))
    if not quick:
        torch.cuda.reset_peak_memory_stats()
    record = run_trial(TrialJob("on_gpu", given, 0, str(folder), str(folder.parent / "data")), lambda event: None)
    found = {
        "status": record.status,
        "reason": record.reason,
        "loss": record.metrics.get("loss"),
        "train_loss": record.history["loss"][-1] if record.history else None,
        "train_s": round(record.timings.get("train_s", 0.0), 2),
        "tokens_per_second": round(record.timings.get("tokens_per_second", 0.0)),
    }
    return found if quick else found | {"peak_bytes": torch.cuda.max_memory_allocated()}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="two recipes at scale=smoke, on a CPU")
    arguments = parser.parse_args()
    import torch

    from models.base.typed import ConfigError

    if not arguments.quick and not torch.cuda.is_available():
        print("on_gpu_trials: torch sees no CUDA device on this machine; --quick takes a CPU", file=sys.stderr)
        return 2
    torch.set_num_threads(1)
    variants = {name: VARIANTS[name] for name in ("bf16", "fp8_block emulated")} if arguments.quick else {}
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, changes) in enumerate((variants or VARIANTS | ON_A_GPU).items()):
            try:
                found[name] = trained(changes, arguments.quick, Path(folder) / str(number))
            except (ConfigError, RuntimeError) as error:  # one recipe's kernels, and no other's
                found[name] = {"status": "failed", "reason": (str(error).splitlines() or [repr(error)])[-1]}
            print(json.dumps({"benchmark": "on_gpu_trials", "trials": found}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
