"""Training speed of a `scale=cpu` trial: of this checkout, of others, and of transformers' model at the same size.

    python -m benchmarks.trial_speed [against=CHECKOUT ...] [rounds=15] [scale=cpu] [KEY=VALUE ...]

Each side is a process of its own with one thread, and they take steps in turns, so that what slows the machine slows
all; the fastest steps count. The same trial is then taken in as many processes at once as there are cores. A checkout
is a folder with this project at another commit; its own recipe at the scale is what it trains. Prints one JSON object:
tokens/s of each, ours over theirs, and what all cores give over one.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from ablations.config.compose import compose
from ablations.home import ROOT
from ablations.launch.environment import thread_environment
from ablations.sweep.planning import make_plan
from models.base.command import parse
from models.base.streams import obeyed, spoken
from models.base.typed import AtLeast, ConfigError

STEPS = 5
"""Taken at each turn."""
TOGETHER_TURNS = 8


@dataclass(frozen=True)
class Asked:
    """Beside `against`, and the words of `ablations.run`."""

    rounds: Annotated[int, AtLeast(1)] = 15


OURS = """
import sys, time, torch
torch.set_num_threads(1)
from functools import partial
try:
    from models.training.optim import adamw
except ImportError:  # at the commits of before, places had other names
    from models.optim import adamw
try:
    from ablations.config.compose import compose
    from ablations.sweep.planning import make_plan
    from ablations.trial.bare import train_steps
    from ablations.trial.train import build_model, open_data
except ImportError:
    from ablations import trial
    from ablations.config import compose
    from ablations.guards import train_steps
    from ablations.plan import make_plan
    from ablations.trial import build_model
    from ablations.trialkeys import typed_trial
    def open_data(keys, cache):
        return trial.open_data(keys.data, keys.model.vocab_size, cache)
else:
    typed_trial = lambda keys: keys
keys = typed_trial(make_plan(compose(sys.argv[2:])).baseline.keys)
module, batch = build_model(keys, 0), open_data(keys, sys.argv[1]).train_batch(0, 0)
step = partial(train_steps, module, [batch], keys, adamw(module.transformer, keys.optim))
tokens = keys.tokens_per_step
"""
THEIRS = """
import sys, time, torch
torch.set_num_threads(1)
import transformers
transformers.logging.set_verbosity_error()
from benchmarks import train_step
from models.transformer import resolve_dtype
train_step.SIZE = "tiny"
rows, length = 8, 128
batch = torch.randint(0, 1024, (rows, length + 1))
dtype = resolve_dtype("auto", "cpu")
kinds = [(experts, attention) for experts in train_step.EXPERTS for attention in ("sdpa", "eager")]
made = {kind: train_step.theirs(dtype, *kind, "cpu") for kind in kinds}
best = min(made, key=lambda kind: train_step.fastest(made[kind], batch, 3))
step, tokens = lambda: made[best](batch), rows * length
"""
TURNS = """
step()
print("ready", flush=True)
for line in sys.stdin:
    taken = []
    for _ in range(int(line)):
        started = time.perf_counter()
        step()
        taken.append(time.perf_counter() - started)
    print(tokens / min(taken), len(taken) * tokens / sum(taken), flush=True)
"""


class Side:
    """A process that takes steps when it is told to."""

    def __init__(self, folder: Path, script: str, words: list[str]) -> None:
        variables = {**os.environ, **thread_environment(1), "PYTHONPATH": str(folder), "HF_HUB_OFFLINE": "1"}
        command = [sys.executable, "-c", script + TURNS, str(ROOT / "runs/data"), *words]
        self.process = subprocess.Popen(
            command, cwd=folder, env=variables, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._answer()

    def begin(self, steps: int) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{steps}\n")
        self.process.stdin.flush()

    def end(self) -> tuple[float, float]:
        """Tokens/s of the fastest step, and of all."""
        fastest, mean = self._answer().split()
        return float(fastest), float(mean)

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()

    def _answer(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"a side ended with exit code {self.process.wait()}")
        return line


def in_turns(sides: Mapping[str, Side], rounds: int) -> dict[str, float]:
    """Tokens/s of each side's fastest step."""
    best = dict.fromkeys(sides, 0.0)
    for done in range(rounds):
        for name in list(sides) if done % 2 == 0 else reversed(list(sides)):
            sides[name].begin(STEPS)
            best[name] = max(best[name], sides[name].end()[0])
        print(f"round {done + 1} of {rounds}", file=sys.stderr)
    return best


def at_once(make: Any, count: int) -> float:
    """What so many processes at once give over one, of all their steps; in turns, twice."""
    sides = [make() for _ in range(count)]
    alone, together = [], []
    for _ in range(2):
        sides[0].begin(STEPS * TOGETHER_TURNS)
        alone.append(sides[0].end()[1])
        for side in sides:
            side.begin(STEPS * TOGETHER_TURNS)
        together.append(sum(side.end()[1] for side in sides))
    for side in sides:
        side.close()
    return max(together) / max(alone)


def found(words: Sequence[str]) -> dict[str, Any]:
    """What the command prints. Raises ConfigError, before anything is started, for words that cannot be obeyed."""
    own = ("against", "rounds")
    asked = parse(Asked, [word for word in words if word.startswith("rounds=")])
    others = [Path(word.partition("=")[2]).resolve() for word in words if word.startswith("against=")]
    for folder in others:
        if not (folder / "ablations/run.py").is_file():
            raise ConfigError(f"against={folder}: is no checkout of this project; name the folder of one")
    keys = [word for word in words if word.partition("=")[0] not in own]
    keys = ["sweep=moe_balance", *([] if any(word.startswith("scale=") for word in keys) else ["scale=cpu"]), *keys]
    make_plan(compose(keys))
    sides = {"ours": Side(ROOT, OURS, keys), "transformers": Side(ROOT, THEIRS, [])}
    sides |= {str(folder): Side(folder, OURS, keys) for folder in others}
    rates = in_turns(sides, asked.rounds)
    for side in sides.values():
        side.close()
    cores = len(os.sched_getaffinity(0))
    return {
        "benchmark": "trial_speed",
        "tokens_per_second": {name: round(rate) for name, rate in rates.items()},
        "ours_over": {name: round(rates["ours"] / rate, 3) for name, rate in rates.items() if name != "ours"},
        "cores": cores,
        "all_cores_over_one": round(at_once(lambda: Side(ROOT, OURS, keys), cores), 3),
    }


def main(words: Sequence[str]) -> int:
    if {"-h", "--help"} & set(words):
        print(__doc__)
        return 0

    def work() -> int:
        print(json.dumps(found(words)))
        return 0

    return obeyed(work)


if __name__ == "__main__":
    sys.exit(spoken(lambda: main(sys.argv[1:])))
