"""What the arms, stages and trunk of a sweep learn from and are asked, and what stands before them."""

from collections.abc import Callable
from typing import Any

import pytest

from ablations.config.compose import compose
from ablations.run import main
from ablations.sweep.planning import make_plan
from models.base.typed import ConfigError

TEXT = {"data.source": "python_packages", "data.skill": None, "data.problem": None}
ARMS = {name: {"set": {"optim.warmup_fraction": warmup}} for name, warmup in (("a", 0.1), ("b", 0.3))}
LEAST = {"question": "?", "source": "nobody", "baseline": "a", "search": {"keys": {}}, "arms": ARMS}
LOSS = {"primary": "loss", "metrics": ["loss"]}


@pytest.mark.parametrize(
    ("task", "source"),
    [
        ("skill_answers", {"data.source": "skill", "data.skill": "chain"}),
        ("problem_greedy", {"data.source": "problem", "data.problem": "sums"}),
    ],
)
def test_what_is_asked_may_be_of_what_arms_learn_from(
    task: str, source: dict[str, Any], folder: Callable[..., list[str]]
) -> None:
    """Before any arm has said its source it is text, of which nothing is asked."""
    sweep = {**LEAST, "common": {"data.seq_len": 128, "eval.tasks": [task], "eval.tokens": 4096}}
    arms = {name: {"set": {**source, **arm["set"]}} for name, arm in ARMS.items()}
    words = folder({**sweep, "arms": arms, "primary": "answer_nats", "metrics": ["answer_nats"]})
    assert compose(words).eval.tasks == [task]
    with pytest.raises(ConfigError, match=f"^eval.tasks={task}: "):
        compose(folder({**sweep, "arms": {name: {"set": {**arm["set"], **TEXT}} for name, arm in arms.items()}}))


def test_what_every_arm_asks_counts_and_not_what_stands_before(folder: Callable[..., list[str]]) -> None:
    arms = {name: {"set": {"eval.tasks": ["skill_answers"], **arm["set"]}} for name, arm in ARMS.items()}
    common = {"data.source": "skill", "data.skill": "chain", "data.seq_len": 128, "eval.tokens": 4096}
    sweep = {**LEAST, "common": common, "arms": arms, "primary": "answer_nats", "metrics": ["answer_nats"]}
    assert compose(folder(sweep))


@pytest.mark.parametrize(
    ("trunk", "said"),
    [
        ({"data.max_bytes": 1000}, "mine.yaml trunk: data.max_bytes=1000: is read only with text"),
        ({"data.skill": "recall"}, "data.skill=chain: goes on in the place of a trunk that has data.skill=recall"),
    ],
)
def test_a_trunk_learns_what_its_branches_learn(
    trunk: dict[str, Any], said: str, folder: Callable[..., list[str]]
) -> None:
    common = {"data.source": "skill", "data.skill": "chain", "data.seq_len": 128, "eval.tasks": []}
    branch = {"design": "branch", "branch_at": 0.5, "trunk": trunk, "common": common, **LOSS}
    with pytest.raises(ConfigError) as error:
        make_plan(compose(folder({**LEAST, **branch})))
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("common", "trunk", "said"),
    [
        (
            {},
            {"data.max_bytes": 100_000},
            "data.max_bytes=null: goes on in the place of a trunk that has data.max_",
        ),
        (
            {"data.skills": ["chain"]},
            {"data.skills": []},
            "data.skills=['chain']: goes on in the place of a trunk",
        ),
        (
            {"data.source": "domains", "data.domains": {"a": "x.txt", "b": "y.txt"}},
            {"data.weights": {"a": 1, "b": 3}},
            "data.weights=null: goes on in the place of a trunk that has data.weights=",
        ),
        ({}, {"data.fim_rate": 0.5}, "data.fim_rate=null: goes on in the place of a trunk that has data.fim_rate=0.5"),
        ({"data.skills": ["chain"]}, {"data.skills_share": 0.5}, "data.skills_share=0.1: in the place of a trunk that"),
        (
            {"data.source": "domains", "data.domains": {"a": "x.txt", "b": "y.txt"}},
            {"data.domain_per": "batch"},
            "data.domain_per=sequence: in the place of a trunk that has data.domain_per=batch: some text",
        ),
        (
            {"data.source": "skill", "data.skill": "recall", "data.settings": {"pairs": [4], "keys": 16}},
            {"data.settings": {"pairs": [4], "keys": 8}},
            "data.settings={'pairs': [4], 'keys': 16}: goes on in the place of a trunk that has data.settings=",
        ),
    ],
)
def test_a_trunks_tokens_are_those_of_its_branches(
    common: dict[str, Any], trunk: dict[str, Any], said: str, folder: Callable[..., list[str]]
) -> None:
    sweep = {**LEAST, "design": "branch", "branch_at": 0.5, "common": {**common, "eval.tasks": []}, **LOSS}
    assert compose(folder(sweep))
    with pytest.raises(ConfigError) as error:
        make_plan(compose(folder({**sweep, "trunk": trunk})))
    assert said in str(error.value)


def test_a_trunk_is_asked_as_its_branches_are(folder: Callable[..., list[str]]) -> None:
    common = {"data.source": "problem", "data.problem": "sums", "data.seq_len": 64, "eval.tasks": []}
    branch = {"design": "branch", "branch_at": 0.5, "common": common, "trunk": {"data.template": "chat"}, **LOSS}
    with pytest.raises(ConfigError, match="data.template=plain: goes on in the place of a trunk that has data."):
        make_plan(compose(folder({**LEAST, **branch})))


def test_a_teachers_fault_is_the_teachers(folder: Callable[..., list[str]]) -> None:
    common = {"data.source": "problem", "data.seq_len": 64, "eval.tasks": []}
    stages = {"t": {"optim.warmup_fraction": 0.2}, "s": {"distil.loss": "forward_kl", "data.problem": "sums"}}
    arms = {"a": {"stages": ["s"]}, "b": {"stages": ["s"], "set": {"optim.warmup_fraction": 0.3}}}
    with pytest.raises(ConfigError, match="arm a: teacher: data.source=problem: needs data.problem=NAME"):
        compose(folder({**LEAST, "common": common, "stages": stages, "teacher": ["t"], "arms": arms, **LOSS}))


def test_a_fault_of_all_is_not_the_teachers(folder: Callable[..., list[str]]) -> None:
    common = {"data.source": "problem", "data.problem": "sums", "data.seq_len": 64, "eval.tasks": []}
    stages = {"t": {}, "s": {"distil.loss": "forward_kl"}}
    arms = {name: {"stages": ["s"], **arm} for name, arm in ARMS.items()}
    words = folder({**LEAST, "common": common, "stages": stages, "teacher": ["t"], "arms": arms, **LOSS})
    assert compose(words)
    for word in ("data.seq_len=10", "train.tokens=10"):
        with pytest.raises(ConfigError, match=rf"^{word}\b"):
            compose([*words, word])


def test_who_is_blamed_does_not_hide_what_is_wrong(folder: Callable[..., list[str]]) -> None:
    """Without the command line an arm that is not even run would be the baseline."""
    arms = {
        "a": {},
        "b": {"set": {"model.moe.top_k": 80}},
        "c": {"optional": True, "set": {"optim.warmup_fraction": 0.4}},
    }
    sweep = {**LEAST, "common": {"optim.warmup_fraction": 0.4}, "arms": {**arms, "d": {"set": {"optim.eps": 1e-9}}}}
    with pytest.raises(ConfigError, match="arm b: model.moe.top_k=80: a token cannot choose"):
        compose([*folder(sweep), "optim.warmup_fraction=0.1"])
    with pytest.raises(ConfigError, match="arm c: nothing in it differs from the baseline"):
        compose([*folder(sweep), "arms=[c]"])
    assert compose([*folder(sweep), "arms=[d]"])


def test_rates_of_fill_in_the_middle_share_their_tokens(folder: Callable[..., list[str]]) -> None:
    common = {"data.fim_rate": 0.1, "eval.tasks": []}
    branch = {"design": "branch", "branch_at": 0.5, "common": common, "trunk": {"data.fim_rate": 0.0}, **LOSS}
    assert make_plan(compose(folder({**LEAST, **branch})))


def test_a_skill_with_other_words_is_no_second_stage(folder: Callable[..., list[str]]) -> None:
    skill = {"data.source": "skill", "data.skill": "recall", "eval.tasks": []}
    arms = {
        name: {"stages": ["first", "last"], "set": {"optim.warmup_fraction": w}} for name, w in (("a", 0.1), ("b", 0.3))
    }
    sweep = {
        "question": "?",
        "source": "nobody",
        "baseline": "a",
        "common": skill,
        "search": {"keys": {}},
        "arms": arms,
    }
    for keys in (16, 8):
        settings = {"first": {"pairs": [4], "keys": keys}, "last": {"pairs": [2, 4], "keys": 16}}
        words = folder({**sweep, "stages": {name: {"data.settings": own} for name, own in settings.items()}})
        if keys == 16:
            assert compose(words)
            continue
        with pytest.raises(ConfigError, match="stages: data.settings=.*8}, and then .*16}: the first's tokens mean ot"):
            compose(words)


@pytest.mark.parametrize(
    ("common", "own"),
    [
        ({"data.source": "skill", "data.skill": "recall"}, {"data.settings": {"pairs": [2]}}),
        ({"data.source": "skill"}, {"data.skill": "recall", "data.settings": {"pairs": [2]}}),
        ({"data.seq_len": 100_000}, {"data.seq_len": 32}),
    ],
)
def test_what_stands_before_the_arms_need_not_be_whole(
    common: dict[str, Any], own: dict[str, Any], folder: Callable[..., list[str]]
) -> None:
    common = {"data.seq_len": 32, "eval.tasks": [], **common}
    arms = {name: {"set": {**own, "optim.warmup_fraction": w}} for name, w in (("a", 0.1), ("b", 0.3))}
    sweep = {
        "question": "?",
        "source": "nobody",
        "baseline": "a",
        "common": common,
        "search": {"keys": {}},
        "arms": arms,
    }
    assert compose(folder(sweep))
    broken = {"a": arms["a"], "b": {"set": {"optim.warmup_fraction": 0.3}}}
    with pytest.raises(ConfigError):
        compose(folder({**sweep, "arms": broken}))


def test_tasks_that_arms_set_are_looked_at_in_a_dry_run(
    folder: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    arms = {"a": {}, "b": {"set": {"eval.tasks": ["python_clos"]}}}
    assert main([*folder({**LEAST, "arms": arms}), "dry_run=true"]) == 2
    assert "eval.tasks=python_clos: no such task; did you mean python_cloze?" in capsys.readouterr().err


def test_a_source_is_named_in_short() -> None:
    assert compose(["sweep=moe_balance", "scale=cpu", "data=stdlib"]).data.source == "stdlib"
