"""The slowest tests begin first, so that they do not run alone at the end on one of several processes."""

import signal

import pytest

SLOW = ("test_ranks.py", "test_run.py", "test_ranks_command.py", "test_train.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name not in SLOW)


def pytest_configure() -> None:
    """A shell starts what a script puts in the background deaf to Ctrl-C, and whatever it starts inherits that."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
