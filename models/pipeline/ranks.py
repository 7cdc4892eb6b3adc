"""A pipeline's schedule on several ranks, one process each: the chunks of models/pipeline/stages.py, and between ranks
their hidden states and gradients, as torch.distributed's point-to-point messages.

Ranks agree on every message from the schedule alone: a receiver takes what the sender's order says, in that order.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor, nn

from models.layers import cast_once
from models.pipeline.inprocess import sender, way
from models.pipeline.parts import holders
from models.pipeline.rules import schedule_of
from models.pipeline.schedules import Action, Schedule, parts
from models.pipeline.stages import Chunks, Stage, can_split, stages_of
from models.training.executor import StepResult, all_ranks
from models.transformer import Transformer

if TYPE_CHECKING:
    from models.pipeline.torch_runtime import TorchRuntime


class Ranked:
    """The executor (models/training/executor.py) of one rank's order. `model` holds that rank's part (`partial_model`).

    Every rank is given the whole batch of tokens. Losses and loads in the result are the whole model's, on all ranks;
    gradients of a parameter with several copies are summed over them. Schedules of one direction run on torch's own
    runtime (torch_runtime.py) where their stages split, unless `use_torch` is off; V3's of two directions needs ours.
    """

    use_torch = True
    runtime: "TorchRuntime | None" = None
    mail: "Mail | None" = None

    def __init__(self, model: Transformer, microbatches: int, document_end: int | None = None) -> None:
        """Needs torch.distributed to be initialised, with one process per rank of the schedule."""
        schedule = schedule_of(model.config, microbatches)
        self.model, self.schedule, self.rank = model, schedule, dist.get_rank()
        self.document_end = document_end
        self.held = schedule.held(self.rank)
        self.holders = holders(model.config, schedule)
        shared = sorted({ranks for ranks in self.holders.values() if len(ranks) > 1})
        self.groups = {ranks: dist.new_group(list(ranks)) for ranks in shared}  # every rank makes all of them
        named = dict(model.named_parameters())
        self.copied = {
            ranks: [parameter for name, parameter in named.items() if self.holders[name] == ranks]
            for ranks in shared
            if self.rank in ranks
        }
        first = {name for name, ranks in self.holders.items() if ranks[0] == self.rank}
        self.counted = {id(parameter) for name, parameter in named.items() if name in first}

    def step(self, tokens_BT1: Tensor, progress: float = 0.0, mask_BT: Tensor | None = None) -> StepResult:
        schedule = self.schedule
        stages = stages_of(self.model, schedule.stages, self.held, self.document_end)
        chunks = Chunks(stages, tokens_BT1, schedule.microbatches, progress, mask_BT)
        with cast_once(self.model):
            if len(schedule.homes) > 1 or not can_split(self.model.config) or not self.use_torch:
                self._run(chunks)
            else:
                self._run_by_torch(chunks, stages, tokens_BT1)
        self._sum_copies()
        return self._over_ranks(chunks.result())

    def _run(self, chunks: Chunks) -> None:
        """This rank's actions in their order; an overlapped pair's F, then its B."""
        rows, length = chunks.parts[0].shape
        shape = (rows, length - 1, self.model.config.d_model)
        if self.mail is None or self.mail.shape != shape:
            self.mail = Mail(self.schedule, self.rank, shape, self.model.dtype, chunks.parts[0].device)
        for action in (action for step in self.schedule.ranks[self.rank] for action in parts(step)):
            self.mail.send(action, chunks.run(action, self.mail.receive(action)))
        self.mail.finish()

    def _run_by_torch(self, chunks: Chunks, stages: dict[int, Stage], tokens_BT1: Tensor) -> None:
        from models.pipeline.torch_runtime import TorchRuntime

        if self.runtime is None or self.runtime.tokens != tokens_BT1.shape:
            self.runtime = TorchRuntime(stages, self.schedule, self.model.config, tokens_BT1)
        self.runtime.step(chunks, tokens_BT1)

    def _sum_copies(self) -> None:
        for ranks, parameters in self.copied.items():
            for parameter in parameters:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                dist.all_reduce(parameter.grad, group=self.groups[ranks])

    def _over_ranks(self, result: StepResult) -> StepResult:
        """Each microbatch passed each stage on one rank only, so sums count nothing twice."""
        losses = torch.stack(list(result.losses.values()))
        all_ranks(losses)
        named = dict(zip(result.losses, losses, strict=True))
        return StepResult(named, all_ranks(result.load_LE), all_ranks(result.last_load_LE))

    def clip(self, parameters: Iterable[Tensor], limit: float) -> Tensor:
        """The norm is over all ranks; of a parameter's copies one counts."""
        own = [p for p in parameters if p.grad is not None]
        squares = [p.grad.double().square().sum() for p in own if id(p) in self.counted and p.grad is not None]
        none = torch.zeros((), dtype=torch.float64, device=next(self.model.parameters()).device)
        total = all_ranks(torch.stack(squares).sum() if squares else none)
        nn.utils.clip_grads_with_norm_(own, limit, total.sqrt())
        return total.sqrt()


class Mail:
    """The messages to and from this rank, of one optimizer step after the other."""

    def __init__(
        self, schedule: Schedule, rank: int, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
    ) -> None:
        """`shape` of hidden states, (B, T, D)."""
        self.schedule, self.rank = schedule, rank
        self.shape, self.dtype, self.device = shape, dtype, device
        others = [other for other in range(len(schedule.ranks)) if other != rank]
        self.numbers = {to: {action: n for n, action in enumerate(messages(schedule, rank, to))} for to in others}
        self.expected = {source: messages(schedule, source, rank) for source in others}
        self.received = dict.fromkeys(others, 0)
        self.arriving: dict[Action, tuple[Tensor, dist.Work]] = {}
        self.sent: list[tuple[Tensor, dist.Work]] = []
        self.here: dict[Action, Tensor] = {}

    def receive(self, action: Action) -> Tensor | None:
        """What `action` works on; waits for it where it comes from another rank."""
        came = sender(action, self.schedule.stages)
        if came is None:
            return None
        source = self.schedule.rank_of(came)
        if source == self.rank:
            return self.here.pop(came)
        while came not in self.arriving:  # those before it first: not every transport knows tags
            n = self.received[source]
            self.received[source] += 1
            buffer = torch.empty(self.shape, dtype=self.dtype, device=self.device)
            work = dist.irecv(buffer, src=source, tag=n)
            assert work is not None
            self.arriving[self.expected[source][n]] = (buffer, work)
        buffer, work = self.arriving.pop(came)
        work.wait()
        return buffer

    def send(self, action: Action, leaving: Tensor | None) -> None:
        """Does not wait."""
        if leaving is None:
            return
        target = receiver(action, self.schedule)
        assert target is not None
        if target == self.rank:
            self.here[way(action)] = leaving
            return
        tensor = leaving.contiguous()
        work = dist.isend(tensor, dst=target, tag=self.numbers[target][way(action)])
        assert work is not None
        self.sent.append((tensor, work))

    def finish(self) -> None:
        """Wait until all is sent, and begin anew."""
        for _, work in self.sent:
            work.wait()
        self.sent.clear()
        self.received = dict.fromkeys(self.received, 0)


def receiver(action: Action, schedule: Schedule) -> int | None:
    """The rank that works on what `action` leaves behind; None where nothing leaves."""
    if action.kind == "W":
        return None
    neighbour = action.stage + 1 if action.kind == "F" else action.stage - 1
    return schedule.homes[action.direction][neighbour] if 0 <= neighbour < schedule.stages else None


def messages(schedule: Schedule, source: int, target: int) -> list[Action]:
    """What `source` sends to `target` in one step, in its order."""
    actions = (action for step in schedule.ranks[source] for action in parts(step))
    return [way(action) for action in actions if receiver(action, schedule) == target]


def whole_state(executor: Ranked) -> dict[str, Tensor] | None:
    """The whole model's state dict, gathered from all ranks, on rank 0; None on the others. All ranks must call it."""
    with torch.device("meta"):
        shapes = Transformer(executor.model.config).state_dict()
    own, found = executor.model.state_dict(), {}
    for name, ranks in executor.holders.items():
        if executor.rank == 0:
            if ranks[0] == 0:
                found[name] = own[name].detach().clone()
            else:
                found[name] = torch.empty_like(shapes[name], device=next(iter(own.values())).device)
                dist.recv(found[name], src=ranks[0])
        elif executor.rank == ranks[0]:
            dist.send(own[name].detach().contiguous(), dst=0)
    return found if executor.rank == 0 else None
