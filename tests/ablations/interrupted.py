"""A trial that is killed at a step of its own."""

from collections.abc import Callable
from typing import Any


class Killed(Exception):
    pass


def killed_at(step: int) -> Callable[[dict[str, Any]], None]:
    """A report that ends the trial once this step is done, logged and (where one is due) checkpointed or not yet."""

    def report(event: dict[str, Any]) -> None:
        if event.get("step") == step:
            raise Killed

    return report
