"""The table of what models answer to problems: there where they were asked, with the records' numbers."""

import dataclasses
from pathlib import Path

from ablations.judge.gather import load_result
from ablations.show.sections.every import all_tables
from ablations.show.sections.skill import answered_table


def test_answers_are_shown_where_there_are_any(finished_run: Path) -> None:
    bare = load_result(finished_run, "moe_balance", "cpu")
    assert not answered_table(bare).rows and "answered" not in all_tables(bare)
    arms = {}
    for number, (name, arm) in enumerate(bare.arms.items()):
        said = {"greedy_right": 0.5 + number / 100, "pass_1": 0.25, "pass_8": 0.75, "answer_tokens": 12.25}
        said |= {"answers_formatted": 0.9, "answers_ended": 1.0}
        values = {metric: dict.fromkeys(arm.seeds, value) for metric, value in said.items()}
        arms[name] = dataclasses.replace(arm, values=arm.values | values)
    table = answered_table(dataclasses.replace(bare, arms=arms))
    assert table.columns[:4] == ["arm", "greedy right", "pass@1", "pass@8"], "and no pass@64, which has no answers"
    for number, row in enumerate(table.rows):
        cells = dict(zip(table.columns, row, strict=True))
        assert cells["greedy right"] == f"{50 + number}.0 %" and cells["pass@8"] == "75.0 %"
        assert (cells["formatted"], cells["ended"], cells["tokens of an answer"]) == ("90.0 %", "100.0 %", "12.2")
