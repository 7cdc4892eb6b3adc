"""What the help says is whole, and what the document about sweep files says is true."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import yaml

from ablations import run
from ablations.config.compose import compose
from ablations.config.help import first_sentence, help_text, sweep_help
from ablations.home import ROOT
from ablations.metrics import METRICS
from ablations.sweep.plan import config_guards
from ablations.sweep.planning import make_plan

DOCUMENT = (ROOT / "docs" / "adding_a_sweep.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("text", "first"),
    [
        (
            "Affinities: a sigmoid (V3 eq. 15), or a softmax. Off: none.",
            "Affinities: a sigmoid (V3 eq. 15), or a softmax",
        ),
        ("lambda of eq. 25: the loss. More.", "lambda of eq. 25: the loss"),
        ("As in Gloeckle et al. 2024, by 0.5 nats. `x`: y.", "As in Gloeckle et al. 2024, by 0.5 nats"),
        ("Multiplied (V3: 1; V2: 0.707. None). Then.", "Multiplied (V3: 1; V2: 0.707. None)"),
        ("A subset; null takes all. More.", "A subset"),
        ("No stop", "No stop"),
        ("", ""),
    ],
)
def test_a_sentence_ends_where_it_ends(text: str, first: str) -> None:
    assert first_sentence(text) == first


def test_nothing_in_the_help_is_cut() -> None:
    for text in (help_text(), sweep_help()):
        assert max(map(len, text.splitlines())) <= 120
        words = text.split()
        assert [word for word in words if word.endswith("...") and word != "..."] == []
        assert text.count("(") == text.count(")")
    assert "(V3 eq. 15)" in help_text() and "sum_j P_j" not in help_text()
    assert "a fraction of the KV cache?" in " ".join(help_text().split())


def test_what_stands_under_a_key_is_in_the_help_wherever_its_group_lives() -> None:
    """One of each file that keys stand in."""
    text = " ".join(help_text().split())
    for key, about in {
        "train.microbatches": "Microbatches per optimizer step",
        "model.precision.block": "Side of a tile",
        "optim.lr": "Peak learning rate",
        "grpo.group": "G, the answers drawn to each question",
        "distil.answers": "Whose answers",
        "data.batch_size": "Sequences per optimizer batch",
        "launch.workers": "Trials at once",
    }.items():
        assert re.search(rf"{re.escape(key)}=\S+ (\{{\S+\}} )?{re.escape(about)}", text), key


def test_the_help_for_sweep_files_is_asked_for_by_name(capsys: Any) -> None:
    assert run.main(["--help", "sweep"]) == 0
    assert capsys.readouterr().out == sweep_help() + "\n"
    for word in (
        "question",
        "tolerance",
        "constraint_max",
        "train.token_fraction",
        "paper_value",
        "optional",
        *(metric.name for metric in METRICS if not metric.yardstick),
    ):
        assert word in sweep_help()


def test_the_document_lists_what_the_schema_has() -> None:
    listed = DOCUMENT.partition("```text\n")[2].partition("```")[0]
    assert listed == sweep_help(), "put what `python -m ablations.run --help sweep` prints into docs/adding_a_sweep.md"


@pytest.mark.parametrize("scale", ["cpu", "gpu", "smoke"])
def test_the_documents_example_is_what_it_says(scale: str, folder: Callable[..., list[str]]) -> None:
    """At equal size, by its own budget guard."""
    example = yaml.safe_load(DOCUMENT.partition("```yaml\n")[2].partition("```")[0])
    made = make_plan(compose([*folder(example)[:2], f"scale={scale}"]))
    guards = [guard for guard in config_guards(made, made.arms["two_shared"]) if guard.name in ("budget", "isolation")]
    assert all(guard.passed for guard in guards), guards
    if scale == "cpu":
        size = {name: arm.cost.active_params for name, arm in made.arms.items()}
        assert size["two_shared"] == pytest.approx(size["one_shared"], rel=0.005)
