"""The one list of metrics: it knows what records hold, which way is better, and what a sweep may ask for."""

import re
from pathlib import Path

import pytest

from ablations.config.compose import compose
from ablations.config.schema import ArmConfig, SweepConfig
from ablations.config.sweeprules import check_metrics_exist
from ablations.config.trialkeys import TrialKeys, with_overrides
from ablations.files import read_json
from ablations.home import ROOT
from ablations.metrics import (
    METRICS,
    Parts,
    check_measured,
    check_named,
    find,
    indices,
    is_accuracy,
    metric,
    share_of_maximum,
)
from ablations.sweep.planning import make_plan
from models.base.typed import ConfigError
from models.precision.config import ROLES
from tasks.evals import known
from tasks.evals.answers import BITS, MARGIN
from tasks.evals.programs import PASSED, PROGRAMS

YAML = re.compile(r"- metric: (\S+)")
RECORDS = sorted({path.parent: path for path in (ROOT / "results").glob("*/*/records/*.json")}.values())


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.parts[-4])
def test_every_number_of_a_record_is_a_known_metric(path) -> None:
    assert [name for name in read_json(path)["metrics"] if find(name) is None] == []


def test_every_number_that_is_measured_is_a_known_metric() -> None:
    """The names in the code that takes them, with 1 or a role for an index."""
    source = (ROOT / "ablations" / "trial" / "measures.py").read_text()
    named = set(re.findall(r'f?"([a-z_]+(?:\{\w+\})?)": ', source)) | set(re.findall(r'metrics\["(\w+)"\]', source))
    named = {name.replace("{skill}", "chain") for name in named}
    named = {re.sub(r"\{role\}", ROLES[0], re.sub(r"\{[ik]\}", "1", name)) for name in named}
    assert len(named) > 15 and {name for name in named if find(name) is None} == set()


@pytest.mark.parametrize(
    ("name", "better"),
    [
        ("loss", "lower"),
        ("max_vio_global_layer12", "lower"),
        ("mtp_loss_2", "lower"),
        ("mtp_acceptance_1", "higher"),
        ("mtp_tokens_per_forward", "higher"),
        ("gradient_cosine", "higher"),
        ("underflow_gradient", "lower"),
        ("routing_entropy", None),
        ("max_vio_max", None),
        ("pass_64", "higher"),
        ("greedy_right", "higher"),
        ("answer_tokens", None),
        ("python_cloze/acc", "higher"),
        ("mmlu/acc,none", "higher"),
        ("python_bits_per_byte/bits_per_byte", "lower"),
        ("wikitext/word_perplexity", "lower"),
        ("some_task/some_number", None),
    ],
)
def test_which_way_is_better(name: str, better: str | None) -> None:
    found = find(name)
    assert found is not None and found.better == better and "<" not in found.label


@pytest.mark.parametrize(
    "name", ["los", "mtp_loss_0", "mtp_loss_", "mtp_loss_x", "underflow_router", "loss_1", "max_vio"]
)
def test_what_is_no_metric(name: str) -> None:
    assert find(name) is None and metric(name).label == name.replace("_", " ")


def test_a_level_may_be_0_and_a_layer_not() -> None:
    found = find("answer_nats_level0")
    assert found is not None and found.label == "nats of an answer at level 0"
    assert indices("answer_nats_level<level>", ["answer_nats_level4", "answer_nats_level0"]) == [0, 4]
    assert find("max_vio_global_layer0") is None


def test_labels_and_names_are_told_apart() -> None:
    assert len({m.name for m in METRICS}) == len({m.label for m in METRICS}) == len(METRICS)
    assert metric("mtp_acceptance_2").label == "MTP acceptance at depth 2"
    assert metric("underflow_weight").label == "underflow of the weight"
    assert metric("python_bits_per_byte/bits_per_byte").label == "python bits per byte"
    assert is_accuracy("python_cloze/acc_norm") and not is_accuracy("acc") and not is_accuracy("t/f1")


@pytest.mark.parametrize("kept", [m.maximum for m in METRICS if m.maximum])
def test_a_maximum_is_a_metric(kept: str) -> None:
    assert find(kept) is not None


def test_a_share_of_the_maximum() -> None:
    assert share_of_maximum({"max_vio_global": 0.3, "max_vio_max": 3.0}, "max_vio_global") == pytest.approx(0.1)
    assert share_of_maximum({"max_vio_global": 0.0, "max_vio_max": 3.0}, "max_vio_global") == 0.0
    assert share_of_maximum({"max_vio_global": 0.0, "max_vio_max": 0.0}, "max_vio_global") == 0.0
    assert share_of_maximum({"max_vio_global": 0.3}, "max_vio_global") is None, "not 30 % of 1"
    assert share_of_maximum({"max_vio_max": 3.0}, "max_vio_global") is None
    assert share_of_maximum({"loss": 3.0}, "loss") is None


@pytest.mark.parametrize(
    ("name", "directional", "words"),
    [
        ("los", False, "no such metric; did you mean loss?"),
        ("max_vio_max", False, "no such metric"),
        ("mtp_acceptanc_1", False, "known: loss"),
        ("routing_entropy", True, "neither lower nor higher is better"),
        ("some_task/some_number", True, "claim kind equal or value"),
    ],
)
def test_a_sweep_cannot_name_it(name: str, directional: bool, words: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(words)) as error:
        check_named("primary", name, directional)
    assert str(error.value).startswith(f"primary={name}: ") and "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["routing_entropy", "mtp_acceptance_7", "mine/acc", "saturation_weight"])
def test_a_sweep_can_name_it(name: str) -> None:
    check_named("primary", name)


OURS = ["python_bits_per_byte", "python_cloze"]


@pytest.mark.parametrize(
    ("name", "tasks", "parts", "words"),
    [
        ("foo/bar", OURS, Parts(), "no such task is scored (eval.tasks: python_bits_per_byte, python_cloze)"),
        ("python_clozee/acc", OURS, Parts(), "did you mean python_cloze?"),
        ("python_cloze/acc", [], Parts(), "no such task is scored (eval.tasks: none)"),
        ("python_cloze/acc", ["piqa"], Parts(), "no such task is scored"),
        ("python_cloze/accuracy", OURS, Parts(), "gives no accuracy"),
        ("python_bits_per_byte/acc", OURS, Parts(), "gives no acc"),
        ("mtp_acceptance_1", OURS, Parts(moe_layers=2), "MTP modules (the most is 0; model.mtp.depth)"),
        (
            "answer_nats_chain",
            OURS,
            Parts(skills=(1,)),
            "no arm here has that skill to learn beside text (data.skills)",
        ),
        (
            "answer_nats_level3",
            OURS,
            Parts(skill=True, levels=(1, 2, 4)),
            "no arm here has answers of that level (data.",
        ),
        ("answer_accuracy_level1", OURS, Parts(levels=(1,)), "no arm here has answers of that level"),
        ("mtp_loss_3", OURS, Parts(mtp_depth=2), "MTP modules (the most is 2; model.mtp.depth)"),
        ("mtp_tokens_per_forward", OURS, Parts(), "MTP modules"),
        ("max_vio_global", OURS, Parts(mtp_depth=1), "MoE layers (the most is 0;"),
        ("routing_entropy", OURS, Parts(), "MoE layers"),
        ("max_vio_batch_layer3", OURS, Parts(moe_layers=2), "MoE layers (the most is 2;"),
        ("gradient_cosine", OURS, Parts(moe_layers=2), "a named recipe of precision (model.precision.recipe)"),
        ("underflow_gradient", OURS, Parts(), "a named recipe"),
        ("greedy_right", OURS, Parts(skill=True, samples=8), "a problem answered greedily (eval.tasks=[problem_gree"),
        ("pass_1", OURS, Parts(skill=True, greedy=True), "that many answers drawn to each question of a problem"),
        ("pass_64", OURS, Parts(samples=63), "pass@k is of k=1, 8, 64, up to eval.samples"),
        ("pass_2", OURS, Parts(samples=64), "pass@k is of k=1, 8, 64, up to eval.samples"),
        ("answer_tokens", OURS, Parts(), "that many answers drawn"),
        ("problem_samples/pass_1", ["problem_samples"], Parts(samples=8), "is a metric by its own name; write pass_1"),
        ("problem_samples/pass_1", OURS, Parts(), "no such task is scored"),
    ],
)
def test_no_trial_would_have_it(name: str, tasks: list[str], parts: Parts, words: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(words)):
        check_measured("primary", name, tasks, [parts, Parts()])


def test_a_trial_would_have_it() -> None:
    arms = [Parts(moe_layers=2, mtp_depth=2), Parts(recipe=True)]
    names = ["python_cloze/acc_norm", "python_bits_per_byte/bits_per_byte", "loss", "loss_error"]
    for name in (*names, "mtp_loss_2", "mtp_tokens_per_forward", "max_vio_global_layer2", "rounding_error_weight"):
        check_measured("primary", name, OURS, arms)
    for name in ("pass_1", "pass_8", "answers_formatted", "answers_ended", "answer_tokens"):
        check_measured("primary", name, ["problem_samples"], [Parts(samples=8), Parts()])
    check_measured("primary", "greedy_right", ["problem_greedy"], [Parts(greedy=True)])
    check_measured("primary", "problem_greedy/exact_match", ["problem_greedy"], [Parts(greedy=True)])
    for name in ("answer_nats_level0", "answer_nats_level4", "answer_accuracy_level4"):
        check_measured("primary", name, [], [Parts(skill=True, levels=(0, 4)), Parts()])
        check_measured("primary", name, [], [Parts(skill=True)])  # where nobody knows
    check_measured("primary", "mmlu_anatomy/acc", ["mmlu"], [Parts()])
    check_measured("primary", "mine/acc", ["tasks/mine.yaml"], [Parts()])


@pytest.mark.parametrize(("level", "known"), [(2, True), (8, True), (3, False)])
def test_a_skills_levels_are_those_that_it_draws(tmp_path: Path, level: int, known: bool) -> None:
    text = (ROOT / "sweeps/memory.yaml").read_text().replace("answer_nats_level1", f"answer_nats_level{level}")
    (tmp_path / "levels.yaml").write_text(text)
    words = ["sweep=levels", f"sweeps_dir={tmp_path}", "scale=smoke"]
    if known:
        assert make_plan(compose(words)).sweep.primary == f"answer_nats_level{level}"
        return
    with pytest.raises(ConfigError, match="no arm here has answers of that level"):
        make_plan(compose(words))


def test_what_arms_answer_is_read_off_their_keys() -> None:
    problem = {"data.source": "problem", "data.problem": "sums", "eval.tasks": ["problem_samples"], "eval.samples": 8}
    resolved = {"a": with_overrides(TrialKeys(), problem, "here")}

    def checked(metric: str) -> None:
        arms = {"a": ArmConfig(about="one")}
        sweep = SweepConfig(name="s", question="Is it?", baseline="a", arms=arms, metrics=[metric])
        check_metrics_exist(sweep, resolved, "s.yaml")

    checked("pass_8")
    for name in ("pass_64", "greedy_right"):
        with pytest.raises(ConfigError, match=re.escape(f"s.yaml: metrics[0]={name}: no arm here has ")):
            checked(name)


def test_what_our_tasks_give_is_what_their_files_say() -> None:
    files = {path.stem: path.read_text() for path in Path(known.__file__).parent.glob("*.yaml")}
    more = {name: (BITS, MARGIN) if "output_type: multiple_choice" in text else () for name, text in files.items()}
    given = {n: (*YAML.findall(text), *more[n]) for n, text in files.items()}
    run = dict.fromkeys(PROGRAMS, (PASSED,))
    assert given == {**known.OUR_METRICS, **dict.fromkeys(known.REFERENCES, ("bits_per_byte",)), **run}
    assert metric(f"humaneval/{PASSED}").better == "higher"
    assert (metric(f"python_cloze/{BITS}").better, metric(f"python_cloze/{MARGIN}").better) == ("lower", "higher")


def test_indices_of_a_name_are_numbers_in_order() -> None:
    names = ["mtp_loss_10", "mtp_loss_2", "mtp_loss_x", "mtp_acceptance_1", "loss"]
    assert indices("mtp_loss_<k>", names) == [2, 10]
