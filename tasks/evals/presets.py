"""Lists of tasks by name: `eval=NAME` on the command line sets `eval.tasks`."""

from models.base.typed import ConfigError, closest

PRESETS: dict[str, tuple[str, ...]] = {
    "quick": ("python_bits_per_byte", "python_cloze"),
    "skills": ("skill_answers",),
    "answers": ("problem_greedy", "problem_samples"),
    "small_lm": ("blimp", "hellaswag", "piqa", "arc_easy", "lambada_openai", "wikitext", "sciq"),
    "v3_report": (
        *("pile_10k", "bbh", "mmlu", "mmlu_pro", "drop", "arc_easy", "arc_challenge", "hellaswag", "piqa"),
        *("winogrande", "race", "triviaqa", "nq_open", "agieval", "humaneval_reference", "mbpp_reference", "gsm8k"),
        *("hendrycks_math", "mgsm_direct", "ceval-valid", "cmmlu"),
    ),
}
"""`quick`: what every trial is scored on. `skills`: where data.source=skill. `answers`: what a model
answers by itself, where data.source=problem. `small_lm`: what tells small language
models apart. `v3_report`: those of the base model's table (2412.19437, table 3) that lm-eval has, with lm-eval's own
prompts and numbers of shots; code by its reference solutions, for which nothing is run."""


def preset(name: str) -> list[str]:
    """Its tasks. Raises ConfigError for a name that is none."""
    if name not in PRESETS:
        raise ConfigError(
            f"eval={name}: no such preset{closest(name, PRESETS)} (presets: {', '.join(PRESETS)}; tasks of your own "
            "choice: eval.tasks=[...])"
        )
    return list(PRESETS[name])
