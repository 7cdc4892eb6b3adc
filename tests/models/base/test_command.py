from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import pytest

from models.base.command import given, is_pair, keys_of, parse, parted
from models.base.typed import AtLeast, ConfigError


@dataclass(frozen=True)
class Group:
    names: list[str] = field(default_factory=lambda: ["a", "b"])
    rate: float | None = None
    hidden: int = 1


@dataclass(frozen=True)
class Keys:
    name: str = ""
    count: Annotated[int, AtLeast(1)] = 2
    kind: Literal["true", "again"] = "true"
    folder: Path | None = None
    on: bool = False
    group: Group = field(default_factory=Group)


def test_a_folder_may_have_an_equals_sign_in_its_name() -> None:
    assert [is_pair(word) for word in ("seed=1", "eval.items=", "=", "/tmp/a=b", "~/x=y/z", "moe_balance/cpu")] == [
        True, True, True, False, False, False
    ]  # fmt: skip


def test_every_kind_of_value() -> None:
    words = ["name=1e3", "count=3", "kind=AGAIN", "folder=~/runs", "on=true", "group.names=[c]", "group.rate=1e-3"]
    asked = parse(Keys, words)
    assert asked == Keys("1e3", 3, "again", Path.home() / "runs", True, Group(["c"], 1e-3))
    assert parse(Keys, []) == Keys() and parse(Keys, ["folder=null", "group.rate=null"]) == Keys()
    assert given(Keys, words[-1:]) == {"group.rate": 1e-3}


def test_words_for_others_are_handed_on_in_their_order() -> None:
    words = ["sweep=a", "count=3", "~count", "group.rate=1", "count", "counts=4", "/tmp/count=3"]
    own, others = parted(Keys, words)
    assert own == ["count=3", "group.rate=1", "count"], "which parse refuses"
    assert others == ["sweep=a", "~count", "counts=4", "/tmp/count=3"]


def test_defaults_are_listed_without_what_is_hidden() -> None:
    listed = keys_of(Keys, hidden=["group.hidden"])
    assert listed == [
        "name=",
        "count=2",
        "kind=true",
        "folder=null",
        "on=false",
        "group.names=[a,b]",
        "group.rate=null",
    ]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nam=x"], "nam: no such key; did you mean name"),
        (["group.hidden=2"], "group.hidden: no such key"),
        (["name"], "name: expected name=VALUE"),
        (["count=2", "count=3"], "count: given twice"),
        (["count=0"], "count=0: must be at least 1"),
        (["count=many"], "count=many: expected a whole number"),
        (["count=nan"], "count=nan: expected a whole number"),
        (["kind=maybe"], "kind=maybe: expected one of true, again"),
        (["group.names=[a"], r"group.names=\[a: not a value"),
        (["group.names=a"], "group.names=a: expected a list"),
        (["on=1"], "on=1: expected true or false"),
        (["group.names={a: 1, a: 2}"], "has a twice; keep one"),
        (["group.names=[b, {a: {c: 1, 'c': 2}}]"], "has c twice; keep one"),
        (["group.names={b: o'neil, a: 1, a: 2}"], "has a twice; keep one"),
        (['group.names={a: 1, "\\x61": 2}'], "has a twice; keep one"),
        (["group.names=a: 1\na: 2"], "has a twice; keep one"),
        (["group.names={1: a, 0x1: b}"], "has 1 twice; keep one"),
        (["group.names={a: {b: 1}, b: 'a: 1, a: 2', c: [{a: 1}, {a: 2}]}"], "expected a list$"),
    ],
)
def test_what_is_wrong_is_one_line(words: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse(Keys, words, hidden=["group.hidden"])
