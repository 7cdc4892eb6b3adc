"""Schedules on 2 and 4 real processes over gloo, against one process without a pipeline. One spawn per number of ranks
runs all cases (`rank_cases.py`)."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from pipelines import MICROBATCHES, train, variant
from rank_cases import cases

from models.executor import Microbatching
from models.pipeline.parts import holders, schedule_of
from models.pipeline.ranks import messages
from models.pipeline.schedules import SCHEDULES, make_schedule
from models.transformer import Transformer, initialise

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
Found = dict[int, list[dict[str, dict[str, Any]]]]


def reference(numbers: str, steps: int) -> dict[str, Any]:
    config = variant("fp64" if numbers == "ours" else numbers)
    model = Transformer(config)
    initialise(model, 3, config.std)
    gradients, results = train(model.train(), Microbatching(model, MICROBATCHES), steps)
    return {
        "gradients": gradients,
        "state": dict(model.state_dict()),
        "losses": [{name: float(value) for name, value in result.losses.items()} for result in results],
        "loads": [result.load_LE for result in results],
        "last_loads": [result.last_load_LE for result in results],
    }


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    """What each rank of 2 and of 4 found, by `schedule numbers`."""
    folder = tmp_path_factory.mktemp("ranks")
    wanted = {(numbers, steps) for _, numbers, steps in cases(2)}
    torch.save({f"{n} {s}": reference(n, s) for n, s in wanted}, folder / "reference.pt")
    results: Found = {}
    for ranks in (2, 4):
        words = [sys.executable, str(HERE / "rank_cases.py")]
        environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{HERE}", "OMP_NUM_THREADS": "1"}
        started = [
            subprocess.Popen([*words, str(r), str(ranks), str(folder)], env=environment, stderr=subprocess.PIPE)
            for r in range(ranks)
        ]
        errors = [process.communicate(timeout=300)[1].decode()[-3000:] for process in started]
        assert all(process.returncode == 0 for process in started), "\n".join(errors)
        results[ranks] = [json.loads((folder / f"found{ranks}.{r}.json").read_text()) for r in range(ranks)]
    return results


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("name", SCHEDULES)
def test_ten_steps_on_real_ranks_are_those_of_one_process(found: Found, ranks: int, name: str) -> None:
    """FP64: losses, gradients of the first step, and weights and biases after ten clipped steps."""
    for rank in found[ranks]:
        case = rank[f"{name} fp64"]
        assert case["gradients"] < 1e-12 and case["state"] < 1e-12 and case["losses"] < 1e-12, case
        assert case["loads"] and case["copies"] and case["parameters"] == case["counted"]


@pytest.mark.parametrize("name", [name for name in SCHEDULES if name != "dualpipe"])
def test_our_runtime_gives_the_same_as_torchs(found: Found, name: str) -> None:
    for rank in found[2]:
        case = rank[f"{name} ours"]
        assert case["gradients"] < 1e-12 and case["state"] < 1e-12 and case["losses"] < 1e-12 and case["loads"], case


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("name", SCHEDULES)
def test_ranks_hold_every_parameter_and_no_more_than_their_own(found: Found, ranks: int, name: str) -> None:
    held = [set(rank[f"{name} fp64"]["held"]) for rank in found[ranks]]
    whole = set(reference("fp32", 1)["gradients"])
    assert set.union(*held) == whole
    copies = sum(map(len, held)) / len(whole)
    embedding_again = 1 if name in ("gpipe", "1f1b", "interleaved_1f1b", "zb1p") else 0  # with the MTP module
    assert copies == (2 if name == "dualpipe" else 1 + embedding_again / len(whole))
    if name != "dualpipe" or ranks > 2:
        assert all(own < whole for own in held)


@pytest.mark.parametrize("numbers", ["fp32", "fp8"])
@pytest.mark.parametrize("name", ["1f1b", "zbv", "dualpipe"])
def test_rounding_is_all_that_differs_in_fp32(found: Found, name: str, numbers: str) -> None:
    for rank in found[2]:
        assert rank[f"{name} {numbers}"]["gradients"] < 1e-5


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("name", SCHEDULES)
def test_the_whole_model_is_gathered_under_its_own_names(found: Found, ranks: int, name: str) -> None:
    assert found[ranks][0][f"{name} fp64"]["whole"] < 1e-12
    assert all("whole" not in rank[f"{name} fp64"] for rank in found[ranks][1:])


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
            sum(place[s] != place[s + 1] for place in schedule.places for s in range(schedule.stages - 1))
            * schedule.microbatches
            // len(schedule.places)
        )
        assert len(sent) == 2 * crossing, name
