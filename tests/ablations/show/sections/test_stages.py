"""The table of what stages cost: there where arms are chains, with the records' numbers."""

import dataclasses
from pathlib import Path

from ablations.judge.gather import load_result
from ablations.record.record import StageRecord
from ablations.show.sections.every import all_tables
from ablations.show.sections.stages import stages_table


def test_stages_are_shown_where_there_are_any(finished_run: Path) -> None:
    bare = load_result(finished_run, "moe_balance", "cpu")
    assert not stages_table(bare).rows and "stages" not in all_tables(bare)
    arms = {}
    for number, (name, arm) in enumerate(bare.arms.items()):
        records = {}
        for seed, record in arm.records.items():
            stages = [StageRecord(10, 20_000, 0, 1e9), StageRecord(4 + number, 1_000 + seed, 500, 2e9)][: 1 + number]
            before = [{"until": 1}] * (len(stages) - 1)
            records[seed] = dataclasses.replace(record, stages=stages, config=record.config | {"before": before})
        said = {"flops": 3e9, "kl_from_base": 1.5} | ({"teacher_flops": 4.5e12} if number else {})
        values = {metric: dict.fromkeys(arm.seeds, value) for metric, value in said.items()}
        arms[name] = dataclasses.replace(arm, records=records, values=arm.values | values)
    table = stages_table(dataclasses.replace(bare, arms=arms))
    first, second = (dict(zip(table.columns, row, strict=True)) for row in table.rows[:2])
    assert (first["steps"], first["tokens learned"], first["tokens written"]) == ("10", "20k", "0")
    assert first["FLOPs of its teacher"] == "-" and first["KL from the base"] == "1.500"
    assert (second["steps"], second["tokens written"]) == ("10 + 5", "500")
    assert second["tokens learned"].startswith("20k + 1k") and second["FLOPs of its teacher"] == "4.5T"
    told = [
        dataclasses.replace(
            arm, values={n: v for n, v in arm.values.items() if n not in ("teacher_flops", "kl_from_base")}
        )
        for arm in arms.values()
    ]
    fewer = stages_table(dataclasses.replace(bare, arms=dict(zip(arms, told, strict=True))))
    assert fewer.columns == table.columns[:-2] and "KL" not in fewer.note, "what nobody has has no column"
    one = {name: dataclasses.replace(arm, records=bare.arms[name].records) for name, arm in arms.items()}
    assert not stages_table(dataclasses.replace(bare, arms=one)).rows
