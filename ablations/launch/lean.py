"""Lightning imports torchmetrics, and that SciPy's signals, matplotlib and transformers, for metrics of sound and text
that nothing here computes: two fifths of what a worker spends on imports."""

import contextlib
import importlib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError
from typing import Any

UNUSED = ("matplotlib", "scipy", "transformers")


@contextlib.contextmanager
def lean() -> Iterator[None]:
    """What Lightning and torchmetrics are first imported in: they take these packages for not installed. Whoever
    imports one of them gets it, here too."""
    imports: Any = importlib.import_module("lightning_utilities.core.imports")
    version, available = imports._version, imports.package_available

    def version_of(name: str) -> Any:
        if name in UNUSED:
            raise PackageNotFoundError(name)
        return version(name)

    imports._version = version_of
    imports.package_available = lambda name: name not in UNUSED and available(name)
    try:
        yield
    finally:
        imports._version, imports.package_available = version, available
