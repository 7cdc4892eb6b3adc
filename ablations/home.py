"""Where the checkout is, and that the packages beside it are the ones in use.

The checkout is the unit: `sweeps/` and `results/` are found beside the packages. `python -m` searches the current
directory first, where a folder may be called `models`, `tasks` or `datasets` and would be imported instead of ours, or
of a library: a command of ours forgets that directory, as `-P` does for workers. Whatever else leads elsewhere is told.
This module imports nothing of the project at its top, so that it can.
"""

import os
import sys


def _forget_current_directory() -> None:
    """Off the path, where this is `python -m ablations.X` in another directory than the checkout.

    While Python looks for that module, and so imports its package, the first argument is `-m`.
    """
    if sys.argv[:1] != ["-m"] or sys.flags.safe_path:
        return
    root = os.path.realpath(os.path.join(os.path.dirname(__file__), os.pardir))
    try:
        if sys.path[:1] == [os.getcwd()] and sys.path[0] != root:
            del sys.path[0]
    except FileNotFoundError:  # it was removed, and nothing is imported from it
        pass


_forget_current_directory()

import importlib.util  # noqa: E402
from pathlib import Path  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
"""The checkout."""

_BESIDE = ("models", "tasks")


def _place(package: str) -> str:
    """Where `import package` would find it."""
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        spec = None
    if spec is None:
        return "nowhere"
    locations = list(spec.submodule_search_locations or [])
    return str(Path(locations[0] if locations else spec.origin or "").resolve())


_found = {package: _place(package) for package in _BESIDE}
_foreign = {package: place for package, place in _found.items() if place != str(ROOT / package)}
if _foreign:
    # Ours first, or even the class of the error that reports the others could not be imported.
    sys.path.insert(0, str(ROOT))


def check_house() -> None:
    """Raise ConfigError where `models` or `tasks` is somebody else's, or where there is no checkout."""
    from models.base.typed import ConfigError

    for package, place in _foreign.items():
        if place == "nowhere":
            raise ConfigError(
                f"the package {package} is missing beside {ROOT / 'ablations'}: run from a whole checkout"
            )
        raise ConfigError(
            f"import {package} finds {place} instead of {ROOT / package}: start from another directory, "
            f"such as {ROOT}, or rename the other {package}"
        )
    if not (ROOT / "sweeps").is_dir():
        raise ConfigError(
            f"no sweeps/ beside {ROOT / 'ablations'}: the checkout is the unit, so clone it and "
            "`pip install -r requirements.lock -e .` there"
        )
