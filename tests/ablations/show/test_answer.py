"""The sentence that a result begins with, and what would settle what it leaves open."""

import dataclasses
import math
import re
from pathlib import Path
from typing import Any

from ablations.config.schema import ExpectedConfig
from ablations.judge.families import families_of
from ablations.judge.gather import load_result
from ablations.judge.power import seeds_clear_of, seeds_needed
from ablations.judge.result import Result
from ablations.record.record import StageRecord
from ablations.show import page, render
from ablations.show.answer import answer, brief, claim, findings
from ablations.show.claims import MARKS
from ablations.show.markup import number
from ablations.show.remedies import remedies_table
from ablations.show.sections.every import loss_table, verdict_table

EVEN = {"arm": "bias", "metric": "max_vio_global", "kind": "better", "says": "a bias keeps experts even"}
CHEAPER = {"arm": "bias", "kind": "better", "paper_value": -0.005, "says": "it costs less than an auxiliary loss"}
NOWORSE = {"arm": "batch_aux_loss", "kind": "not_worse", "margin": 0.02, "says": "counting over the batch does no harm"}
FREE = {"arm": "none", "kind": "better", "says": "no balancing is best"}


def found(sweep_run: Any, runs: Path, *claims: dict[str, Any], **more: Any) -> Result:
    sweep_run(runs, expected=list(claims), **more)
    return load_result(runs, "moe_balance", "cpu")


def test_one_sentence_by_rule(sweep_run: Any, tmp_path: Path) -> None:
    """What holds, what does not, what is open, in whatever order the sweep claims it; the rest is counted."""
    result = found(sweep_run, tmp_path, CHEAPER, FREE, NOWORSE, EVEN, CHEAPER)
    text = answer(result)
    assert text.startswith("A bias keeps experts even, and counting over the batch does no harm (to 0.00")
    assert text.endswith(" nats); it is not so that no balancing is best. The other 2 claims are not resolved.")
    assert text.count(". ") == 1 and render.table_md(result).splitlines()[4] == text


def test_what_is_open_is_told_where_there_is_room(sweep_run: Any, tmp_path: Path) -> None:
    text = answer(found(sweep_run, tmp_path, CHEAPER, EVEN, FREE))
    assert text.startswith(
        "A bias keeps experts even; it is not so that no balancing is best; open is whether it costs "
    )
    assert text.endswith(" nats).") and text.count(". ") == 0


def test_of_many_claims_one_of_each_metric_is_told_first_and_the_others_counted(sweep_run: Any, tmp_path: Path) -> None:
    worse = NOWORSE | {"arm": "bias"}
    result = found(sweep_run, tmp_path, EVEN, EVEN, CHEAPER, NOWORSE, FREE, worse, CHEAPER, limit=0.02)
    text = answer(result)
    assert text.count("keeps experts even") == text.count("does no harm") == text.count("is best") == 1
    assert text.endswith(
        ". Of the other 4 claims, 2 agree (1 not at equal balance) and 2 are not resolved (2 not at equal balance)."
    ), "whatever a verdict has to be read with is counted too"


def test_four_claims_are_told_rather_than_one_of_them_counted(sweep_run: Any, tmp_path: Path) -> None:
    text = answer(found(sweep_run, tmp_path, EVEN, EVEN, EVEN, FREE))
    assert text.count("a bias keeps experts even") + text.count("A bias keeps experts even") == 3
    assert text.endswith("; it is not so that no balancing is best.")


def test_claims_without_words_that_differ_in_their_arm_are_one(sweep_run: Any, tmp_path: Path) -> None:
    even = {"metric": "max_vio_global", "kind": "better", "against": "none"}
    both = [{**even, "arm": "aux_loss"}, {**even, "arm": "bias"}]
    text = answer(found(sweep_run, tmp_path / "one", *both, CHEAPER, NOWORSE, FREE, {**FREE, "says": ""}))
    assert "; it is not so" in text and ", and aux_loss and bias have lower MaxVio_global than none; " in text
    assert text.endswith("Of the other 2 claims, 1 disagrees and 1 is not resolved.")
    alone = answer(found(sweep_run, tmp_path / "two", *both))
    assert alone == "aux_loss and bias have lower MaxVio_global than none.", "an arm's name stays as it is"
    three = answer(found(sweep_run, tmp_path / "four", *both, {**even, "arm": "batch_aux_loss"}))
    assert three == "aux_loss, bias, and batch_aux_loss have lower MaxVio_global than none."
    apart = answer(found(sweep_run, tmp_path / "three", both[0], {**both[1], "says": "a bias does well"}))
    assert apart == "aux_loss has lower MaxVio_global than none, and a bias does well."


def test_a_page_leads_with_the_answer_and_shows_each_claim_on_a_line(sweep_run: Any, tmp_path: Path) -> None:
    result = found(sweep_run, tmp_path, EVEN, NOWORSE | {"arm": "bias"}, CHEAPER | {"margin": 0.002}, FREE, limit=0.02)
    shown = page.page_html(result, [], [])
    assert shown.index('class="lead"') < shown.index('class="claims"') < shown.index("<table>")
    (lead,) = re.findall(r'<p class="lead">(.*?)</p>', shown)
    assert "[" not in lead and "to +" not in lead, "what stands just below is not told twice"
    lines = re.findall(r"<li><details><summary>(.*?)</summary><p class=.note.>(.*?)</p>", shown)
    assert len(lines) == len(result.verdicts) == 4
    for verdict, row, (line, folded) in zip(result.verdicts, verdict_table(result).rows, lines, strict=True):
        said = [re.sub(r"<.*?>", "", part) for part in (line, folded)]
        assert MARKS[verdict.outcome] + verdict.outcome in said[0] and number(f"{row[4]} {row[5]}") in said[0]
        assert number(row[0]) in said[1] and number(row[6]) in said[1]
        assert len(said[0]) < 125
        assert ("not at equal balance" in line) == (verdict.caveat is not None)
    assert [verdict.caveat is None for verdict in result.verdicts[:2]] == [True, False]
    assert "bias below aux_loss in loss by \N{GREATER-THAN OR EQUAL TO}\N{NO-BREAK SPACE}0.002" in lines[2][0]
    assert "paper \N{MINUS SIGN}0.0050" in lines[2][0] and "by at least 0.002 nats" in lines[2][1]


def test_by_how_much_at_least_is_said() -> None:
    by = ExpectedConfig("bias", kind="better", margin=0.0025)
    assert claim(by, "aux_loss") == "bias has lower loss than aux_loss by at least 0.0025 nats"
    assert "by at least" not in claim(ExpectedConfig("bias"), "aux_loss")


def test_a_claim_is_as_brief_as_its_margin_allows() -> None:
    same = ExpectedConfig("bias", metric="loss", kind="identical", margin=1e-9)
    at_most = "\N{LESS-THAN OR EQUAL TO}\N{NO-BREAK SPACE}"
    assert brief(same, "none") == "bias identical to none in loss, to 1e-09"
    assert brief(ExpectedConfig("bias", kind="better"), "none") == "bias below none in loss"
    assert (
        brief(ExpectedConfig("bias", kind="not_worse", margin=0.01), "none") == f"bias {at_most}0.01 above none in loss"
    )
    assert brief(ExpectedConfig("is", kind="equal", margin=0.01), "at") == "is within 0.01 of at in loss"


def test_a_claim_without_a_clause_says_itself(sweep_run: Any, tmp_path: Path) -> None:
    claim = {key: value for key, value in EVEN.items() if key != "says"}
    assert answer(found(sweep_run, tmp_path, claim)).startswith("bias has lower MaxVio_global than aux_loss.")


def test_what_was_not_measured_is_said_so(sweep_run: Any, tmp_path: Path) -> None:
    result = found(sweep_run, tmp_path / "void", CHEAPER, diverged=(("aa", 0),))
    assert answer(result).startswith("Nothing was measured of whether it costs less than an auxiliary loss")
    both = found(sweep_run, tmp_path / "none")
    none = answer(both)
    assert none.startswith("none (+0.0179 nats [") and "differs from aux_loss; the other 2 are not resolved" in none
    fewer = {name: arm for name, arm in both.arms.items() if name in ("aux_loss", "bias")}
    assert answer(dataclasses.replace(both, arms=fewer)).startswith(
        "No arm differs from aux_loss, as far as it is resolved."
    )


def test_what_would_settle_it(sweep_run: Any, tmp_path: Path) -> None:
    result = found(sweep_run, tmp_path, EVEN, CHEAPER)
    (row,) = remedies_table(result).rows
    later = dataclasses.replace(result, state=dataclasses.replace(result.state, minutes=12.0))
    assert remedies_table(later) == remedies_table(result), "the same records, the same table: no clock is in it"
    verdict = result.verdicts[1]
    assert row[:3] == ["it costs less than an auxiliary loss", "-0.0050, the paper's", str(verdict.seeds_needed)]
    assert row[3] == f"{verdict.seeds_needed / 6:.1f}x" and row[5].endswith(f"seeds={verdict.seeds_needed}")
    seconds = [r.timings["train_s"] + r.timings["eval_s"] for arm in result.arms.values() for r in arm.records.values()]
    assert row[4] == str(math.ceil(sum(seconds) / 6 * verdict.seeds_needed / 60)), "six seeds of each arm"


def test_a_papers_effect_that_an_interval_excludes_is_said_to_be(sweep_run: Any, tmp_path: Path) -> None:
    result = found(sweep_run, tmp_path, CHEAPER | {"paper_value": -0.5})
    assert "nats, and not the paper's -0.5000)" in answer(result)
    assert "not the paper's" not in answer(found(sweep_run, tmp_path / "usual", CHEAPER))
    (row,) = remedies_table(result).rows
    assert row[1].endswith("as measured"), "nobody needs seeds for what is excluded already"


def test_an_effect_of_nothing_is_a_papers_effect_too(sweep_run: Any, tmp_path: Path) -> None:
    equal = {"arm": "bias", "against": "batch_aux_loss", "kind": "equal", "margin": 0.003, "paper_value": 0.0}
    result = found(sweep_run, tmp_path, equal)
    (row,), (verdict,) = remedies_table(result).rows, result.verdicts
    d = verdict.difference
    assert row[1] == "0.0000, the paper's" and d is not None and verdict.slack > 0
    left = 0.003 - verdict.slack
    assert row[2] == str(seeds_clear_of([left, left], d.sd, d.comparisons)), "both edges, short of what rates may cost"
    assert int(row[2]) > (seeds_needed(left, d.sd, d.comparisons) or 0)


def test_what_is_not_at_equal_balance_is_said_so_in_the_sentence(sweep_run: Any, tmp_path: Path) -> None:
    result = found(sweep_run, tmp_path, NOWORSE | {"arm": "bias"}, EVEN, limit=0.02)
    assert [v.caveat for v in result.verdicts] == ["not at equal balance", None]
    assert "does no harm (to 0.00" in answer(result) and answer(result).count("; not at equal balance)") == 1


def test_where_seeds_do_not_pay_another_design_is_named(sweep_run: Any, tmp_path: Path) -> None:
    result = found(sweep_run, tmp_path, CHEAPER | {"paper_value": -1e-4})
    (row,) = remedies_table(result).rows
    assert row[2:4] == ["-", "-"] and "search more finely" in row[5], "less than a learning rate may cost"
    result = tuned(result)
    (row,) = remedies_table(result).rows
    assert row[3] == "-" and "design: branch" in row[5]
    for name, changes in (("set", {"data.order": "staged"}), ("total_params", 7)):
        plan = dataclasses.replace(result.arms["bias"].plan, **{name: changes})
        other = dataclasses.replace(result.arms["bias"], plan=plan)
        (row,) = remedies_table(dataclasses.replace(result, arms={**result.arms, "bias": other})).rows
        assert "branch" not in row[5], "which would be refused"


def tuned(result: Result) -> Result:
    """Where no learning rate costs anything."""
    return dataclasses.replace(result, verdicts=[dataclasses.replace(v, slack=0.0) for v in result.verdicts])


def test_what_diverged_is_not_settled_by_seeds(sweep_run: Any, tmp_path: Path) -> None:
    result = found(sweep_run, tmp_path, CHEAPER | {"arm": "batch_aux_loss"}, diverged=(("aux_loss", 2),))
    (row,) = remedies_table(result).rows
    assert result.verdicts[0].outcome == "not resolved" and "aux_loss, which diverged; more seeds do not" in row[5]


def test_what_was_not_seen_wants_a_control_that_is(sweep_run: Any, tmp_path: Path) -> None:
    result = found(sweep_run, tmp_path, NOWORSE)
    unseen = dataclasses.replace(result.verdicts[0], outcome="no signal here")
    control = result.differences["loss"]["control", "aux_loss"]

    def row(mean: float, sd: float, **changes: Any) -> list[str]:
        harm = dataclasses.replace(control, mean=mean, sd=sd)
        beside = {**result.differences, "loss": {**result.differences["loss"], ("control", "aux_loss"): harm}}
        verdict = dataclasses.replace(unseen, **changes)
        (told,) = remedies_table(dataclasses.replace(result, verdicts=[verdict], differences=beside)).rows
        return told

    needed = str(seeds_needed(0.01, 0.02, control.comparisons))
    assert row(0.01, 0.02)[1:3] == ["+0.0100, the control's", needed] and row(0.01, 0.02)[5].endswith(f"seeds={needed}")
    assert row(-0.01, 0.02)[2] == row(1e-6, 0.02)[2] == "-" and "a control that does harm" in row(-0.01, 0.02)[5]
    assert "longer trainings" in row(0.01, 0.02, outcome="depends on the length")[5]


def test_what_begins_in_mid_training_is_said_so(sweep_run: Any, tmp_path: Path) -> None:
    result = found(sweep_run, tmp_path, CHEAPER, NOWORSE)
    plan = dataclasses.replace(result.plan, branch_at=0.5)

    def told(*late: str) -> str:
        arms = {
            name: dataclasses.replace(arm, plan=dataclasses.replace(arm.plan, branched=name in late))
            for name, arm in result.arms.items()
        }
        return answer(dataclasses.replace(result, plan=plan, arms=arms))

    assert "switched on" not in told("none"), "of which nothing is claimed"
    assert told("bias").endswith(" bias is switched on at 50% of the steps.")
    assert told("bias", "batch_aux_loss").endswith(" All of it is switched on at 50% of the steps.")


def test_seeds_that_failed_are_told(sweep_run: Any, tmp_path: Path) -> None:
    result = found(sweep_run, tmp_path, CHEAPER)
    arm = result.arms["bias"]
    records = {s: dataclasses.replace(r, status="failed") if s < 2 else r for s, r in arm.records.items()}
    gone = dataclasses.replace(result, arms={**result.arms, "bias": dataclasses.replace(arm, records=records)})
    assert "bias failed in 2 of 6 seeds" in findings(gone) and "failed" not in " ".join(findings(result))


def test_without_claims_nothing_stands_beside_noise_rates_and_divergence(sweep_run: Any, tmp_path: Path) -> None:
    result = found(sweep_run, tmp_path)
    assert "none (+0.0179 nats [" in answer(result) and "none against aux_loss: +0.0179 nats" in findings(result)[2]
    base, loud = result.differences["loss"], dict(result.differences["loss"])
    aa = next(pair for pair in base if "aa" in pair)
    loud[aa] = dataclasses.replace(base[aa], mean=0.02, low=0.018, high=0.022)
    noisy = dataclasses.replace(result, differences={**result.differences, "loss": loud})
    assert answer(noisy).startswith("Nothing was measured: aa repeats aux_loss and yet differs, ")
    assert all(line.endswith(", void") for line in findings(noisy))
    for changes in ({"mistuning": 0.05}, {"mistuning": None}):
        arms = {**result.arms, "none": dataclasses.replace(result.arms["none"], **changes)}
        assert answer(dataclasses.replace(result, arms=arms)).startswith("No arm differs from aux_loss; none is")
    gone = found(sweep_run, tmp_path / "gone", diverged=(("none", 3),))
    assert "none (" not in answer(gone)


def test_arms_in_stages_are_not_told_to_branch(sweep_run: Any, tmp_path: Path) -> None:
    """Stages stand beside no branch."""
    result = found(sweep_run, tmp_path, CHEAPER | {"paper_value": -1e-4})
    two = [StageRecord(1, 1, 0, 1.0)] * 2
    arms = {
        name: dataclasses.replace(
            arm, records={seed: dataclasses.replace(record, stages=two) for seed, record in arm.records.items()}
        )
        for name, arm in result.arms.items()
    }
    (row,) = remedies_table(tuned(dataclasses.replace(result, arms=arms))).rows
    assert row[3] == "-" and "branch" not in row[5] and "train longer" in row[5]


def test_a_sentence_begins_as_one_whatever_the_arms_are_called(sweep_run: Any, tmp_path: Path) -> None:
    result = found(sweep_run, tmp_path, CHEAPER)
    called = dataclasses.replace(result, arms={**result.arms, "open": result.arms["none"]})
    assert answer(called) == answer(result) and answer(result).startswith("Open is whether it costs")


def test_a_rung_is_shown_against_the_one_it_stands_on(sweep_run: Any, tmp_path: Path) -> None:
    result = found(sweep_run, tmp_path)
    arms = {n: dataclasses.replace(a.plan, onto="none" if n == "bias" else None) for n, a in result.arms.items()}
    plan = dataclasses.replace(result.plan, arms=arms)
    climbed = {name: dataclasses.replace(arm, plan=arms[name]) for name, arm in result.arms.items()}
    families = families_of(climbed, plan)
    result = dataclasses.replace(result, plan=plan, arms=climbed, differences=families)
    step = families["loss"]["bias", "none"]
    assert result.usual(climbed["bias"]) == step and ("bias", "aux_loss") not in families["loss"]
    row = next(row for row in loss_table(result).rows if row[0] == "bias (onto none)")
    assert row[4] == f"{step.mean:+.4f}" and f"{step.mean:.10g}" in render.table_csv(result)
    assert "or the arm that it stands on" in loss_table(result).note


def test_what_a_search_leaves_open_is_not_settled_by_seeds(sweep_run: Any, tmp_path: Path) -> None:
    result = found(sweep_run, tmp_path, CHEAPER)
    cost = "a learning rate may cost 0.0121"
    verdict = dataclasses.replace(result.verdicts[0], mistuned=True, caveat=cost)
    open_by_rate = dataclasses.replace(result, verdicts=[verdict])
    (row,) = remedies_table(open_by_rate).rows
    assert row[2:4] == ["-", "-"] and "search more finely" in row[5] and "sweeps/moe_balance.yaml" in row[5]
    assert f" nats; {cost})" in answer(open_by_rate) and f"not resolved, {cost}" in findings(open_by_rate)[0]
