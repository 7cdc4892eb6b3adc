"""What is tried before anything is begun: the text is there, the machine has what the plan asks for, and the end is
near, unless more was asked for."""

import importlib.util
import os

from ablations.sweep.plan import Plan
from models.base.typed import ConfigError
from tasks.text.sources import source_state

DAY_MINUTES = 24 * 60
CROWD = 4
"""Workers, and threads of one, for each core: beyond that they only wait for each other."""


def check_text(plan: Plan) -> None:
    """Raise ConfigError where an arm's text is not there. Reads listings alone."""
    for data in {arm.keys.data for arm in plan.arms.values()}:
        source_state(data)


def text_remarks(plan: Plan) -> list[str]:
    """What the text gives of the tokens that are asked for: known once it was prepared, or bounded by its bytes."""
    keys, known, most, lines = plan.baseline.keys, plan.text, plan.held_out, list[str]()
    if known is not None:
        passes = keys.trained_tokens / known["train"]
        lines.append(f"{known['train']:,} training tokens, each read {passes:.2g} times in a trial")
    if most is not None and keys.eval.tokens > most:
        have = f"the smaller held-out split has {most:,}" if known else f"data.max_bytes={most} cannot give as many"
        lines.append(f"eval.tokens={keys.eval.tokens}: {have}; what there is is used")
    return lines


def is_long(plan: Plan) -> bool:
    return plan.minutes > DAY_MINUTES


def check_start(plan: Plan) -> None:
    """Raise ConfigError where the plan cannot be run here, or would for more than a day without being told to."""
    check_launch(plan.config.launch.kind)
    if not plan.config.launch.elsewhere:
        check_device(plan)
        _check_cores(plan)
    if is_long(plan) and not plan.config.yes_really:
        from ablations.launch.phase import duration

        raise ConfigError(
            f"yes_really=false: this is expected to take {duration(60 * plan.minutes)}, more than a day; ask for less "
            "(train.tokens, seeds, arms, scale), or add yes_really=true"
        )


def check_launch(kind: str) -> None:
    """Raise ConfigError where the package that reaches other machines is not installed."""
    package = {"ray": "ray", "slurm": "submitit"}.get(kind)
    if package is not None and importlib.util.find_spec(package) is None:
        raise ConfigError(
            f"launch={kind}: {package} is not installed; `pip install -r requirements-cluster.lock -e '.[cluster]'` "
            "brings it"
        )


def _check_cores(plan: Plan) -> None:
    most = max(8, CROWD * (os.cpu_count() or 1))
    for key, value in (
        ("launch.workers", plan.config.launch.workers or 1),
        ("train.threads", plan.config.train.threads),
        ("train.devices", 1 if plan.on_gpu else plan.devices),
    ):
        if value > most:
            raise ConfigError(f"{key}={value}: this machine has {os.cpu_count()} cores; at most {most}")


def check_device(plan: Plan) -> None:
    """Raise ConfigError where an arm wants a GPU that torch does not see, or a compiler that is not there."""
    import torch

    if plan.on_gpu and not torch.cuda.is_available():
        raise ConfigError(
            "train.device=cuda: torch sees no CUDA device on this machine; take scale=cpu or train.device=cpu "
            "(dry_run=true prints the plan without one)"
        )
    if plan.on_gpu and 1 < plan.devices > (seen := torch.cuda.device_count()):
        raise ConfigError(f"train.devices={plan.devices}: torch sees {seen} CUDA devices here; at most {seen}")
    compiled = {each.train.device for arm in plan.arms.values() for each in arm.keys.all_stages if each.train.compile}
    for device in sorted(compiled):
        from models.training.compiled import missing_compiler

        if missing := missing_compiler(device):
            raise ConfigError(
                f"train.compile=true: this machine lacks {missing}; install it, or take train.compile=false"
            )
