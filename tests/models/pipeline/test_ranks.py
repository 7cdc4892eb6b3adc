"""Schedules on 2 and 4 real processes over gloo, against one process without a pipeline. One process with its forks
runs all cases (`rank_cases.py`), with `-m slow`; in every run `ablations/test_ranks_command.py` trains on two, and
`test_inprocess.py` has every schedule in one process."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from pipelines import MICROBATCHES, train, variant
from rank_cases import cases

from models.pipeline.parts import holders
from models.pipeline.ranks import messages
from models.pipeline.rules import schedule_of
from models.pipeline.schedules import SCHEDULES, make_schedule
from models.training.executor import Microbatching
from models.transformer import Transformer, initialise

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
Found = dict[int, list[dict[str, dict[str, Any]]]]


def reference(ranks: int, numbers: str, steps: int) -> dict[str, Any]:
    config = variant(numbers, ranks)
    model = Transformer(config)
    initialise(model, 3, config.std)
    gradients, results = train(model.train(), Microbatching(model, MICROBATCHES), steps, numbers == "masked")
    return {
        "gradients": gradients,
        "state": dict(model.state_dict()),
        "losses": [{name: float(value) for name, value in result.losses.items()} for result in results],
        "loads": [result.load_LE for result in results],
        "last_loads": [result.last_load_LE for result in results],
    }


def found_by_ranks(folder: Path) -> Found:
    """What each rank of 2 and of 4 found, by `schedule numbers`."""
    wanted = {(ranks, numbers, steps) for ranks in (2, 4) for _, numbers, steps in cases(ranks)}
    torch.save({" ".join(map(str, case)): reference(*case) for case in wanted}, folder / "reference.pt")
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{HERE}", "OMP_NUM_THREADS": "1"}
    words = [sys.executable, str(HERE / "rank_cases.py"), str(folder)]
    done = subprocess.run(words, env=environment, stderr=subprocess.PIPE, timeout=300)
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    return {n: [json.loads((folder / f"found{n}.{r}.json").read_text()) for r in range(n)] for n in (2, 4)}


def test_schedules_on_real_ranks_train_as_one_process_does(tmp_path: Path) -> None:
    """One test, because tests are spread over processes and each would start all ranks anew."""
    for ranks, found in found_by_ranks(tmp_path).items():
        whole = set(dict(Transformer(variant("fp32", ranks)).named_parameters()))
        for name in SCHEDULES:
            check_exact(name, [rank[f"{name} fp64"] for rank in found])
            check_parts(name, [rank[f"{name} fp64"] for rank in found], whole)
        for key in found[0]:
            for case in (rank[key] for rank in found):
                if "ours" in key or "masked" in key:
                    check_exact(key, [case])
                else:
                    assert case["gradients"] < (1e-12 if "fp64" in key else 1e-5), (ranks, key, case)


def check_exact(name: str, cases_of_ranks: list[dict[str, Any]]) -> None:
    """FP64: losses, first gradients, weights and biases after a clipped step on four ranks, after two on two
    ranks, with V3's schedule after four. Gathered, the model is whole and under its own names."""
    for case in cases_of_ranks:
        assert case["gradients"] < 1e-12 and case["state"] < 1e-12 and case["losses"] < 1e-12, (name, case)
        assert case["loads"] and case["copies"] and case["parameters"] == case["counted"], (name, case)
        assert case.get("whole", 0.0) < 1e-12, (name, case)
    assert ["whole" in case for case in cases_of_ranks[1:]] == [False] * (len(cases_of_ranks) - 1)


def check_parts(name: str, cases_of_ranks: list[dict[str, Any]], whole: set[str]) -> None:
    """Ranks hold every parameter, and no more than their own."""
    held = [set(case["held"]) for case in cases_of_ranks]
    assert set.union(*held) == whole and "whole" in cases_of_ranks[0]
    again = name in ("gpipe", "1f1b", "interleaved_1f1b", "zb1p")  # the embedding, with the MTP module
    assert sum(map(len, held)) == (2 * len(whole) if name == "dualpipe" else len(whole) + again)
    if name != "dualpipe" or len(held) > 2:
        assert all(own < whole for own in held)


def test_who_holds_what() -> None:
    config = variant("fp64")
    for name, embedding in (("1f1b", (0, 3)), ("dualpipe", (0, 3)), ("dualpipev", (0,))):
        piped = make_schedule(name, 8 if name == "dualpipev" else 4, MICROBATCHES)
        held = holders(config, piped)
        assert held["model.embed_tokens.weight"] == embedding
        assert held["lm_head.weight"] == {"1f1b": (3,), "dualpipe": (0, 3), "dualpipev": (0,)}[name]
        biases = {ranks for key, ranks in held.items() if key.endswith("e_score_correction_bias")}
        assert biases <= {(0, 3), (1, 2)} if name == "dualpipe" else all(len(ranks) == 1 for ranks in biases)


def test_every_message_has_one_sender_and_one_receiver_who_agree_on_its_place() -> None:
    for name in SCHEDULES:
        schedule = schedule_of(variant("fp64"), 8) if name == "none" else make_schedule(name, 8, 16)
        ranks = range(len(schedule.ranks))
        sent = [m for a in ranks for b in ranks if a != b for m in messages(schedule, a, b)]
        assert len(sent) == len(set(sent))
        crossing = (
            sum(homes[s] != homes[s + 1] for homes in schedule.homes for s in range(schedule.stages - 1))
            * schedule.microbatches
            // len(schedule.homes)
        )
        assert len(sent) == 2 * crossing, name
