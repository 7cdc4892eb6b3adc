"""What is kept beside a model in its config.json, and what of it goes elsewhere."""

from pathlib import Path
from typing import Any

import pytest

from models.base.typed import ConfigError
from models.beside import check_kinds, without_places


@pytest.mark.parametrize("wrong", [{"data": [1]}, {"end_of_text": ["</s>"]}, {"chat_template": {"default": "x"}}])
def test_a_value_of_another_kind_is_one_line(wrong: dict[str, Any]) -> None:
    check_kinds({"data": {"seq_len": 8}, "end_of_text": "<|end|>", "chat_template": None}, "x: ")
    with pytest.raises(ConfigError, match=rf"^x: {next(iter(wrong))}=.*: expected (a group of keys|text); mend it"):
        check_kinds(wrong, "x: ")
    with pytest.raises(ConfigError, match=r"^x: data=\[0(, 0)* \.\.\.: expected"):
        check_kinds({"data": [0] * 10_000}, "x: ")


def test_text_of_this_machine_is_text_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mixture of our own files is no mixture of the default packages there."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "set").mkdir()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "wikitext").mkdir()  # a preset's name, which means the preset
    kept = {"seq_len": 8, "fim_rate": 0.1}
    own = [
        {"source": "text", "path": "/here/a.txt", "text_field": "content"},
        {"source": "domains", "domains": {"a": "/here/a.txt", "b": "mypy/*.pyi"}, "weights": {"a": 2.0}},
        {"source": "hf", "name": str(tmp_path)},
        *({"source": "hf", "name": name} for name in ("~/set", "~", "..", "/home/me/gone", f"{tmp_path}/set:some")),
    ]
    (tmp_path / "mine/set").mkdir(parents=True)
    own += [{"source": "hf", "name": name} for name in ("mine/set", "mine/set:some")]
    assert [without_places({**data, **kept}) for data in own] == [{"source": "text", **kept}] * len(own)
    public: list[dict[str, Any]] = [
        {"source": "hf", "name": "wikitext"},
        {"source": "hf", "name": "OWNER/SET:some"},
        {"source": "domains", "domains": None, "domain_per": "batch"},
        {"source": "domains", "domains": {"a": "mypy/*.pyi", "b": "sympy/*.py"}, "weights": {"a": 2.0}},
        {},
    ]
    assert [without_places(data) for data in public] == public
