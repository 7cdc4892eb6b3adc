"""Which executor a config asks for."""

from models.pipeline.inprocess import Pipelined
from models.pipeline.ranks import Ranked
from models.pipeline.rules import check_pipeline
from models.training.executor import Executor, Microbatching
from models.training.parallel import DataParallel, Parallel, Sharded
from models.transformer import Transformer


def executor_of(
    model: Transformer,
    microbatches: int,
    rank: int | None = None,
    document_end: int | None = None,
    parallel: Parallel = "none",
) -> Executor:
    """What `model.pipeline` asks for: of a whole model in this process, or of a rank's part of it; `parallel`: how
    several processes share the batch."""
    check_pipeline(model.config)
    if rank is not None:
        return Ranked(model, microbatches, document_end)
    if parallel != "none":
        return {"ddp": DataParallel, "fsdp": Sharded}[parallel](model, microbatches, document_end)
    kind = Microbatching if model.config.pipeline.schedule == "none" else Pipelined
    return kind(model, microbatches, document_end)
