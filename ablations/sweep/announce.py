"""What a run is about to do, for the eyes."""

import math
from pathlib import Path

from ablations.judge.grid import LEARNING_RATE
from ablations.judge.vertex import RATES, SEEDS
from ablations.launch.phase import duration
from ablations.numbers import settings
from ablations.record.documents import shape_of
from ablations.sweep.plan import Arm, Plan
from ablations.sweep.preflight import is_long, text_remarks
from ablations.trial.uploads import destination
from models.cost import DOLLARS_PER_GPU_HOUR
from models.layout import training_bytes


def describe(plan: Plan) -> str:
    """The question, the arms, the numbers of trials, and how long it will take."""
    sweep = plan.sweep
    width = max(len(name) for name in plan.arms)
    lines = [
        "",
        f"Question  {' '.join(sweep.question.split())}",
        f"Source    {' '.join(sweep.source.split())}",
        "",
        f"{'arm':{width}}  {'params':>8} {'active':>8} {'tokens':>8} {'tok/active':>10}  what it is",
    ]
    for arm in plan.arms.values():
        size, tokens = arm.cost, arm.keys.trained_tokens
        lines.append(
            f"{arm.name:{width}}  {_short(size.total_params):>8} {_short(size.active_params):>8} {_short(tokens):>8} "
            f"{tokens / size.active_params:>10.2f}  {arm.about}"
            + (" (baseline)" if arm is plan.baseline else "")
            + "".join(f" ({key}={value}, solved)" for key, value in arm.solved.items())
        )
    base = plan.baseline.keys
    seeds = ", ".join(map(str, plan.seeds))
    if plan.published is not None:
        search = "published values, nothing is searched"
    else:
        each = max(len(a.grid(plan.shared)) * len(plan.search_seeds(a)) for a in plan.searched_arms)
        search = f"fresh, {each} trials per arm, {plan.search_trials} in all"
        if any(_unbounded(plan, arm) for arm in plan.searched_arms):
            search += f"; fewer than {RATES} learning rates or {SEEDS} seeds leave what is claimed of the loss open"
        if plan.fresh_because:
            search += f" ({plan.fresh_because}, so it searches afresh)"
    confirm = len(plan.arms) * len(plan.seeds)
    branches = [name for name, arm in plan.arms.items() if arm.keys.branched]
    at = ", ".join(f"{share:.0%}" for share in sorted(plan.sweep.horizons))
    who = "every arm goes on" if len(branches) == len(plan.arms) else f"{', '.join(branches)} go on"
    trained = f", trained with {settings(plan.sweep.trunk)}" if plan.sweep.trunk else ""
    lines += [
        "",
        f"Scale     {plan.config.scale}: {base.model.dtype}, {base.steps} steps of {base.tokens_per_step:,} tokens in "
        f"{base.microbatches} microbatch{'es' * (base.microbatches > 1)}, data {base.data.source}"
        f"{', blocks compiled' if base.train.compile else ''}",
        *(
            [f"Design    {who} from the baseline's state at {plan.sweep.branch_at:.0%} of its steps{trained}"]
            if branches
            else []
        ),
        *([f"Lengths   also {at} of the tokens, off one trunk"] if plan.sweep.horizons else _one_length(plan)),
        f"Search    {search}",
        f"Confirm   {len(plan.arms)} arms x {len(plan.seeds)} seeds ({seeds}) = {confirm} trials"
        + (f", fewer where no claim is open after {' or '.join(map(str, plan.looks[:-1]))}" if plan.looks else ""),
        *(
            [f"Devices   up to {plan.devices} processes share a trial's batches; speed and memory are measured on one"]
            if plan.devices > 1
            else []
        ),
        *(f"Text      {remark}" for remark in text_remarks(plan)),
        f"W&B       {destination(plan.config.track, Path(plan.config.runs_dir).absolute())}",
        *_where(plan),
        f"Expected  about {duration(plan.minutes * 60)} with {plan.workers} worker{'s' * (plan.workers != 1)}"
        + ("; more than a day is begun with yes_really=true" if is_long(plan) else ""),
        *(_of_gpus(plan) if plan.on_gpu else []),
        *([f"Note      {plan.config.note}"] if plan.config.note else []),
        "",
    ]
    return "\n".join(lines)


def _one_length(plan: Plan) -> list[str]:
    """Said of whole trainings of other shapes, whose order may turn as they go on."""
    arms = [arm for arm in plan.arms.values() if arm.kind == "arm" and not arm.keys.branched]
    other = [arm.name for arm in arms if shape_of(arm.cost) != shape_of(plan.arms[plan.rival(arm.name)].cost)]
    if not other:
        return []
    do = "differs" if len(other) == 1 else "differ"
    return [
        f"Lengths   one, and {', '.join(other)} {do} in shape: horizons in the sweep's file ask whether an order lasts"
    ]


def _unbounded(plan: Plan, arm: Arm) -> bool:
    """Whether it searches too few learning rates, or seeds, for a bound on what its rate may cost."""
    rates = {point[LEARNING_RATE] for point in arm.grid(plan.shared) if LEARNING_RATE in point}
    return len(rates) > 1 and (len(rates) < RATES or len(plan.search_seeds(arm)) < SEEDS)


def _where(plan: Plan) -> list[str]:
    """Where trials run, if not in processes of this machine, and what each takes there."""
    launch, threads = plan.config.launch, plan.config.train.threads
    if launch.kind == "local":
        return []
    place = f"ray, {launch.address or 'a cluster of this machine alone'}"
    if launch.kind == "slurm":
        options = ", ".join(f"{name}={value}" for name, value in launch.slurm.items())
        place = "slurm, tried out on this machine" if launch.address else f"slurm{f' ({options})' if options else ''}"
    cpus = threads * plan.devices
    gpus = f" and {'a GPU' if plan.devices == 1 else f'{plan.devices} GPUs'}" if plan.on_gpu else ""
    takes = f"{cpus} CPU{'s' * (cpus != 1)}{gpus}"
    return [f"Launch    {place}: {plan.workers} at once, each with {takes}"]


def _of_gpus(plan: Plan) -> list[str]:
    """What it costs and asks of each; reckoned."""
    keys, hours = plan.baseline.keys, plan.minutes / 60 * plan.workers * plan.devices
    shards = keys.train.devices if keys.train.strategy == "fsdp" else 1
    rows = keys.data.batch_size / max(keys.microbatches, keys.train.devices)
    state, kept = training_bytes(keys.model, keys.data.seq_len, rows, shards)
    dollars = f"${hours * DOLLARS_PER_GPU_HOUR:,.0f} at ${DOLLARS_PER_GPU_HOUR:g} each"
    return [
        f"Cost      about {hours:,.{0 if hours >= 10 else 1}f} GPU hours, {dollars}",
        f"Memory    about {(state + kept) / 1e9:.1f} GB of each GPU, of which {kept / 1e9:.1f} for the backward",
    ]


def _short(count: float) -> str:
    for unit, size in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if count >= size:
            return f"{count / size:.{max(0, 2 - int(math.log10(count / size)))}f}{unit}"
    return str(int(count))
