"""Scores of a model on lm-eval tasks: our own two on the held-out documents, or any other by its name.

Called once per trial in a long-lived process, so what does not depend on the model is kept: the item files on disk,
the loaded tasks in memory (`tasks.evals.prepare`).
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.config import EvalConfig
from tasks.evals.answers import answers
from tasks.evals.harness import evaluate
from tasks.evals.known import OUR_TASKS, check_tasks
from tasks.evals.perplexities import by_document
from tasks.evals.prepare import HeldOut, load_tasks
from tasks.evals.programs import PASSED
from tasks.evals.ways import PLAINLY, Ways

if TYPE_CHECKING:
    from torch import Tensor

BOOTSTRAP_DRAWS = 1000
"""For the few standard metrics whose standard error has no closed form."""
PER_ITEM = ("acc", "exact_match", PASSED)
"""Metrics that are 0 or 1 per item; the first that a task has becomes its `items`."""


def score(
    logits: "Callable[[Tensor], Tensor]",
    data: HeldOut,
    config: EvalConfig,
    cache_dir: Path,
    ways: Ways = PLAINLY,
) -> dict[str, dict[str, Any]]:
    """Per task (and per group, where one is named): lm-eval's metrics by plain name, and what is needed to read them.

    `<metric>` is a float, or None where it is not finite; `<metric>_stderr` a float or None where lm-eval has none.
    A task with several answer filters keeps lm-eval's `metric,filter` names. Besides: `n` items scored, `items` (a
    string of 0/1 per item in document order), of multiple choice `chance` (accuracy of a uniform guess),
    `answer_bits_per_byte` and `answer_margin` (tasks/evals/answers.py), and of perplexities `documents` and
    `<metric>_interval` (tasks/evals/perplexities.py).

    `logits` maps tokens (B, T <= data.seq_len) to logits (B, T, V). Trees are for standard tasks; our own are computed
    as they always were, to the bit. Where the model does not see over the ends of texts, only our own tasks have the
    cache, whose prompts have no end in them. Raises ConfigError for a task that does not exist or whose data cannot be
    had.
    """
    if not config.tasks:
        return {}
    check_tasks(config.tasks, config.data_dir, config.run_model_code)
    tasks = load_tasks(data, config, cache_dir)
    from tasks.evals.lm import HarnessLM

    scores: dict[str, dict[str, Any]] = {}
    for part, own in _parts(tasks):
        trees = ways.tree_logits if ways.whole and not own else None
        decoder = ways.decoder if ways.whole or own else None
        lm = HarnessLM(logits, data.tokenizer, data.seq_len, replace(ways, tree_logits=trees, decoder=decoder))
        results = evaluate(lm, part, config.items, BOOTSTRAP_DRAWS)
        scores |= {name: _plain(row, results["samples"].get(name, [])) for name, row in results["results"].items()}
    return scores


def _parts(tasks: dict[str, Any]) -> Iterator[tuple[dict[str, Any], bool]]:
    """Our own tasks (true) and the rest; those that there are."""
    own = {name: task for name, task in tasks["tasks"].items() if name in OUR_TASKS}
    rest = {name: task for name, task in tasks["tasks"].items() if name not in OUR_TASKS}
    if own:
        yield {"tasks": own, "groups": {}, "group_map": {}}, True
    if rest:
        yield {**tasks, "tasks": rest}, False


def _plain(row: dict[str, Any], samples: list[dict[str, Any]]) -> dict[str, Any]:
    """One task's row of lm-eval's results as JSON values."""
    keys = [key for key in row if "," in key]
    one_filter = len({key.split(",", 1)[1] for key in keys}) == 1
    plain: dict[str, Any] = {key.split(",", 1)[0] if one_filter else key: _finite(row[key]) for key in keys}
    if "sample_len" in row:
        plain["n"] = int(row["sample_len"])
    if not one_filter or not samples:
        return plain
    samples = sorted(samples, key=lambda sample: sample["doc_id"])
    counts = [len(sample["arguments"]) for sample in samples]
    if min(counts) > 1 and "acc" in plain and "acc_mutual_info" not in plain:
        plain["chance"] = sum(1 / count for count in counts) / len(counts)
        plain |= {name: _finite(value) for name, value in answers(samples).items()}
    plain |= by_document(samples)
    if "exact_match" in plain and all(isinstance(sample["doc"].get("chance"), float) for sample in samples):
        plain["chance"] = sum(sample["doc"]["chance"] for sample in samples) / len(samples)
    for metric in PER_ITEM:
        values = [sample.get(metric) for sample in samples]
        if all(value in (0, 1) for value in values):
            plain["items"] = "".join(str(int(value)) for value in values if value is not None)
            break
    return plain


def _finite(value: Any) -> float | None:
    """lm-eval writes "N/A" where it has no standard error."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
