"""One stage goes on in the place of another, which was stopped on its way: a checkpoint of the first becomes one of the
second.

What the second has of the first's parameters it takes as they are, with their moments; parts that are new to it start
as they would have; the learning rate and the rest of the optimizer's settings are its own. Where nothing differs it is
the same checkpoint, and the training the same to the bit.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ablations.config.trialkeys import Stage
from ablations.trial.recorder import Recorder
from models.base.files import whole_file
from models.fits import check_shapes
from models.module import LanguageModel
from models.training.optim import in_groups
from models.transformer import Transformer, perturbed


def hand_on(path: Path, earlier: Stage, number: int, module: LanguageModel, seed: int) -> None:
    """Rewrite the checkpoint that `earlier` was stopped with as one of stage `number`, whose model `module` is as it
    would begin; it has the checkpoint's values afterwards. Where perturbing the weights is the branch's own, it is done
    here. Raises ConfigError for a parameter that the two do not share in its shape."""
    saved = torch.load(path, weights_only=True, map_location="cpu")
    step, relative = int(saved["global_step"]), module.course.perturb
    module.load_state_dict(fitted(saved["state_dict"], module))
    if relative and relative != earlier.train.perturb:
        perturbed(module.transformer, seed, relative)
    saved["state_dict"] = module.state_dict()
    configured = module.configure_optimizers()
    saved["optimizer_states"] = [
        _optimizer(saved["optimizer_states"][0], earlier, module, configured["optimizer"].state_dict(), step)
    ]
    rates = [module.optim.lr] * len(saved["optimizer_states"][0]["param_groups"])
    now = [module.learning_rate(step)] * len(rates)
    saved["lr_schedulers"] = [{**saved["lr_schedulers"][0], "base_lrs": rates, "_last_lr": now}]
    saved["callbacks"][Recorder.__qualname__]["stage"] = number
    with whole_file(path) as temporary:
        torch.save(saved, temporary)


def fitted(trunk: dict[str, Tensor], module: LanguageModel) -> dict[str, Tensor]:
    """The module's state with the trunk's values. A router's bias that one of the two lacks is dropped or begins at 0;
    parameters may be added, and none may be lost."""
    own = dict(module.state_dict())
    check_shapes({n: t for n, t in trunk.items() if not n.endswith("e_score_correction_bias")}, own)
    return {name: trunk.get(name, value) for name, value in own.items()}


def _optimizer(
    saved: dict[str, Any], earlier: Stage, module: LanguageModel, fresh: dict[str, Any], step: int
) -> dict[str, Any]:
    """The module's own settings, with the moments that the trunk has of its parameters."""
    with torch.device("meta"):
        theirs = _indices(Transformer(earlier.model))
    ours = _indices(module.transformer)
    state = {ours[name]: saved["state"][theirs[name]] for name in ours if theirs.get(name) in saved["state"]}
    rate = {"lr": module.learning_rate(step), "initial_lr": module.optim.lr}
    return {"state": state, "param_groups": [{**group, **rate} for group in fresh["param_groups"]]}


def _indices(model: Transformer) -> dict[str, int]:
    """A parameter's name -> its number in the optimizer."""
    named = {id(p): name for name, p in model.named_parameters()}
    flat = [p for group in in_groups(model) for p in group]
    return {named[id(p)]: number for number, p in enumerate(flat)}
