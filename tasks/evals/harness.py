"""lm-eval called so that it is quiet, draws the same numbers every time, and downloads into our own cache."""

import contextlib
import io
import logging
import os
import random
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lm_eval.api.model import LM

NOISY = ("lm_eval", "datasets", "huggingface_hub", "transformers", "httpx", "fsspec", "filelock", "evaluate")
FEWSHOT_SEED = 1234
"""lm-eval's own. Its `evaluate` sets none: examples would differ between two models."""


def evaluate(lm: "LM", tasks: dict[str, Any], items: int | None, bootstrap_draws: int) -> Any:
    """lm-eval's results of `lm` on loaded tasks, on at most `items` of each. Equal calls ask for equal requests."""
    from lm_eval.evaluator import evaluate

    for task in tasks["tasks"].values():
        task.set_fewshot_seed(FEWSHOT_SEED)
    with quiet(), seeded():
        return evaluate(lm, tasks, limit=items, bootstrap_iters=bootstrap_draws)


@contextlib.contextmanager
def seeded() -> Iterator[None]:
    """Some tasks shuffle with the global generators while they are loaded or asked; these then go on as before."""
    import numpy as np

    plain, numpy = random.getstate(), np.random.get_state()
    random.seed(0)
    np.random.seed(FEWSHOT_SEED)
    try:
        yield
    finally:
        random.setstate(plain)
        np.random.set_state(numpy)


@contextlib.contextmanager
def hugging_face_caches(folder: Path) -> Iterator[None]:
    """Standard tasks download into our cache, unless the environment names another place."""
    import datasets
    from huggingface_hub import constants

    places: tuple[tuple[Any, str, Any], ...] = (
        (datasets.config, "HF_DATASETS_CACHE", folder / "datasets"),
        (datasets.config, "DOWNLOADED_DATASETS_PATH", folder / "datasets" / "downloads"),
        (constants, "HF_HUB_CACHE", str(folder / "hub")),
    )
    if any(name in os.environ for name in ("HF_HOME", "HF_DATASETS_CACHE", "HF_HUB_CACHE")):
        places = ()
    before = [(module, name, getattr(module, name)) for module, name, _ in places]
    try:
        for module, name, place in places:
            setattr(module, name, place)
        yield
    finally:
        for module, name, place in before:
            setattr(module, name, place)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No progress bars, warnings or log lines of lm-eval and datasets; exceptions pass.

    lm-eval's bars ask for the present sys.stderr and have no switch. Its bootstrap would start a pool of processes.
    """
    levels = {name: logging.getLogger(name).level for name in NOISY}
    multiprocessing = os.environ.get("DISABLE_MULTIPROC")
    os.environ["DISABLE_MULTIPROC"] = "1"
    try:
        for name in NOISY:
            logging.getLogger(name).setLevel(logging.CRITICAL)
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        os.environ.pop("DISABLE_MULTIPROC")
        if multiprocessing is not None:
            os.environ["DISABLE_MULTIPROC"] = multiprocessing
