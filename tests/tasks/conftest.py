"""What tests of the sandbox share."""

from collections.abc import Iterator

import pytest

from models.base.typed import ConfigError
from tasks.evals.sandbox import require_sandbox


@pytest.fixture
def boxed() -> None:
    """Skips where no program can be run in a sandbox."""
    try:
        require_sandbox()
    except ConfigError as error:
        pytest.skip(str(error))


@pytest.fixture
def unproven() -> Iterator[None]:
    """Whether there is a sandbox is asked anew, here and after it."""
    require_sandbox.cache_clear()
    yield
    require_sandbox.cache_clear()
