"""What trained routers send between nodes, and what it gains to place their experts anew and twice.

    python -m benchmarks.expert_traffic              # trains five models, about 17 minutes on one core; then seconds
    python -m benchmarks.expert_traffic --quick      # does it run: 20 steps, figures that mean nothing
    python -m benchmarks.expert_traffic --publish    # copies the result to results/expert_traffic/

64 experts in 8 groups, 8 per token, trained on real text with node-limited routing (V3 2.1.2) to M = 1, 2, 4 of the 8
groups and without a limit (M8), balanced by V3's bias; and without balancing and limit (M8_unbalanced). Weights stay in
runs/expert_traffic/, so that a second call only routes. One seed: figures of routing, not a verdict on the loss.

A group is a node with 8 GPUs, an expert each. Sequences of the test split are dealt out to the GPUs; a token's
activations go to its experts and back in every MoE layer. Counted are copies and bytes (models/expert_parallel.py says
what is not); no time is measured and no network simulated. Bytes are given at V3's width, 7168: they are the tiny
model's decisions with V3's activations.

Placement: loads are counted on the validation split, the greedy placement is made from them once, and then judged on
the test split (V3 3.4 moves experts every ten minutes, by the load it saw). Imbalance is the busiest GPU's load over
the mean, 1 at best. `freely` places over all GPUs, `within nodes` as V3 3.4.1. With 64 GPUs, where each holds one
expert, replicas sit on further GPUs (V3 3.4.2), or in a second slot of each.

Writes table.md and traffic.json (all figures, and the loads) and prints the tables, then one JSON object; `ratio` is
the copies between nodes with M = 4 over those without a limit.
"""

import argparse
import dataclasses
import json
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

from benchmarks.expert_measures import BATCH, V3_WIDTH, nodes_if_placed_freely, placements, traffic
from benchmarks.expert_routing import ARMS, EXPERTS, NODES, TOP_K, arm_keys, route, trained

STEPS = 1200
EVALUATED = 131_072
"""Tokens of each split."""


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Every arm, trained where it is not yet. Raises ConfigError, Diverged."""
    import torch

    from ablations.trial.fitting import open_data
    from ablations.trial.identity import bits, code_hash

    torch.set_num_threads(1)
    folder = options.runs_dir / ("expert_traffic_quick" if options.quick else "expert_traffic")
    tokens = 2 * BATCH if options.quick else EVALUATED
    result: dict[str, Any] = {
        "benchmark": "expert_traffic",
        "command": shlex.join(["python", "-m", "benchmarks.expert_traffic", *options.asked]),
        "experts": EXPERTS,
        "top_k": TOP_K,
        "nodes": NODES,
        "bytes_at_width": V3_WIDTH,
        "tokens_per_batch": BATCH,
        "seed": options.seed,
        "code": code_hash(),
        "environment": bits(),
    }
    arms: dict[str, Any] = {}
    for arm, (limit, balance) in ARMS.items():
        keys = arm_keys(arm, options.steps, options.quick)
        data = open_data(keys, str(options.runs_dir / "data"))
        model, training = trained(arm, keys, options.seed, data, folder / arm)
        print(f"{arm}: routing {tokens:,} tokens of each split", file=sys.stderr, flush=True)
        before, later = route(model, data, "validation", tokens), route(model, data, "test", tokens)
        arms[arm] = {
            "limit": limit,
            "balance": balance,
            "training": training,
            "loss": later.loss,
            "tokens": later.experts_LNK.shape[1],
            "traffic": traffic(later, limit) | {"nodes_if_placed_freely": nodes_if_placed_freely(before, later)},
            "placements": placements(before, later),
            "load": {"calibration": before.load_LE.tolist(), "held_out": later.load_LE.tolist()},
        }
        result |= {"d_model": keys.model.d_model, "layers": len(later.experts_LNK), "dtype": keys.model.dtype}
        result |= {"steps": keys.steps, "tokens_per_step": keys.tokens_per_step, "data": data.fingerprint}
    sent = {arm: row["traffic"]["copies_between_nodes"]["once_per_node"] for arm, row in arms.items()}
    return {**result, "arms": arms, "ratio": round(sent["M4"] / sent["M8"], 3)}


def markdown(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, [":--"] + ["--:"] * (len(head) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def traffic_table(arms: dict[str, Any]) -> str:
    head = ["arm", "loss", "nodes per token", "random affinities", "even choice", "copies, once per node"]
    head += ["once per GPU", "within nodes", "busiest node", "KB, BF16", "KB, FP8", "KB, once per GPU, BF16"]
    head += ["nodes if placed freely"]
    rows = []
    for arm, row in arms.items():
        t = row["traffic"]
        sent, size = t["copies_between_nodes"], t["bytes_between_nodes"]
        figures = [row["loss"], t["nodes_per_token"], t["nodes_random_affinities"], t["nodes_uniform"]]
        figures += [sent["once_per_node"], sent["once_per_gpu"], t["copies_within_nodes"], t["busiest_node_received"]]
        kilobytes = [size[name] / 1e3 for name in ("once_per_node_bf16", "once_per_node_fp8", "once_per_gpu_bf16")]
        words = [f"{x:.3f}" for x in figures] + [f"{x:.1f}" for x in kilobytes]
        rows.append([arm, *words, f"{t['nodes_if_placed_freely']:.3f}"])
    return markdown(head, rows)


def balance_table(arms: dict[str, Any]) -> str:
    places = ("experts", "nodes", "within_nodes")
    rows = [[arm, *(f"{row['traffic']['max_vio'][place]:.3f}" for place in places)] for arm, row in arms.items()]
    return markdown(["arm", "MaxVio of experts (or of 64 GPUs)", "of nodes", "of GPUs within a node"], rows)


def placement_table(arms: dict[str, Any], name: str, bound: bool) -> str:
    rows = []
    for number, setting in enumerate(next(iter(arms.values()))["placements"]):
        cells = [str(setting["gpus"]), str(setting["replicas"]), setting["how"]]
        for row in arms.values():
            found = row["placements"][number]
            cells.append(f"{found[name]:.3f}" + (f" ({found[f'{name}_bound']:.3f})" if bound else ""))
        rows.append(cells)
    return markdown(["GPUs", "replicas", "placed", *arms], rows)


def shown(result: dict[str, Any]) -> str:
    arms = result["arms"]
    return f"""# Expert traffic and placement

{result["experts"]} experts in {result["nodes"]} groups, {result["top_k"]} per token, {result["layers"]} MoE layers, \
d_model {result["d_model"]}; {result["steps"]} steps of {result["tokens_per_step"]:,} tokens, seed {result["seed"]}; \
routed: {arms["M8"]["tokens"]:,} tokens of the test split. One seed: no verdict on the loss.

## Between nodes

{traffic_table(arms)}

Per token and layer, forward, means over layers. Random affinities: the same routing with nothing learned; even \
choice: closed form, all sets of {result["top_k"]} experts on M nodes equally likely. Within nodes: copies over NVLink \
if a node gets one. Busiest node: copies that it receives over the mean. KB: there and back at width \
{result["bytes_at_width"]}; the combine is BF16. Nodes if placed freely: with experts moved over 16 GPUs without \
regard to their groups.

## Balance

{balance_table(arms)}

On the test split: the busiest over the mean, minus 1.

## Imbalance on the test split

Busiest GPU over the mean, experts placed by the load of the validation split; in brackets the least possible for the \
test split's own load. More than 64 GPUs have a lower mean, too: times 64 / GPUs is the busiest over the mean of 64.

{placement_table(arms, "held_out", True)}

## Imbalance on the validation split

What the placement was made from; in brackets the least possible.

{placement_table(arms, "calibration", True)}

## Imbalance within batches of the test split

Mean over batches of {result["tokens_per_batch"]:,} tokens: what a step waits for.

{placement_table(arms, "batches", False)}
"""


def publish(result: dict[str, Any], folder: Path) -> Path:
    """Copies traffic.json, with the commit, and table.md. Raises ConfigError where that would mix code or mislead."""
    from ablations.files import write_json
    from ablations.home import ROOT
    from ablations.show.provenance import commit
    from models.base.typed import ConfigError

    codes = {row["training"]["code"] for row in result["arms"].values()}
    if len(codes) > 1:
        raise ConfigError(f"--publish: the arms were trained by {len(codes)} states of the code; remove {folder}/M*")
    target = ROOT / "results" / "expert_traffic"
    made_by = commit()
    if made_by.commit_unknown is not None:
        print(f"warning: {target / 'traffic.json'} has no commit: {made_by.commit_unknown}", file=sys.stderr)
    write_json(target / "traffic.json", result | dataclasses.asdict(made_by))
    shutil.copyfile(folder / "table.md", target / "table.md")
    return target


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--steps", type=int, help=f"of training, for each of five models ({STEPS}; with --quick, 20)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"), help="keeps data, weights and result")
    parser.add_argument("--quick", action="store_true", help="a tiny model, few steps: does it run")
    parser.add_argument("--publish", action="store_true", help="copy the result to results/expert_traffic/")
    options = parser.parse_args()
    options.asked = [word for word in sys.argv[1:] if word != "--publish"]
    options.steps = options.steps or (20 if options.quick else STEPS)
    if options.publish and (options.quick or options.steps < STEPS):
        parser.error(f"--publish: a router of fewer than {STEPS} steps is not worth publishing")
    from ablations.files import write_json
    from models.base.files import write_atomically
    from models.base.typed import ConfigError
    from models.module import Diverged

    folder = options.runs_dir / ("expert_traffic_quick" if options.quick else "expert_traffic")
    try:
        result = measure(options)
        write_json(folder / "traffic.json", result)
        write_atomically(folder / "table.md", shown(result))
        if options.publish:
            print(publish(result, folder), file=sys.stderr)
    except (ConfigError, Diverged) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(shown(result))
    brief = {key: result[key] for key in ("benchmark", "steps", "seed", "ratio")}
    print(json.dumps(brief | {"result": str(folder / "traffic.json")}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
