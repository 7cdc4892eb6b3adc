"""Which tasks there are, ours and lm-eval's, and which of them can be asked for: before anything is loaded."""

import difflib
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from models.base.typed import ConfigError, closest
from tasks.config import DRAWN, EvalConfig
from tasks.evals.answers import BITS, MARGIN
from tasks.evals.fingerprint import is_task_file
from tasks.evals.harness import quiet
from tasks.evals.local import BENCHMARKS, benchmark_of, local_files
from tasks.evals.problems import GREEDY, SAMPLED, SAMPLES
from tasks.evals.programs import PROGRAMS, check_programs, refusal
from tasks.evals.sandbox import require_sandbox

if TYPE_CHECKING:
    from lm_eval.tasks import TaskManager

ASKED = "skill_answers"
"""Our own task whose items are not of documents: a skill's, or a problem's."""
CLOZE = "python_cloze"
"""Whose items are made of several lines."""
ANSWERED = (GREEDY, SAMPLES)
"""Those of a problem's questions, which a model answers by itself."""
OUR_METRICS = {
    "python_bits_per_byte": ("bits_per_byte",),
    CLOZE: ("acc", "acc_norm", BITS, MARGIN),
    ASKED: ("acc", "perplexity"),
    GREEDY: ("exact_match",),
    SAMPLES: SAMPLED,
}
"""Of our own tasks, by name; as their files in this folder say, and what is said of every multiple choice."""
OUR_TASKS = tuple(OUR_METRICS)
REFERENCES = ("humaneval_reference", "mbpp_reference")
"""Our own tasks on standard data: code, whose reference solutions are scored and nothing is run."""
ON_STANDARD = (*REFERENCES, *PROGRAMS)
"""All of our own that read standard data."""
GIVEN = (ASKED, *ANSWERED)
"""Whose items the data itself has."""


def check_tasks(names: Sequence[str], data_dir: str | None = None, run_model_code: bool = False) -> None:
    """Raise ConfigError for a task that neither we nor lm-eval have, that runs code without leave or without a sandbox,
    or whose data `data_dir` lacks. Downloads nothing.

    A name may also be the path of a task's YAML file. Only names that are not ours cost lm-eval's index (3 s, once per
    process).
    """
    check_programs(names, run_model_code)
    if run_model_code:
        require_sandbox()
    origin: dict[str, str] = {}
    for name in dict.fromkeys(names):
        refuse_twins(origin, _check_file(name) if is_task_file(name) else name, name)
        if not is_standard(name):
            continue
        if name not in ON_STANDARD:
            _check_standard(name)
        if data_dir is not None:
            local_files(name, data_dir)


def check_copies(names: Sequence[str], data_dir: str | None) -> None:
    """Raise ConfigError for local copies that none of the tasks reads."""
    if data_dir is not None and not any(map(is_standard, names)):
        raise ConfigError(
            f"eval.data_dir={data_dir}: eval.tasks=[{', '.join(names)}] has no task that reads it; add some of "
            f"{', '.join(BENCHMARKS)}, or leave it out"
        )


def check_askable(names: Sequence[str], source: str, learned: str | None = None) -> None:
    """Raise ConfigError for a task that no items can be made for of such a `data.source`, or whose text no model can
    read that has `learned` from a rule (null: from that source). A file's task may be of its own words."""
    learned = source if learned is None else learned
    fitting = "eval=answers" if "problem" in (source, learned) else "eval=skills"
    for name in names:
        if name in ANSWERED and source != "problem":
            why = "answers are judged by a problem's rule; take data.source=problem"
        elif name in ANSWERED and learned != "problem":
            why = (
                f"data.source={learned} has taught none of a problem's words; take a checkpoint of data.source=problem"
            )
        elif name == ASKED and source not in DRAWN:
            why = "text asks nothing; take data.source=skill or problem"
        elif name == CLOZE and source in DRAWN:
            why = f"takes lines of text, which data.source={source} has none of; take {fitting}"
        elif is_standard(name) and learned in DRAWN:
            why = f"is text, of which data.source={learned} has no token; take {fitting}"
        else:
            continue
        raise ConfigError(f"eval.tasks={name}: {why}, or leave the task out")


def check_samples(samples: int, names: Sequence[str]) -> None:
    """Raise ConfigError for a number of answers that no task draws. A file's task may be `problem_samples` too."""
    if samples != EvalConfig.samples and SAMPLES not in names and not any(map(is_task_file, names)):
        raise ConfigError(f"eval.samples={samples}: is read by {SAMPLES} only; add it to eval.tasks, or leave this out")


def is_standard(name: str) -> bool:
    """Whether its data are a hub's, or a copy of those."""
    return name not in OUR_TASKS and not is_task_file(name)


def _check_standard(name: str) -> None:
    ours = (*OUR_TASKS, *ON_STANDARD)
    slip = difflib.get_close_matches(name, ours, n=1, cutoff=0.85)
    if slip:  # no need to wait for lm-eval's index
        raise ConfigError(f"eval.tasks={name}: no such task; did you mean {slip[0]}?")
    known = manager_of(name)
    if name not in known.all_tasks:
        near = closest(name, ours) or closest(name, known.all_tasks)
        raise ConfigError(f"eval.tasks={name}: lm-eval has no such task{near} (ours: {', '.join(ours)})")
    _refuse_code(name, known)


def _refuse_code(name: str, known: "TaskManager") -> None:
    """Before the task is loaded, which would run its module."""
    from lm_eval.tasks._yaml_loader import load_yaml

    entry = known.task_index.get(name)
    path = None if entry is None else entry.yaml_path
    if path is not None and load_yaml(path, resolve_func=False).get("unsafe_code"):
        raise ConfigError(refusal(name))


def _check_file(name: str) -> str:
    """The name of the task, or group, in a file."""
    import yaml
    from lm_eval.tasks._index import TaskIndex

    try:
        entry = TaskIndex.entry_from_path(Path(name))
    except (yaml.YAMLError, ValueError, OSError) as error:
        raise ConfigError(f"eval.tasks={name}: not a task of lm-eval ({first_line(error)})") from error
    if entry is None:
        raise ConfigError(f"eval.tasks={name}: there is no such file, or it names no task")
    return str(entry.name)


def manager_of(name: str) -> "TaskManager":
    """lm-eval's, which knows a standard task if there is one: of the well-known ones without the index of all."""
    benchmark = benchmark_of(name)
    if benchmark is not None and benchmark.folder is not None:
        few = _tasks_in(benchmark.folder)
        if name in few.all_tasks:
            return few
    return _standard_tasks()


@functools.cache
def _tasks_in(folder: str) -> "TaskManager":
    """Those that one of lm-eval's folders holds."""
    import lm_eval.tasks

    with quiet():
        place = Path(lm_eval.tasks.__file__).parent / folder
        return lm_eval.tasks.TaskManager(include_path=place, include_defaults=False)


@functools.lru_cache(maxsize=1)
def _standard_tasks() -> "TaskManager":
    from lm_eval.tasks import TaskManager

    with quiet():
        return TaskManager()


def refuse_twins(origin: dict[str, str], task: str, name: str) -> None:
    """Scores are kept by the task's own name; `origin` says which entry of eval.tasks has brought which."""
    if task in origin:
        raise ConfigError(
            f"eval.tasks={name}: names the task {task}, as {origin[task]} does, and one of the two rows would be lost; "
            "give the task of one file another name, or leave one out"
        )
    origin[task] = name


def first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "")
