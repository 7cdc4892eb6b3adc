"""The slowest tests begin first, so that they do not run alone at the end on one of several processes."""

import pytest

SLOW = ("test_ranks.py", "test_run.py", "test_ranks_command.py", "test_train.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name not in SLOW)
