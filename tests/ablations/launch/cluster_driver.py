"""A scheduler in a process of its own, for the tests of launchers: `cluster_driver.py FOLDER LAUNCHER JOBS [ADDRESS]`.

Runs the jobs of the JSON file JOBS, prints each event as a line of JSON, and at last the outcomes.
"""

import json
import sys
from pathlib import Path
from typing import Any

from ablations.launch.host import Order
from ablations.launch.job import Job, Launcher

folder, kind, jobs = Path(sys.argv[1]), sys.argv[2], json.loads(Path(sys.argv[3]).read_text())
address = sys.argv[4] if len(sys.argv) > 4 else None
order = Order(str(folder / "logs"), {"PYTHONPATH": str(Path(__file__).parent), "OMP_NUM_THREADS": "3"}, "pool_kinds")


def launcher() -> Launcher:
    if kind == "ray":
        from ablations.launch.ray_pool import RayPool

        return RayPool(order, 2, address)
    from ablations.launch.slurm_pool import SlurmPool

    return SlurmPool(order, 2, address, poll=0.05)


def told(key: str, event: dict[str, Any]) -> None:
    print(json.dumps({"key": key, **event}), flush=True)


with launcher() as running:
    for round in jobs:
        outcomes = running.run([Job(**job) for job in round["jobs"]], told, round.get("limit"))
        print(json.dumps({key: vars(outcome) for key, outcome in outcomes.items()}), flush=True)
