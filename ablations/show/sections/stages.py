"""What the stages of a training did and cost."""

from statistics import fmean

from ablations import numbers
from ablations.judge.result import Result
from ablations.show.table import Table


def stages_table(result: Result) -> Table:
    """Empty where no arm is a chain of stages."""
    rows, chained = [], False
    taught, moved = (any(n in a.values for a in result.arms.values()) for n in ("teacher_flops", "kl_from_base"))
    for arm in result.arms.values():
        records = [record for seed in arm.of_status("complete") if (record := arm.records[seed]).stages]
        if not records:
            continue
        chained = chained or any(record.chained for record in records)
        stages = list(zip(*(record.stages for record in records), strict=True))
        written = fmean(sum(stage.drawn for stage in record.stages) for record in records)
        rows.append(
            [
                arm.name,
                " + ".join(str(round(fmean(one.steps for one in stage))) for stage in stages),
                " + ".join(numbers.count(fmean(one.tokens for one in stage)) for stage in stages),
                numbers.count(written),
                numbers.count(arm.mean("flops")),
                *([numbers.count(arm.mean("teacher_flops"))] if taught else []),
                *([numbers.fixed(arm.mean("kl_from_base"), 3)] if moved else []),
            ]
        )
    columns = ["arm", "steps", "tokens learned", "tokens written", "FLOPs"]
    columns += ["FLOPs of its teacher"] * taught + ["KL from the base"] * moved
    note = (
        "Stage by stage, first to last, means over seeds. Written: by the model itself or its teacher, to be learned "
        "from. FLOPs: of learning and writing, in all stages."
    )
    note += " Those of the teacher's own training are apart." * taught
    note += " KL from the base: of the model's own answers from what its first stage left, in nats an answer." * moved
    return Table("What the stages cost", columns, rows if chained else [], note, words=(0, 1, 2))
