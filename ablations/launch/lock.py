"""One scheduler at a time."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from models.base.locks import SILENCE, Held, hold
from models.base.typed import ConfigError

OWNER = ".owner"


@contextlib.contextmanager
def single_owner(directory: Path) -> Iterator[None]:
    """Hold `directory` for this process alone, so that two schedulers never write the same run.

    Raises ConfigError where another process holds it, or where it cannot be written or locked.
    """
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(hold(directory / OWNER))
        except Held as held:
            raise ConfigError(f"{directory}: {_said(held, directory / OWNER)}") from None
        except OSError as error:
            raise ConfigError(
                f"{directory}: cannot be written or locked ({error.strerror}); choose another folder"
            ) from None
        yield


def _said(held: Held, lock: Path) -> str:
    owner = held.owner
    at_work = f"process {owner or '?'} is already at work here; wait for it, "
    if owner is None or owner.is_here:
        return f"{at_work}stop it (kill {owner or 'it'}), or choose another folder"
    return (
        f"{at_work}stop it there (kill {owner.pid}), or choose another folder (it renews {lock}: should it be "
        f"gone, wait {SILENCE:.0f} s, or remove that file)"
    )
