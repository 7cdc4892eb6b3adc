"""Which parts of the model a rank of a pipeline holds, under the names that they have in one process."""

import torch
from torch import nn

from models.config import ModelConfig
from models.pipeline.rules import schedule_of
from models.pipeline.schedules import Schedule
from models.pipeline.split import split, uses_embedding_again
from models.transformer import Transformer


def stages_holding(name: str, config: ModelConfig, stages: int) -> set[int]:
    """The stages that use the parameter or buffer of this name: one, or for an embedding that MTP modules share two."""
    last = stages - 1
    if name.startswith("model.embed_tokens."):
        return {0, last} if uses_embedding_again(config) else {0}
    if name.startswith("model.layers."):
        layer = int(name.split(".")[2])
        return {next(stage for stage, layers in enumerate(split(config, stages)) if layer in layers)}
    return {last}


def holders(config: ModelConfig, schedule: Schedule) -> dict[str, tuple[int, ...]]:
    """The ranks that hold a copy of each parameter and buffer of the model. The first of them counts it in norms and
    writes it to checkpoints."""
    with torch.device("meta"):
        names = list(Transformer(config).state_dict())
    found = {}
    for name in names:
        stages = stages_holding(name, config, schedule.stages)
        found[name] = tuple(sorted({homes[stage] for homes in schedule.homes for stage in stages}))
    return found


def rank_parameters(config: ModelConfig, schedule: Schedule) -> list[int]:
    """How many parameters each rank holds, copies included."""
    held = holders(config, schedule)
    with torch.device("meta"):
        named = list(Transformer(config).named_parameters())
    return [sum(p.numel() for name, p in named if rank in held[name]) for rank in range(len(schedule.ranks))]


def partial_model(config: ModelConfig, microbatches: int, rank: int) -> Transformer:
    """A Transformer with the parts of a rank's stages alone, not initialised: nothing else takes memory. Names are
    those of the whole model; layers that are missing are placeholders."""
    schedule = schedule_of(config, microbatches)
    held, stages = schedule.held(rank), schedule.stages
    with torch.device("meta"):
        model = Transformer(config)
    layers = split(config, stages)
    kept = {layer for stage in held for layer in layers[stage]}
    for layer in range(config.n_layers):
        if layer not in kept:
            model.model.layers[layer] = nn.Identity()
    last = stages - 1 in held
    if not (0 in held or (last and uses_embedding_again(config))):
        del model.model.embed_tokens
    if not last:
        del model.model.norm, model.lm_head
        if config.mtp.depth:
            del model.mtp
    model.to_empty(device="cpu")
    for buffer in model.buffers():
        buffer.zero_()
    return model
