"""What no pipeline can be: its schedule, its stages, what they need of the model. Each line names key and fix."""

from models.base.typed import ConfigError
from models.config import ModelConfig, PipelineConfig
from models.pipeline.schedules import Schedule, make_schedule, ranks_of
from models.pipeline.split import split


def check_pipeline(config: ModelConfig, microbatches: int | None = None) -> None:
    """Raise ConfigError for a `model.pipeline` that cannot be run; its schedule is made where the number of
    microbatches is known."""
    p, balance = config.pipeline, config.moe.balance
    if p.schedule == "none":
        default = PipelineConfig()
        for name in ("stages", "microbatches"):
            if getattr(p, name) != getattr(default, name):
                raise ConfigError(
                    f"model.pipeline.{name}={getattr(p, name)}: has no effect with model.pipeline.schedule=none; "
                    f"add model.pipeline.schedule=1f1b"
                )
        return
    ranks_of(p.schedule, p.stages)
    split(config, p.stages)
    if config.routers and balance.needs_batch_load:
        raise ConfigError(
            f"model.moe.balance.scope=batch: needs the whole batch's load before the first backward chunk, which "
            f"model.pipeline.schedule={p.schedule} does not wait for; use scope=sequence or schedule=none"
        )
    if microbatches is not None:
        make_schedule(p.schedule, p.stages, microbatches)


def schedule_of(config: ModelConfig, microbatches: int) -> Schedule:
    """The one that `model.pipeline` names. Raises ConfigError."""
    check_pipeline(config)
    return make_schedule(config.pipeline.schedule, config.pipeline.stages, microbatches)
