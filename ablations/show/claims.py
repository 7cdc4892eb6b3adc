"""A page's claims, one a line: a mark, the claim in few words, what was measured. The rest of each is folded."""

import re

from ablations import numbers
from ablations.judge.result import Result
from ablations.show.answer import brief, findings
from ablations.show.markup import number, text
from ablations.show.table import Table

MARKS = {
    "agrees": "\N{CHECK MARK}",
    "disagrees": "\N{BALLOT X}",
    "not resolved": "?",
    "depends on the length": "~",
    "no signal here": "\N{EMPTY SET}",
    "void": "\N{EN DASH}",
}


def claims(result: Result, table: Table) -> str:
    """Of a sweep that claims something. `table`: its verdicts."""
    lines = []
    for expected, verdict, row in zip(result.expected, result.verdicts, table.rows, strict=True):
        claim, outcome, paper, paper_difference, measured, interval, why = row
        caveat = f" <small>{text(verdict.caveat)}</small>" if verdict.caveat is not None else ""
        beside = f'<small class="paper">paper {number(paper_difference)}</small>' if _has(paper_difference) else ""
        found = " ".join(cell for cell in (measured, interval) if _has(cell))
        told = [f"{outcome[:1].upper()}{outcome[1:]}: {claim}.", why]
        told += [f"Paper: {paper}" + (f" (difference {paper_difference})." if beside else "")] if _has(paper) else []
        lines.append(
            f'<li><details><summary><span class="outcome {verdict.outcome.replace(" ", "-")}">'
            f"<b>{MARKS[verdict.outcome]}</b><span>{verdict.outcome}</span></span>"
            f'<span class="words">{_whole(number(brief(expected, result.plan.rival(expected))))}{caveat}</span>'
            f'<span class="measured">{number(found)}</span>{beside}</summary>'
            f'<p class="note">{number(" ".join(part for part in told if part))}</p></details></li>'
        )
    note = f'<details class="note"><summary>How to read them</summary><p class="note">{text(table.note)}</p></details>'
    return f'<h2>{text(table.title)}</h2>\n<ul class="claims">{"".join(lines)}</ul>\n{note if table.note else ""}'


def _whole(words: str) -> str:
    """`1e-09` is not broken behind its hyphen."""
    return re.sub(r"\b\d+e-\d+", r'<span class="whole">\g<0></span>', words)


def _has(cell: str) -> bool:
    return cell != numbers.ABSENT


def arm_by_arm(result: Result) -> str:
    """Of a sweep that claims nothing: a line for each arm."""
    return f"<ul>{''.join(f'<li>{number(line)}</li>' for line in findings(result))}</ul>"
