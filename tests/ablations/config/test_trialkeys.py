"""A trial's keys: how they are changed, read by their dotted names, compared, and what follows from them."""

import copy
import dataclasses
import typing
from typing import Any

import pytest

from ablations.config.trialkeys import Stage, TrainConfig, TrialKeys, differing, trial_leaves, value_of, with_overrides
from models.base.typed import ConfigError, build
from tasks.config import DataConfig

KEYS = TrialKeys()

BOUNDS: list[tuple[dict[str, Any], list[str]]] = [
    ({"optim.lr": 0}, ["optim.lr=0.0: must be at least 1e-12"]),
    ({"optim.lr": float("nan")}, ["optim.lr=nan: must be a finite number"]),
    ({"optim.lr": float("inf")}, ["optim.lr=inf: must be a finite number"]),
    ({"optim.warmup_fraction": 1}, ["optim.warmup_fraction=1.0: must be below 1"]),
    ({"optim.final_lr_ratio": 1.5}, ["must be at most 1"]),
    ({"optim.weight_decay": -0.1}, ["optim.weight_decay=-0.1: must not be negative"]),
    ({"train.validate_every": 2}, ["train.validate_every=2.0: must be at most 1"]),
    ({"train.threads": 0}, ["train.threads=0: must be above 0"]),
    ({"model.attention.q_lora_rank": 0}, ["model.attention.q_lora_rank=0: must be at least 1"]),
    ({"eval.items": 0}, ["eval.items=0: must be above 0"]),
    ({"data.fim_rate": 1.5}, ["data.fim_rate=1.5: must be at most 1"]),
    ({"data.fim_rate": -0.1}, ["data.fim_rate=-0.1: must not be negative"]),
    ({"data.ramp_from": 0}, ["data.ramp_from=0.0: must be above 0"]),
    ({"data.ramp_from": 1.5}, ["data.ramp_from=1.5: must be at most 1"]),
    ({"data.ramp_over": 0}, ["data.ramp_over=0.0: must be above 0"]),
    ({"optim.lr": "fast"}, ["optim.lr=fast: expected a number"]),
    ({"optim.rl": 1}, ["optim.rl: no such key; did you mean optim.lr?"]),
    ({"model.moe": {"top_k": 2}}, ["model.moe is a group: write its keys out, such as model.moe."]),
    (
        {"runs_dir": "x"},
        ["runs_dir: not a key of a trial; an arm can set model.*, data.*, optim.*, train.*, grpo.*, distil.*, eval.*"],
    ),
    ({"before": []}, ["before: not a key of a trial"]),
    ({3: 1}, ["3: not a key of a trial"]),
]


@pytest.mark.parametrize(("changes", "parts"), BOUNDS, ids=[str(changes) for changes, _ in BOUNDS])
def test_a_value_that_no_key_takes_is_one_line_that_says_where(changes: dict[str, Any], parts: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        with_overrides(KEYS, changes, "sweeps/x.yaml arm y")
    assert str(caught.value).startswith("sweeps/x.yaml arm y: ") and "\n" not in str(caught.value)
    for part in parts:
        assert part in str(caught.value)


def test_changed_keys_are_typed_and_new_ones() -> None:
    before, tasks = copy.deepcopy(KEYS), ["x"]
    changed = with_overrides(KEYS, {"optim.lr": 1, "eval.tasks": tasks, "model.moe.balance.kind": "bias"}, "here")
    assert changed.optim.lr == 1.0 and isinstance(changed.optim.lr, float)
    assert (changed.eval.tasks, changed.model.moe.balance.kind) == (["x"], "bias")
    tasks.append("y")
    assert changed.eval.tasks == ["x"] and before == KEYS, "whose lists are nobody else's"
    assert changed.model.attention == KEYS.model.attention and changed.data == KEYS.data
    assert with_overrides(KEYS, {}, "here") == KEYS


def test_the_last_stage_changes_and_those_before_it_stay() -> None:
    two = dataclasses.replace(KEYS, before=KEYS.stages)
    changed = with_overrides(two, {"optim.lr": 0.5}, "here")
    assert changed.before == KEYS.stages and [stage.optim.lr for stage in changed.stages] == [KEYS.optim.lr, 0.5]


@pytest.mark.parametrize("name", trial_leaves())
def test_every_key_is_found_and_told_apart_by_its_dotted_name(name: str) -> None:
    tree: Any = dataclasses.asdict(KEYS)
    for part in name.split("."):
        tree = tree[part]
    assert value_of(KEYS, name) == tree
    assert differing(KEYS, _set(KEYS, name.split("."), object())) == [name]


def _set(node: Any, path: list[str], value: object) -> Any:
    inner = _set(getattr(node, path[0]), path[1:], value) if path[1:] else value
    return dataclasses.replace(node, **{path[0]: inner})


def test_equal_keys_differ_in_nothing() -> None:
    assert differing(KEYS, copy.deepcopy(KEYS)) == []
    other = with_overrides(KEYS, {"train.perturb": 1e-6, "model.n_layers": 5}, "here")
    assert differing(KEYS, other) == differing(other, KEYS) == ["model.n_layers", "train.perturb"]


def test_keys_go_through_a_pipe_whole() -> None:
    two = dataclasses.replace(KEYS, before=[Stage(train=TrainConfig(tokens=5000))])
    assert build(TrialKeys, dataclasses.asdict(two)) == two
    assert build(TrialKeys, {}) == KEYS


def test_every_number_of_a_trial_has_a_range() -> None:
    """A field without one would take anything."""
    bare = []
    for name in trial_leaves():
        *path, leaf = name.split(".")
        cls: Any = TrialKeys
        for group in path:
            cls = typing.get_type_hints(cls)[group]
        if typing.get_type_hints(cls, include_extras=True)[leaf] in (int, float, int | None, float | None):
            bare.append(name)
    assert bare == []


def test_a_trial_is_as_long_as_its_stages() -> None:
    """Whole batches only, in every stage its own."""
    data = DataConfig(batch_size=16, seq_len=128)
    half = TrialKeys(data=data, train=TrainConfig(tokens=512_000, token_fraction=0.5))
    assert (half.tokens, half.tokens_per_step, half.steps, half.trained_tokens) == (256_000, 2048, 125, 256_000)
    short = Stage(data=dataclasses.replace(data, seq_len=64), train=TrainConfig(tokens=5000))
    assert (short.steps, short.sequences, short.tokens_after(4), short.tokens_after(0)) == (4, 64, 4096, 0)
    two = dataclasses.replace(half, before=[short])
    assert [stage.steps for stage in two.stages] == [4, 125] and two.trained_tokens == 4096 + 256_000
    assert half.stages == two.stages[1:] and type(two.stages[1]) is Stage
