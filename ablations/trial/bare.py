"""Training without a Trainer: the same steps, and nothing beside them."""

from collections.abc import Iterable

from torch import Tensor
from torch.optim import Optimizer

from ablations.config.trialkeys import Stage
from models.module import LanguageModel
from models.training.batch import Batch
from models.training.executor import update_routers
from models.training.optim import adamw


def train_steps(
    module: LanguageModel,
    batches: Iterable[Tensor | Batch],
    keys: Stage,
    optimizer: Optimizer | None = None,
    first: int = 0,
) -> None:
    """A bare loop over the same executor, clipping, optimizer (a new one, if none is given) and balance update that the
    Trainer drives; `first` is the number of the first step."""
    model = module.transformer
    optimizer = optimizer or adamw(model, keys.optim, keys.model.precision.moments)
    for step, (tokens, mask) in enumerate(map(Batch.of, batches), start=first):
        optimizer.zero_grad(set_to_none=True)
        result = module.executor.step(tokens, module.progress(step), mask)
        module.executor.clip(model.parameters(), keys.optim.clip_norm)
        optimizer.step()
        update_routers(model, result, module.progress(step))
