"""This project's own model, with its own cache, as anybody's."""

from pathlib import Path
from typing import Any

from torch import Tensor

from ablations.audit.subject import Cached, Loss, Masked, Plain, Subject
from models.checkpoint import load_checkpoint
from models.decoding.generate import Cache, decode
from models.training.loss import language_model_loss
from models.transformer import Transformer, initialise

ROOM = 1024
"""Places in its cache."""


class Ours(Plain):
    module: Transformer

    def __init__(self, module: Transformer, trained: bool = False) -> None:
        super().__init__(module, trained)

    @property
    def loss(self) -> Loss | None:
        return lambda tokens_BT: language_model_loss(self.logits(tokens_BT[:, :-1]), tokens_BT[:, 1:])

    @property
    def masked(self) -> Masked | None:
        return None

    @property
    def cached(self) -> Cached | None:
        return self._decoded

    def _decoded(self, tokens_BS: Tensor, state: Any) -> tuple[Tensor, Any]:
        cache, place = state or (Cache(self.module, len(tokens_BS), ROOM), 0)
        logits_BSV, _ = decode(self.module, tokens_BS, [place] * len(tokens_BS), cache)
        return logits_BSV, (cache, place + tokens_BS.shape[1])

    def exact(self) -> Subject | None:
        from ablations.guards.subject import exact_config

        twin = Transformer(exact_config(self.module.config))
        twin.load_state_dict(self.module.state_dict())
        return Ours(twin.train(self.module.training), self.trained)

    def fresh(self) -> Subject | None:
        if not self.trained:
            return self
        model = Transformer(self.module.config)
        initialise(model, 0, self.module.config.std)
        return Ours(model.eval())


def load(folder: Path) -> Ours:
    """A checkpoint of a trial. Raises ConfigError where it is not one."""
    model, _ = load_checkpoint(folder)
    return Ours(model, trained=True)
