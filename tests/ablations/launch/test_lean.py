"""What a worker imports for nothing."""

import subprocess
import sys

import pytest

from ablations.home import ROOT


@pytest.mark.parametrize(
    ("how", "found"),
    [
        ("lean", ""),
        pytest.param("whole", "matplotlib scipy scipy.signal transformers", marks=pytest.mark.slow),
    ],
)
def test_lightning_comes_without_packages_that_no_training_needs(how: str, found: str) -> None:
    """And without it they would come; they are there for whoever asks, and for Lightning's own checks afterwards."""
    script = """
import sys
from ablations.launch.lean import UNUSED, lean
if sys.argv[1] == "lean":
    with lean():
        import ablations.sweep.jobs
import lightning
print(*sorted({*UNUSED, "scipy.signal"} & {*sys.modules}))
if sys.argv[1] == "lean":
    import transformers
    from lightning_utilities.core.imports import RequirementCache, package_available
    assert transformers.__version__ and package_available("scipy") and RequirementCache("transformers>=4.4.0")
"""
    done = subprocess.run([sys.executable, "-c", script, how], cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == (found, "")
