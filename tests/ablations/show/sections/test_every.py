"""Tables: what each cell says, what is never printed, and bytes that repeat."""

import csv
import dataclasses
import io
import itertools
import math
import re
from pathlib import Path
from typing import Any

import pytest

from ablations import numbers
from ablations.config.designs import slope
from ablations.config.schema import DoseConfig
from ablations.config.trialkeys import TrialKeys
from ablations.files import read_json, write_json
from ablations.guards.meaning import MEANINGS
from ablations.home import ROOT
from ablations.judge.gather import load_published, load_result
from ablations.judge.result import Result
from ablations.judge.stats import differences
from ablations.judge.verdicts import BOUNDS
from ablations.metrics import COUNTED
from ablations.record.documents import Speed, SweepState
from ablations.record.guardresult import GuardResult
from ablations.show import answer, page, render, terminal
from ablations.show.figures import every as figures
from ablations.show.sections import balance, costs
from ablations.show.sections import every as sections
from ablations.show.sections.estimates import estimates_table, other_text_table

FEW = ("aux_loss", "bias", "control", "aa")


@pytest.fixture(scope="module")
def result(finished_run: Path) -> Result:
    return load_result(finished_run, "moe_balance", "cpu")


def load(runs: Path) -> Result:
    return load_result(runs, "moe_balance", "cpu")


def cell(table: sections.Table, row: str, column: str) -> str:
    return next(r for r in table.rows if r[0] == row)[table.columns.index(column)]


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (numbers.signed(-0.00412, 4), "-0.0041"),
        (numbers.signed(0.00412, 4), "+0.0041"),
        (numbers.signed(-0.00001, 4), "-1e-5"),
        (numbers.signed(8.4e-7, 4), "+8e-7"),
        (numbers.signed(0.0, 4), "0.0000"),
        (numbers.signed(-0.00006, 4), "-0.0001"),
        (numbers.percent(0.0000004, 1, sign=True), "0.0 %"),
        (numbers.interval(-0.00004, 0.0182, 4), "[-4e-5, +0.0182]"),
        (numbers.signed(None, 4), "-"),
        (numbers.fixed(math.nan, 4), "-"),
        (numbers.interval(-1.0, None, 2), "-"),
        (numbers.p_value(0.0004), "<0.001"),
        (numbers.count(1_430_000), "1.43M"),
        (numbers.count(999_960), "1M"),
        (numbers.percent(-0.111, 1, sign=True), "-11.1 %"),
        (numbers.settings({"model.moe.balance.alpha": 1e-2 / 3, "optim.lr": 5e-3}), "lr 0.005, alpha 0.003333"),
    ],
)
def test_numbers(written: str, expected: str) -> None:
    assert written == expected


def test_loss_row(result: Result) -> None:
    table = sections.loss_table(result)
    d = result.difference("none")
    assert d is not None and d.low is not None and d.high is not None
    assert cell(table, "none", "difference") == f"{d.mean:+.4f}"
    assert cell(table, "none", "95 % interval") == f"[{d.low:+.4f}, {d.high:+.4f}]"
    assert cell(table, "aux_loss", "difference") == "-"
    assert cell(table, "bias", "chosen") == "lr 0.005, u 0.01"
    assert cell(table, "control", "worth in tokens") == "-11.1 %"


def test_a_tokens_worth_that_has_no_control_is_said_so(result: Result) -> None:
    def note(*late: str) -> str:
        arms = {
            name: dataclasses.replace(arm, plan=dataclasses.replace(arm.plan, branched=name in late))
            for name, arm in result.arms.items()
        }
        return sections.loss_table(dataclasses.replace(result, arms=arms)).note

    assert "no control of its own" in note("bias") and "no control of its own" not in note()
    everything = [name for name in result.arms if name != result.baseline]
    assert "no control of its own" not in note(*everything), "the control is of their design"


@pytest.mark.parametrize(("arms", "said"), [(("none", "bias"), True), (("none", "bias", "batch_aux_loss"), False)])
def test_two_doses_do_not_test_their_line(result: Result, arms: tuple[str, ...], said: bool) -> None:
    keys = dict.fromkeys(arms, TrialKeys())
    contrasts = slope("dose", DoseConfig(values={arm: 1.0 + i**2 for i, arm in enumerate(arms)}, at=7.0), keys)
    assert {*contrasts} == {"dose", "dose_at"}
    found = dataclasses.replace(result, plan=dataclasses.replace(result.plan, contrasts=contrasts))
    assert ("Through two doses" in estimates_table(found).note) == said


def test_balance_shows_value_share_and_floor(result: Result) -> None:
    table = balance.balance_table(result)
    value = result.arms["none"].mean("max_vio_global")
    assert value is not None
    row = next(r for r in table.rows if r[0] == "none")
    assert row[1:4] == [f"{value:.3f}", f"{100 * value / 3:.1f} %", "0.014"]


def test_verdicts_stand_beside_the_papers_numbers(result: Result) -> None:
    rows = sections.verdict_table(result).rows
    assert rows[0][:4] == [
        "bias has lower loss than aux_loss",
        "not resolved",
        "2408.15664 Table 2: 9.56 to 9.50",
        "-0.0063",
    ]
    assert rows[3][0] == "none is at most 0.005 above aux_loss in loss" and rows[3][1] == "disagrees"


def test_sensitivity_says_what_the_control_showed(result: Result) -> None:
    table = sections.sensitivity_table(result)
    assert cell(table, "loss", "control is") == "detected"
    assert cell(table, "MaxVio_global", "control is") == "not detected"


def test_a_controls_tokens_are_said_beside_its_share() -> None:
    """Which is of the sweep's tokens: there the baseline takes six times as many."""
    note = sections.sensitivity_table(load_published(ROOT / "results/planning/cpu")).note
    assert note.endswith("Control: the baseline with token_fraction=0.5, 255k tokens where it has 3.07M.")


def test_an_aa_arm_that_differs_where_another_is_judged_by_is_said() -> None:
    """The A/A arm of branches lies above the baseline in balance, of which whole trainings are asked."""
    results = ROOT / "results/moe_balance"
    note = sections.sensitivity_table(load_published(results / "cpu_long")).note
    assert "aa differs from aux_loss in MaxVio_global. What is claimed of that is of arms of the other kind" in note
    assert "judged beside aa_scratch, which does not differ" in note
    assert "differs from" not in sections.sensitivity_table(load_published(results / "cpu")).note


def test_a_control_that_is_better_is_not_a_harm_that_was_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import conftest

    monkeypatch.setitem(conftest.ARMS, "control", conftest.ARMS["control"] | {"loss": -0.030})
    conftest.write_run(tmp_path)
    assert cell(sections.sensitivity_table(load(tmp_path)), "loss", "control is") == "better"


def said(found: Result) -> str:
    return "; ".join(answer.findings(found))


def test_diverged_seed_is_shown(sweep_run: Any, tmp_path: Path) -> None:
    sweep_run(tmp_path, diverged=(("none", 2),))
    found = load(tmp_path)
    assert cell(sections.loss_table(found), "none", "seeds") == "5/6, 1 diverged"
    note = sections.loss_table(found).note
    assert "over the seeds that all arms have (5)" in note and "survivors in both arms" in note
    common = [found.arms["bias"].values["loss"][seed] for seed in (0, 1, 3, 4, 5)]
    assert cell(sections.loss_table(found), "bias", "loss") == f"{sum(common) / 5:.4f}"
    assert "none, seed 2: diverged, loss is not finite at step 79" in render.table_md(found)
    assert said(found).endswith("none diverged in 1 of 6 seeds")


def test_scores_at_chance_are_marked(sweep_run: Any, tmp_path: Path) -> None:
    sweep_run(tmp_path / "a", accuracy=0.26, seeds=2)
    sweep_run(tmp_path / "b", accuracy=0.6, seeds=2)
    marked, plain = (sections.scores_table(load(tmp_path / name)) for name in ("a", "b"))
    assert cell(marked, "bias", "python cloze acc (chance 0.25)").endswith("(no signal)")
    assert cell(plain, "bias", "python cloze acc (chance 0.25)").startswith("0.")
    assert "no signal" not in str(plain.rows)


def test_failed_guard_is_named(sweep_run: Any, tmp_path: Path) -> None:
    folder = sweep_run(tmp_path, seeds=2)
    state = SweepState.read(folder)
    state.guards["bias"][0] = GuardResult("causality", False, "token 3 sees token 4")
    state.write(folder)
    state.guards["none"][1] = GuardResult("isolation", False, "no memory", ran=False)
    state.write(folder)
    found = load(tmp_path)
    table = sections.guards_table(found)
    assert cell(table, "causality", "passed") == "5/6 arms; FAIL: bias"
    assert cell(table, "isolation", "passed") == "5/6 arms; did not run: none"
    assert cell(table, "budget", "passed") == "6/6 arms"
    assert cell(table, "budget", "an arm that has passed") == MEANINGS["budget"]
    said = sections.found_by_guards_table(found).rows
    assert ["causality", "bias", "token 3 sees token 4"] in said
    assert ["isolation", "none", "did not run: no memory"] in said
    assert ["budget", "all", "-"] in said, "what several say alike stands once"
    assert table.note.startswith("Guards that this run did not have yet: yardstick, initialisation, size, ")


def test_page_leads_to_the_guards_and_to_what_each_arm_sets(result: Result) -> None:
    shown = page.page_html(result, [], [])
    assert 'href="#guards"' in shown and 'href="#what-each-arm-sets"' in shown
    _, _, section = shown.partition('<h2 id="what-each-arm-sets">')
    rows = dict(re.findall(r'<tr data-arm="(\w+)".*?<td class="word[^>]*>([^<]*)</td></tr>', section))
    assert rows["bias"] == (
        "no model.moe.balance.alpha, model.moe.balance.kind=bias, model.moe.balance.update_speed=0.01"
    )
    assert "kind" not in rows["aux_loss"] and "train.token_fraction=0.9" in rows["control"]


@pytest.mark.parametrize("state", [{}, {"seeds": 1}])
def test_page_and_table_show_the_same_tables(sweep_run: Any, tmp_path: Path, state: dict[str, Any]) -> None:
    sweep_run(tmp_path, **state)
    found = load(tmp_path)
    layers = {"max_vio_global_layer1": {0: 0.1}, "max_vio_batch_layer1": {0: 0.1}}
    arms = {n: dataclasses.replace(arm, values={**arm.values, **layers}) for n, arm in found.arms.items()}
    found = dataclasses.replace(found, arms=arms)
    titles = [table.title for table in sections.all_tables(found).values()]
    assert "Balance by MoE layer" in titles and len(set(titles)) == len(titles) > 7
    in_md = re.findall(r"^## (.+)$", render.table_md(found), flags=re.M)
    in_page = re.findall(r"<h2 id=.+?>(.+?)</h2>", page.page_html(found, [], []))
    assert [t for t in in_md if t in titles] == [t for t in in_page if t in titles] == titles


def test_figures_stand_behind_tables_that_exist() -> None:
    assert set(page.FIGURES_AFTER) <= set(sections.TABLES)
    placed = [name for names in page.FIGURES_AFTER.values() for name in names]
    assert sorted(placed) == sorted(figures._FIGURES)


def chosen(found: Result) -> dict[str, list[str]]:
    return {row[0]: row[1:] for row in sections.all_tables(found)["chosen"].rows}


def test_what_was_chosen_stands_by_arm(result: Result) -> None:
    assert {arm: row[0] for arm, row in chosen(result).items()} == {
        "aux_loss": "lr 0.005, alpha 0.01",
        "batch_aux_loss": "lr 0.005, alpha 0.01",
        "bias": "lr 0.005, u 0.01",
        "none": "lr 0.005",
    }
    assert len(sections.all_tables(result)["search"].rows) == len({(t.arm, str(t.point)) for t in result.search})


def test_what_lies_on_an_edge_is_said(sweep_run: Any, tmp_path: Path) -> None:
    """Of the stand-in's strengths the middle one is chosen, though the lowest has less loss: it is then the best only
    where the lowest does not balance."""
    sweep_run(tmp_path / "free")
    found = load(tmp_path / "free")
    assert chosen(found)["none"][-1] == "none" and chosen(found)["bias"][-1] == "u 0.01 lowest"
    assert "bias (u 0.01 lowest)" in sections.all_tables(found)["chosen"].note
    sweep_run(tmp_path / "limited", limit=0.06)
    assert chosen(load(tmp_path / "limited"))["bias"][-1] == "none", "the lowest u does not balance"


def test_a_grid_of_two_is_said_to_be_one(sweep_run: Any, tmp_path: Path) -> None:
    folder = sweep_run(tmp_path, limit=0.06)
    state = SweepState.read(folder)
    highest = max(u for trial in state.search for key, u in trial.point.items() if key.endswith("update_speed"))
    state.search = [trial for trial in state.search if highest not in trial.point.values()]
    state.write(folder)
    assert chosen(load(tmp_path))["bias"][-1] == "u 0.01 of two"


def test_what_a_search_wrote_of_its_limit_is_read_and_not_made_again(sweep_run: Any, tmp_path: Path) -> None:
    folder = sweep_run(tmp_path, limit=0.06)
    state = SweepState.read(folder)
    state.search = [dataclasses.replace(trial, share=0.0) for trial in state.search]
    state.write(folder)
    assert chosen(load(tmp_path))["bias"][-1] == "u 0.01 lowest", "by the shares in the file every point is within"


def claims_of(sweep_run: Any, runs: Path, *claims: dict[str, Any]) -> Result:
    sweep_run(runs, expected=list(claims))
    return load(runs)


def test_a_reversed_claim_is_the_same_comparison(sweep_run: Any, tmp_path: Path) -> None:
    straight = claims_of(sweep_run, tmp_path / "a", {"arm": "none", "kind": "better"})
    reverse = claims_of(sweep_run, tmp_path / "b", {"arm": "aux_loss", "against": "none", "kind": "better"})
    (ours,), (theirs,) = straight.verdicts, reverse.verdicts
    assert (ours.outcome, theirs.outcome) == ("disagrees", "agrees")
    assert ours.difference is not None and theirs.difference == ours.difference.mirrored
    assert ours.difference.comparisons == theirs.difference.comparisons == 1
    assert {d.comparisons for d in straight.differences["loss"].values()} == {1, 2}, "claimed, exploratory, diagnostic"
    assert "aux_loss minus none is -0.0179 [-0.0231, -0.0127]" in theirs.why
    assert reverse.differences["loss"] == straight.differences["loss"]
    row = sections.verdict_table(reverse).rows[0]
    assert row[0] == "aux_loss has lower loss than none" and row[4:6] == ["-0.0179", "[-0.0231, -0.0127]"]
    assert "aux_loss against none: -0.0179 nats" in said(reverse)


def test_a_metric_of_which_more_is_better_is_said_so(sweep_run: Any, tmp_path: Path) -> None:
    claim = {"arm": "bias", "metric": "python_cloze/acc", "paper_value": 0.0}
    found = claims_of(sweep_run, tmp_path, claim | {"kind": "better"}, claim | {"kind": "not_worse", "margin": 0.01})
    table = sections.verdict_table(found)
    assert [row[0] for row in table.rows] == [
        "bias has higher python cloze acc than aux_loss",
        "bias is at most 0.01 below aux_loss in python cloze acc",
    ]
    assert table.note.startswith("Higher is better: python cloze acc. ") and "(above 0)" in table.rows[0][-1]
    sentence = said(found)
    assert "(claimed: higher; paper: 0.0000)" in sentence and "(claimed: at least -0.01; paper: 0.0000)" in sentence
    assert table.rows[0][3] == "0.0000" and "gives no size" not in table.rows[0][-1]


def test_csv_holds_ten_digits_and_no_clock(result: Result) -> None:
    rows = {row["arm"]: row for row in csv.DictReader(io.StringIO(render.table_csv(result)))}
    d = result.difference("bias")
    assert d is not None
    assert rows["bias"]["loss_difference_low"] == f"{d.low:.10g}"
    assert list(rows) == sorted(rows) and rows["aux_loss"]["loss_difference_mean"] == ""
    assert not [name for name in next(iter(rows.values())) if "second" in name or name.endswith("_s") or "rss" in name]


def test_csv_is_byte_identical_whatever_the_clock_and_the_order(sweep_run: Any, tmp_path: Path) -> None:
    folder = sweep_run(tmp_path)
    before = render.table_csv(load(tmp_path))
    state = SweepState.read(folder)
    state.confirm, state.search, state.minutes = state.confirm[::-1], state.search[::-1], 99.0
    state.speed = {name: Speed(1.1 * speed.tokens_per_second) for name, speed in state.speed.items()}
    state.write(folder)
    for path in (tmp_path / "trials").glob("*/record.json"):
        content = read_json(path)
        content["timings"]["train_s"] += 5
        write_json(path, content)
    assert render.table_csv(load(tmp_path)) == before
    assert "104.5" not in before


@pytest.mark.parametrize("state", ["finished", "one seed", "nothing", "diverged"])
def test_nothing_absent_is_spelled_out(sweep_run: Any, tmp_path: Path, state: str) -> None:
    states: dict[str, dict[str, Any]] = {
        "finished": {},
        "one seed": {"seeds": 1},
        "nothing": {
            "missing": tuple((arm, seed) for arm in ("aux_loss", "bias", "control", "aa") for seed in range(2))
        },
        "diverged": {"diverged": (("bias", 0), ("bias", 1), ("aux_loss", 0))},
    }
    sweep_run(tmp_path, **{"seeds": 2, "arms": FEW, **states[state]})
    found = load(tmp_path)
    text = (
        render.table_md(found)
        + render.table_csv(found)
        + render.timings_csv(found)
        + answer.answer(found)
        + said(found)
    )
    assert not re.search(r"\b(nan|inf|None|NaN)\b", text.replace("Paper: none", "")), text


def on_terminal(result: Result, width: int) -> str:
    from rich.console import Console

    console = Console(width=width, record=True, file=io.StringIO(), color_system=None)
    terminal.print_table(console, result)
    return console.export_text()


def renamed(result: Result, names: dict[str, str], factor: float = 1.0) -> Result:
    """With other names of arms, and all numbers that many times as large."""
    arms = {
        names.get(n, n): dataclasses.replace(
            arm,
            name=names.get(n, n),
            values={m: {s: factor * v for s, v in by.items()} for m, by in arm.values.items()},
        )
        for n, arm in result.arms.items()
    }
    pairs = [(name, result.baseline) for name in arms if name != result.baseline]
    values = {name: arm.values["loss"] for name, arm in arms.items()}
    family = {(d.arm, d.against): d for d in differences(values, pairs, "loss")}
    return dataclasses.replace(result, arms=arms, differences={"loss": family})


LONG = {"bias": "bias_with_a_very_long_name_indeed", "none": "nothingwhatsoeverthatcouldbebroken"}


@pytest.mark.parametrize("width", [40, 60, 80, 100, 120])
@pytest.mark.parametrize("factor", [1.0, -1234.0])
@pytest.mark.parametrize("names", [{}, LONG], ids=["short", "long"])
def test_no_number_is_cut_on_a_terminal(result: Result, width: int, factor: float, names: dict[str, str]) -> None:
    shown = renamed(result, names, factor)
    text = on_terminal(shown, width)
    assert "\N{HORIZONTAL ELLIPSIS}" not in text
    if width >= 60:
        assert max(len(line.rstrip()) for line in text.splitlines()) <= width
    written, heads = text.split(), next(line for line in text.splitlines() if line.startswith("arm")).split()
    assert ("loss" in heads) == (width >= 60)
    for arm in shown.arms.values():
        d = shown.difference(arm.name)
        numbers_shown = [numbers.fixed(arm.mean("loss"), 4)] if "loss" in heads else []
        if d is not None:
            numbers_shown += [numbers.signed(d.mean, 4), *numbers.interval(d.low, d.high, 4).split()]
        assert set(numbers_shown) <= set(written), (arm.name, text)
        assert all(piece in "".join(written) for piece in terminal._broken(arm.name).split("\n")), "names are whole"


def test_a_zero_is_a_number(result: Result) -> None:
    """Where all that was measured is 0, nothing reads as if it were not there."""
    zero = renamed(result, {}, 0.0)
    zero = dataclasses.replace(
        zero,
        arms={n: dataclasses.replace(a, speed=Speed(15_200.0, peak_training_bytes=0.0)) for n, a in zero.arms.items()},
    )
    assert {cell(sections.loss_table(zero), name, "loss") for name in zero.arms} == {"0.0000"}
    assert {cell(balance.balance_table(zero), name, "of maximum") for name in zero.arms} == {"0.0 %"}
    assert {cell(costs.speed_table(zero), name, "training memory (MiB)") for name in zero.arms} == {"0"}
    assert cell(sections.loss_table(zero), "bias", "95 % interval") == "[0.0000, 0.0000]"


@pytest.mark.parametrize("unmeasured", ["none", "aux_loss"])
def test_an_arm_without_a_speed_leaves_the_others_theirs(sweep_run: Any, tmp_path: Path, unmeasured: str) -> None:
    folder = sweep_run(tmp_path, seeds=2)
    state = SweepState.read(folder)
    del state.speed[unmeasured]
    state.write(folder)
    table = costs.speed_table(load(tmp_path))
    rows = {row[0]: row[1:] for row in table.rows}
    assert rows.pop(unmeasured) == ["-"] * 3
    share = "-" if unmeasured == "aux_loss" else "1.00"
    assert len(rows) == 5 and all(row == ["15,200", share, "868"] for row in rows.values())
    assert "15.2k" in on_terminal(load(tmp_path), 200)


def test_secondary_columns_go_first(result: Result) -> None:
    heads = {width: on_terminal(result, width) for width in (60, 80, 100, 120, 140)}
    for width, columns in (
        (60, ["seeds", "loss"]),
        (80, ["chosen", "seeds", "loss", "MaxVio"]),
        (100, ["chosen", "seeds", "loss", "Holm p", "MaxVio", "cloze"]),
        (140, ["chosen", "seeds", "loss", "Holm p", "MaxVio", "cloze", "tok/s", "MiB"]),
    ):
        for name in ("arm", "difference", *columns):
            assert re.search(rf"\b{re.escape(name)}\b", heads[width]), (width, name)
    assert "MiB" not in heads[80] and "tok/s" not in heads[80] and "Holm" not in heads[60]
    kept = [terminal.fitting(terminal._columns(result), width) for width in range(200, 20, -1)]
    ranks = [{column.rank for column in columns} for columns in kept]
    assert all(later <= earlier for earlier, later in itertools.pairwise(ranks)), "narrower shows nothing more"
    assert all(set(range(max(found) + 1)) - found <= set() for found in ranks), "and drops the last rank first"


@pytest.mark.parametrize(
    ("accuracy", "mark", "words"),
    [(0.26, "*", "not above chance"), (1.0, "^", "at the ceiling"), (0.6, "", "")],
)
def test_a_score_without_signal_says_why(
    sweep_run: Any, tmp_path: Path, accuracy: float, mark: str, words: str
) -> None:
    sweep_run(tmp_path, accuracy=accuracy, seeds=2)
    found = load(tmp_path)
    text = on_terminal(found, 120)
    assert ("no signal" in text) == bool(mark) and (not mark or f"{mark} no signal: {words}" in text)
    cells = [cell for row in sections.all_tables(found)["scores"].rows for cell in row]
    assert any("at the ceiling" in cell for cell in cells) == (accuracy == 1.0)


def test_sentence_is_honest(result: Result) -> None:
    sentence = said(result)
    assert sentence.startswith("bias against aux_loss: -0.0047 nats [-0.0134, +0.0040], not resolved (claimed: lower;")
    assert "MaxVio_global of bias 0.107 against 0.254 of aux_loss: agrees" in sentence
    bare = dataclasses.replace(result, verdicts=[], plan=dataclasses.replace(result.plan, expected=[]))
    assert "bias against aux_loss: -0.0047 nats [-0.0134, +0.0040], not resolved" in said(bare)
    assert "none against aux_loss: +0.0179 nats [+0.0107, +0.0251], resolved" in said(bare)


def test_sentence_of_an_unfinished_run(sweep_run: Any, tmp_path: Path) -> None:
    sweep_run(tmp_path, missing=(("bias", 0),))
    assert answer.answer(load(tmp_path)).startswith("So far (35 of 36 trials): ")


def test_layers_stand_in_their_order_with_their_share_of_the_maximum(result):
    assert not balance.layer_table(result).rows, "records of before had no layers"
    arm = result.arms["bias"]
    layers = {f"max_vio_global_layer{i}": {0: i / 10} for i in range(1, 12)}
    own = dataclasses.replace(arm, values={**arm.values, **layers})
    table = balance.layer_table(dataclasses.replace(result, arms={"bias": own}))
    most = own.mean("max_vio_max")
    assert table.columns == ["arm", "metric", *(f"layer {i}" for i in range(1, 12)), "floor"]
    (row,) = table.rows
    assert row[:2] == ["bias", "MaxVio_global"] and row[-1] == numbers.fixed(own.mean("max_vio_floor"), 3)
    assert row[2] == f"0.100 ({numbers.percent(0.1 / most, 1)})" and row[12].startswith("1.100 ")


def test_rows_over_other_seeds_say_so_on_a_terminal(sweep_run: Any, tmp_path: Path) -> None:
    arms = ("aux_loss", "bias", "control", "aa")
    sweep_run(tmp_path / "one", seeds=2, arms=arms)
    sweep_run(tmp_path / "none", seeds=2, arms=arms, missing=(("aux_loss", 0), ("bias", 1)))
    heads = [terminal._columns(load(tmp_path / name))[3].head for name in ("one", "none")]
    assert heads == ["loss", "loss (own seeds)"]
    assert "rows do not compare" in sections.loss_table(load(tmp_path / "none")).note


def test_what_an_earlier_rule_estimated_is_called_no_bound(result: Result) -> None:
    assert "at most (95 %)" in sections.all_tables(result)["chosen"].note
    reworded = dataclasses.replace(result.plan, decision_rule=f"Another, with {BOUNDS}.")
    assert "at most (95 %)" in sections.all_tables(dataclasses.replace(result, plan=reworded))["chosen"].note
    earlier = dataclasses.replace(result, plan=dataclasses.replace(result.plan, decision_rule="another"))
    note = sections.all_tables(earlier)["chosen"].note
    assert "no bound" in note and "95 %" not in note


def test_a_difference_that_may_be_a_matter_of_when_is_said(result: Result) -> None:
    """An arm whose loss falls most steeply at the very end has not come to where the others are."""
    tokens = [1000.0 * step for step in range(1, 101)]

    def ending(name: str, jump: float) -> Any:
        arm = result.arms[name]
        losses = [8 - 0.5 * math.log(t) - min(max(math.log(t / jump), 0.0), 0.4) for t in tokens]
        history = {"step": tokens, "tokens": tokens, "loss": losses}
        return dataclasses.replace(
            arm, records={s: dataclasses.replace(r, history=history) for s, r in arm.records.items()}
        )

    early = {name: ending(name, 30_000) for name in result.arms}
    said = "matter of when"
    assert said not in sections.loss_table(dataclasses.replace(result, arms=early)).note
    late = dataclasses.replace(result, arms={**early, "bias": ending("bias", 70_000)})
    assert f"steepest fall of bias, and past that of the others: their differences may be a {said}" in (
        sections.loss_table(late).note
    )
    assert cell(sections.TABLES["falls"](late), "bias", "the end is") == "falling"
    assert cell(sections.TABLES["falls"](late), "none", "the end is") == "past it"
    unlearned = dataclasses.replace(early["none"], values={COUNTED: {0: 1.0, 1: 0.0}})
    late = dataclasses.replace(result, arms={**early, "none": unlearned})
    assert cell(sections.TABLES["falls"](late), "none", "the end is") == "1/2 halfway", "a mean curve may hide a jump"
    all_late = dataclasses.replace(result, arms={name: ending(name, 70_000) for name in result.arms})
    assert f"steepest fall of every arm: their differences may be a {said}" in sections.loss_table(all_late).note


def test_seeds_that_had_not_come_halfway_are_said(result: Result) -> None:
    """An order may turn where more tokens bring them there."""

    def came(name: str, seeds: int) -> Any:
        values = {COUNTED: {seed: float(seed < seeds) for seed in range(6)}}
        return dataclasses.replace(result.arms[name], values={**result.arms[name].values, **values})

    arms = {**result.arms, "bias": came("bias", 2), "none": came("none", 6), "control": came("control", 0)}
    told = dataclasses.replace(result, arms=arms)
    assert sections.loss_table(told).note.endswith("where more tokens may bring them: bias (2/6 halfway).")
    assert "halfway" not in sections.loss_table(result).note


@pytest.mark.parametrize("size", ["total_params", "active_params", "mtp_params", "kv_bytes"])
def test_whole_trainings_of_other_shapes_at_one_length_are_said(result: Result, size: str) -> None:
    def noted(arm: str, horizons: tuple[float, ...] = (), **changes: Any) -> str:
        plan = dataclasses.replace(result.plan, horizons=list(horizons))
        changed = dataclasses.replace(result.arms[arm].plan, **{size: 7}, **changes)
        arms = {**result.arms, arm: dataclasses.replace(result.arms[arm], plan=changed)}
        return sections.loss_table(dataclasses.replace(result, arms=arms, plan=plan)).note

    said = "bias differs in shape and stands at one length: after more tokens an order may be another."
    assert noted("bias").endswith(said) and "one length" not in sections.loss_table(result).note
    assert not any("one length" in text for text in (noted("bias", (0.5,)), noted("bias", branched=True)))
    assert "one length" not in noted("control"), "of which nothing is claimed"


def test_a_long_first_column_wraps_before_others_do() -> None:
    """It stays where it is when a narrow window is scrolled, and would fill it."""
    table = sections.Table("T", ["claim", "how"], [["x" * 30, "x" * 30]], "", words=(0, 1))
    assert [page._word(index, table, "x" * 30) for index in (0, 1)] == [' class="word long"', ' class="word"']
    assert page._word(0, table, "x" * 20) == ' class="word"'


def test_the_loss_on_other_text_has_the_columns_that_somebody_measured(result: Result) -> None:
    def having(*metrics: str) -> sections.Table:
        arms = {
            name: dataclasses.replace(arm, values={metric: {0: 1.5, 1: 1.25} for metric in metrics})
            for name, arm in result.arms.items()
        }
        return other_text_table(dataclasses.replace(result, arms=arms))

    assert having().rows == []
    table = having("train_loss")
    assert table.columns[:2] == ["arm", "training loss, last fifth"] and len(table.columns) == 4 and not table.note
    assert len(having("train_loss", "loss_by_file").columns) == 7
    assert having("loss_by_file").note.startswith("Files of the training packages")
