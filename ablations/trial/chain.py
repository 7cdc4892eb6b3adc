"""What is asked of a whole chain of stages: how far it has come from where it began."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ablations.config.trialkeys import TrialKeys
from models.base.files import whole_file
from models.measure.drift import drift
from models.transformer import Transformer
from tasks.config import END_OF_TEXT_ID
from tasks.prepared import Data
from tasks.problems.data import ProblemData

BASE = "base.safetensors"
"""The weights that the first stage has left: what later ones are measured from, where answers are learned."""
QUESTIONS, ANSWERS = 128, 4
"""Of the test split, and answers drawn to each, that the distance is measured on."""


def save_base(folder: Path, weights: Mapping[str, Tensor]) -> None:
    from safetensors.torch import save_file

    with whole_file(folder / BASE) as temporary:
        save_file({name: value.detach().cpu().contiguous() for name, value in weights.items()}, temporary)


def readable_base(folder: Path) -> bool:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        load_file(folder / BASE)
    except (OSError, SafetensorError):
        return False
    return True


def distance(keys: TrialKeys, data: Data, model: Transformer, folder: Path) -> dict[str, float]:
    """`kl_from_base`: KL(model || what its first stage left), in nats an answer of the model's own. Of one stage it is
    0; empty where nothing is answered."""
    if not keys.has_base or not isinstance(data, ProblemData):
        return {}
    if not keys.before:
        return {"kl_from_base": 0.0}
    from safetensors.torch import load_file

    base = Transformer(keys.stages[0].model)
    base.load_state_dict(load_file(folder / BASE))
    base.to(keys.train.device)
    asked = data.prompts(keys.eval.split, 0, 0, QUESTIONS)
    rows = [torch.from_numpy(row[:n]) for row, n in zip(asked.tokens_NP, asked.lengths_N, strict=True)]
    prompts = [row.to(keys.train.device) for row in rows]
    return {"kl_from_base": drift(model, base, prompts, data.longest_answer, END_OF_TEXT_ID, ANSWERS)}
