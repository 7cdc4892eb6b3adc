"""One batch shared by two processes is trained on as by one: every loss, load and norm of every step."""

from typing import Any

import pytest
import torch
from parallel_cases import CASES, ParallelCase, trained
from stand_in_ranks import shares_batches

from ablations.launch.ranks import Hardware, run_ranks

RANKS = 2


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """By rank: what it found, by case."""
    folder = tmp_path_factory.mktemp("ranks")
    run_ranks(RANKS, shares_batches, (str(folder), CASES), Hardware())
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(RANKS)]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_two_ranks_train_as_one_process_does(case: ParallelCase, shared: list[dict[str, Any]]) -> None:
    alone, first, second = trained(case, "none"), shared[0][case.name], shared[1][case.name]
    torch.testing.assert_close(first["losses"], alone["losses"], rtol=0, atol=1e-6)
    torch.testing.assert_close(first["norms"], alone["norms"], rtol=1e-5, atol=1e-6)
    assert torch.equal(first["loads"], alone["loads"])
    assert alone["losses"][:, 0].std() > 0.01  # it learns something that could differ
    for name in alone:
        torch.testing.assert_close(first[name], alone[name], rtol=0, atol=2e-5)
        assert torch.equal(first[name], second[name]), f"{name}: ranks drift apart"
