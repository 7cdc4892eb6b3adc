"""The module of models is found as anybody's would be."""

import sys
from pathlib import Path

import torch

sys.path.append(str(Path(__file__).parent))
torch.set_num_threads(1)
