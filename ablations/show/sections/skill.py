"""The tables of a skill or a problem: what was learned, how soon, at which of its levels, and what is answered."""

from ablations import numbers
from ablations.judge.result import Result
from ablations.metrics import indices
from ablations.show.table import Table, difference_cells


def skill_table(result: Result) -> Table:
    """Answers, read between chance and ceiling; empty where nothing was asked."""
    rows = []
    for arm in result.arms.values():
        rows.append(
            [
                arm.name,
                numbers.fixed(arm.mean("answer_nats"), 4),
                *difference_cells(result.usual(arm, "answer_nats"), 4),
                numbers.percent(arm.mean("answer_accuracy"), 1),
                numbers.percent(arm.mean("item_accuracy"), 1),
                numbers.count(arm.mean("tokens_to_half")),
                _reached(arm.values.get("reached_half", {})),
                numbers.count(arm.plan.kv_bytes),
            ]
        )
    asked = [arm for arm in result.arms.values() if arm.mean("answer_nats") is not None]
    columns = ["arm", "nats of an answer", "difference", "95 % interval", "Holm p", "answers right", "whole items"]
    columns += ["tokens until halfway", "seeds that came so far", "KV bytes per token"]
    base = result.arms[result.baseline]
    chance, ceiling = (numbers.percent(base.mean(f"answer_{name}"), 1) for name in ("chance", "ceiling"))
    note = (
        f"On the test items; whoever has not learned it gets {chance} of the answers right, whoever has {ceiling}. "
        "Halfway: between these two, by a straight line from one validation to the next; of a seed that did not come "
        "so far, all tokens."
    )
    return Table("Skill", columns, rows if asked else [], note)


def levels_table(result: Result) -> Table:
    """By how hard an item is."""
    levels = result.indices("answer_accuracy_level<level>")
    rows = []
    for arm in result.arms.values():
        cells = [
            f"{numbers.percent(arm.mean(f'answer_accuracy_level{i}'), 1)} "
            f"({numbers.fixed(arm.mean(f'answer_nats_level{i}'), 3)})"
            for i in levels
        ]
        rows.append([arm.name, *cells])
    columns = ["arm", *(f"level {i}" for i in levels)]
    return Table(
        "Skill by level",
        columns,
        rows if len(levels) > 1 else [],
        "Answers right, and nats of an answer. Chance differs by level.",
    )


def answered_table(result: Result) -> Table:
    """What models answer to a problem by themselves; empty where they were not asked."""
    found = {name for arm in result.arms.values() for name in arm.values}
    passes, greedy = indices("pass_<k>", found), ["greedy_right"] if "greedy_right" in found else []
    rows = []
    for arm in result.arms.values():
        rows.append(
            [
                arm.name,
                *(numbers.percent(arm.mean(name), 1) for name in greedy),
                *(numbers.percent(arm.mean(f"pass_{k}"), 1) for k in passes),
                *difference_cells(result.usual(arm, "pass_1"), 4),
                *(numbers.percent(arm.mean(f"answers_{what}"), 1) for what in ("formatted", "ended")),
                numbers.fixed(arm.mean("answer_tokens"), 1),
            ]
        )
    columns = ["arm", *("greedy right" for _ in greedy), *(f"pass@{k}" for k in passes), "difference of pass@1"]
    columns += ["95 % interval", "Holm p", "formatted", "ended", "tokens of an answer"]
    note = (
        "Answers to questions of the test split, judged by the problem's rule. pass@k: of k answers one is right, "
        "estimated without bias from all that were drawn; formatted, ended and tokens are of the same ones."
    )
    return Table("Answers", columns, rows if greedy or "pass_1" in found else [], note)


def _reached(seeds: dict[int, float]) -> str:
    return f"{sum(value == 1 for value in seeds.values())}/{len(seeds)}" if seeds else numbers.ABSENT
