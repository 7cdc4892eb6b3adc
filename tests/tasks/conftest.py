"""What tests of the sandbox share."""

import functools
import shutil
import subprocess
from collections.abc import Iterator

import pytest

from models.base.typed import ConfigError
from tasks.evals.sandbox import require_sandbox


@pytest.fixture
def boxed() -> None:
    """Skips where no program can be run in a sandbox, and fails where bubblewrap could make one."""
    try:
        require_sandbox()
    except ConfigError as error:
        if bubblewrap_works():
            pytest.fail(f"bubblewrap works, and yet: {error}")
        pytest.skip(str(error))


@functools.cache
def bubblewrap_works() -> bool:
    """By itself, without what the sandbox adds."""
    bwrap = shutil.which("bwrap")
    asked = ["--unshare-all", "--unshare-user", "--ro-bind", "/", "/", "true"]
    return bwrap is not None and subprocess.run([bwrap, *asked], capture_output=True).returncode == 0


@pytest.fixture
def unproven() -> Iterator[None]:
    """Whether there is a sandbox is asked anew, here and after it."""
    require_sandbox.cache_clear()
    yield
    require_sandbox.cache_clear()
