"""One small text for all mistakes."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parent))
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory):
    from bench import Bench

    from tasks.config import DataConfig
    from tasks.text.batches import prepare

    return Bench(prepare(DataConfig(max_bytes=400_000, seq_len=32, batch_size=8), 512, tmp_path_factory.mktemp("text")))
