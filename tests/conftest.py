"""The slowest tests begin first, so that they do not run alone at the end on one of several processes."""

import signal

import pytest

from ablations.launch.lean import lean

SLOW = ("test_ranks.py", "test_run.py", "test_ranks_command.py", "test_train.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name not in SLOW)


def pytest_configure(config: pytest.Config) -> None:
    """A shell starts what a script puts in the background deaf to Ctrl-C, and whatever it starts inherits that.

    Those that run tests import Lightning as our workers do, which saves each of them seconds."""
    if hasattr(config, "workerinput") or not config.getoption("numprocesses", None):
        with lean():
            import lightning  # noqa: F401
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
