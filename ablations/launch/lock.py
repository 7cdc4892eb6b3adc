"""One scheduler at a time."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from models.files import Held, hold
from models.typed import ConfigError


@contextlib.contextmanager
def single_owner(directory: Path) -> Iterator[None]:
    """Hold `directory` for this process alone, so that two schedulers never write the same run.

    Raises ConfigError where another process holds it, or where it cannot be written or locked.
    """
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(hold(directory / ".owner"))
        except Held as held:
            raise ConfigError(
                f"{directory}: process {held.owner} is already at work here; wait for it, stop it (kill {held.owner}), "
                "or choose another folder"
            ) from None
        except OSError as error:
            raise ConfigError(
                f"{directory}: cannot be written or locked ({error.strerror}); choose another folder"
            ) from None
        yield
