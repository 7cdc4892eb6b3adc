"""page.html: the result on one page that stands alone. No script, no external resource, light and dark.

The question and its verdicts come first, then the numbers and pictures that carry them, then what lets a reader doubt
or repeat them: guards, search, deviations, the plan's hash, the environment, the commands.
"""

import re
from collections.abc import Mapping, Sequence

from ablations import numbers
from ablations.judge.result import Result
from ablations.show import palette
from ablations.show.answer import answer, findings
from ablations.show.figures import Picture
from ablations.show.markup import number, text
from ablations.show.render import failure_lines
from ablations.show.sections import TABLES, all_tables
from ablations.show.table import Table

FIGURES_AFTER = {
    "verdicts": ("differences",),
    "lengths": ("lengths",),
    "constraint": ("loss", "max_vio", "frontier", "load"),
    "pipeline": ("timelines", "memory"),
}
"""Which figures stand behind which table, or where it would stand."""
HEADS = {"constraint": "Training"}
"""Of figures that are not about the table before them."""

ROOT_COLOURS = """
:root { --paper: #ffffff; --panel: #f5f6f8; --ink: #1b1f24; --muted: #5d646d; --faint: #d5d9de;
  --blue: #0072b2; --vermillion: #d55e00; --green: #009e73; --purple: #cc79a7; --orange: #e69f00; --sky: #56b4e9; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #14171b; --panel: #1c2026; --ink: #e7eaee; --muted: #9aa3ad; --faint: #343a42;
    --blue: #4aa3df; --vermillion: #f07f2e; --green: #2fc297; --purple: #dd94bd; --orange: #f0b429; --sky: #86cdf5; } }
"""
"""Light and dark, by the names that figures are recoloured to."""
STYLE = """
* { box-sizing: border-box; }
html { color-scheme: light dark; }
body { margin: 0; background: var(--paper); color: var(--ink); line-height: 1.5;
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 40px 24px 80px; }
h1 { font-size: 1.75rem; line-height: 1.25; margin: 4px 0 12px; max-width: 30em; text-wrap: balance; }
h2 { font-size: 1.2rem; margin: 48px 0 12px; }
p, li { max-width: 72ch; }
.eyebrow, .note, figcaption, footer { color: var(--muted); font-size: .875rem; }
.eyebrow { margin: 0; }
.lead { font-size: 1.15rem; }
.findings { padding-left: 1.2em; font-size: .9rem; color: var(--muted); } .findings li { margin: 3px 0; }
.warning { border-left: 3px solid var(--vermillion); padding: 4px 0 4px 12px; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; width: 100%; }
th, td { padding: 6px 12px 6px 0; text-align: right; white-space: nowrap; vertical-align: top;
  border-bottom: 1px solid var(--faint); }
th { color: var(--muted); font-weight: 600; vertical-align: bottom; white-space: normal; }
th.word, td.word { text-align: left; }
td.long { white-space: normal; min-width: 15em; }
tr.standing td { color: var(--muted); }
.claims { display: grid; gap: 12px; grid-template-columns: repeat(auto-fill, minmax(320px, 1fr));
  padding: 0; margin: 0; }
.claims li { list-style: none; background: var(--panel); border-radius: 6px; padding: 14px 16px; max-width: none; }
.claims p { margin: 4px 0 0; }
.outcome { font-weight: 700; }
.agrees { color: var(--green); } .disagrees { color: var(--vermillion); } .void { color: var(--purple); }
.not-resolved, .no-signal-here, .depends-on-the-length { color: var(--muted); }
.claims dl { font-size: 1rem; margin: 8px 0; gap: 0 14px; font-variant-numeric: tabular-nums; }
figure { margin: 28px 0; }
figure svg { display: block; width: 100%; max-width: 760px; height: auto; }
pre { background: var(--panel); border-radius: 6px; padding: 12px 16px; overflow-x: auto; font-size: .875rem; }
code { font-family: ui-monospace, "SF Mono", Menlo, Consolas, monospace; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 4px 20px; font-size: .875rem; }
dt { color: var(--muted); } dd { margin: 0; overflow-wrap: anywhere; }
details summary { cursor: pointer; color: var(--muted); }
"""

_VARIABLES = {
    palette.INK: "--ink",
    palette.MUTED: "--muted",
    palette.FAINT: "--faint",
    **dict(zip(palette.COLOURS, ("--blue", "--vermillion", "--green", "--purple", "--orange", "--sky"), strict=True)),
}


def page_html(result: Result, pictures: Sequence[Picture], commands: Sequence[str]) -> str:
    """`commands`: what a reader types to repeat this result."""
    by_name = {picture.name: picture for picture in pictures}
    title, tables = f"{result.sweep} ({result.scale})", all_tables(result)
    parts = [
        f'<p class="eyebrow">{text(result.sweep)} · scale={text(result.scale)} · {text(_extent(result))}</p>',
        f"<h1>{text(result.plan.question)}</h1>",
        f'<p class="lead">{number(answer(result))}</p>',
        f'<ul class="findings">{"".join(f"<li>{number(line)}</li>" for line in findings(result))}</ul>',
        *_warnings(result),
        *(part for name in TABLES for part in (_shown(result, name, tables.get(name)), *_figures(name, by_name))),
        _provenance(result, commands),
    ]
    body = "\n".join(part for part in parts if part)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{text(title)}</title>\n<style>{ROOT_COLOURS}{STYLE}</style>\n</head>\n<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def _extent(result: Result) -> str:
    done = result.planned - len(result.missing)
    return f"{len(result.arms)} arms × {len(result.seeds)} seeds, {done} of {result.planned} trials finished"


def _warnings(result: Result) -> list[str]:
    lines = []
    if result.missing:
        lines.append(f"This run is not finished: {len(result.missing)} of {result.planned} trials are missing.")
    reasons = dict.fromkeys(verdict.why for verdict in result.verdicts if verdict.outcome == "void")
    lines += [f"Void: {reason}" for reason in reasons]
    failed = [f"{a.name}: {g.name}" for a in result.arms.values() for g in a.guards if not g.holds]
    if failed:
        lines.append(f"Guards failed ({', '.join(failed)}).")
    return [f'<p class="warning">{text(line)}</p>' for line in lines]


def _shown(result: Result, name: str, table: Table | None) -> str:
    if table is None:
        return ""
    return _claims(result, table) if name == "verdicts" else _section(result, table)


def _figures(after: str, pictures: Mapping[str, Picture]) -> list[str]:
    drawn = [_figure(pictures[name]) for name in FIGURES_AFTER.get(after, ()) if name in pictures]
    return [f"<h2>{HEADS[after]}</h2>", *drawn] if drawn and after in HEADS else drawn


def _claims(result: Result, table: Table) -> str:
    """One card per claim; the paper's number beside the measured one."""
    cards = []
    for verdict, row in zip(result.verdicts, table.rows, strict=True):
        claim, outcome, paper, paper_difference, measured, interval, why = row
        facts = {"measured": measured, "95 %": interval, "paper": paper_difference}
        shown = (f"<dt>{k}</dt><dd>{number(v)}</dd>" for k, v in facts.items() if v != numbers.ABSENT)
        cards.append(
            f'<li><span class="outcome {verdict.outcome.replace(" ", "-")}">{text(outcome)}</span>'
            f"<p>{text(claim)}</p>"
            f"<dl>{''.join(shown)}</dl>"
            f'<p class="note">{number(why)}{number(" Paper: " + paper) if paper != numbers.ABSENT else ""}</p></li>'
        )
    cards_html = f'<ul class="claims">{"".join(cards)}</ul>'
    return f'<h2>{text(table.title)}</h2>\n{cards_html}\n<p class="note">{text(table.note)}</p>'


def _section(result: Result, table: Table) -> str:
    head = "".join(f'<th scope="col"{_word(i, table)}>{text(c)}</th>' for i, c in enumerate(table.columns))
    rows = []
    for row in table.rows:
        kind = result.arms[row[0]].kind if row[0] in result.arms else "arm"
        standing = "" if kind == "arm" else ' class="standing"'
        cells = (f"<td{_word(i, table, cell)}>{number(cell)}</td>" for i, cell in enumerate(row))
        rows.append(f"<tr{standing}>{''.join(cells)}</tr>")
    body = f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
    if table.folded:
        body = f"<details><summary>{len(table.rows)} points</summary>{body}</details>"
    note = f'\n<p class="note">{text(table.note)}</p>' if table.note else ""
    return f"<h2>{text(table.title)}</h2>\n{body}{note}"


def _word(index: int, table: Table, cell: str = "") -> str:
    if index not in table.words:
        return ""
    return ' class="word long"' if len(cell) > 48 else ' class="word"'


def _figure(picture: Picture) -> str:
    return f"<figure>{inline_svg(picture)}<figcaption>{text(picture.caption)}</figcaption></figure>"


def inline_svg(picture: Picture) -> str:
    """The SVG as an element of the page: colours follow the page's, ids are its own, size is the page's to give."""
    svg = picture.svg.decode()
    svg = svg[svg.index("<svg") :]
    for colour, variable in _VARIABLES.items():
        svg = re.sub(re.escape(colour) + r"\b", f"var({variable})", svg, flags=re.IGNORECASE)
    # Presentation attributes take no var(); only style does.
    svg = re.sub(r' (fill|stroke)="(var\(--\w+\))"', r' style="\1: \2"', svg)
    svg = re.sub(r'\bid="', f'id="{picture.name}-', svg)
    svg = svg.replace("url(#", f"url(#{picture.name}-").replace('href="#', f'href="#{picture.name}-')
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    opening, rest = svg.split(">", 1)
    opening = re.sub(r' (width|height)="[^"]*"', "", opening)
    return f'{opening} role="img" aria-label="{text(picture.caption)}">{rest}'


def _sweep_file(result: Result) -> str:
    written = result.plan.sweep_file
    if not written:
        return ""
    name = f"{text(result.sweep)}.yaml"
    return f"<details><summary>The sweep's file, {name}</summary><pre><code>{text(written)}</code></pre></details>"


def _provenance(result: Result, commands: Sequence[str]) -> str:
    facts = {
        "plan.json": f"SHA-256 {result.plan_sha}, written before the first trial",
        "decision rule": result.plan.decision_rule,
        "source": result.plan.source,
        "search": result.plan.search,
        "code": result.plan.code,
        "data": result.plan.data,
        "minutes": numbers.fixed(result.state.minutes, 1) if result.state.minutes else None,
        **{str(key): value for key, value in sorted(result.environment.items())},
    }
    rows = "".join(f"<dt>{text(k)}</dt><dd>{text(v)}</dd>" for k, v in facts.items() if v not in (None, "", {}, []))
    deviations = "".join(f"<li>{text(line)}</li>" for line in result.deviations)
    unfinished = "".join(f"<li>{text(line)}</li>" for line in failure_lines(result))
    return "\n".join(
        [
            "<h2>Deviations from the plan</h2>",
            f"<ul>{deviations}</ul>" if deviations else "<p>None.</p>",
            f"<h2>Trials that did not complete</h2>\n<ul>{unfinished}</ul>" if unfinished else "",
            "<h2>How to reproduce</h2>",
            f"<pre><code>{text(chr(10).join(commands))}</code></pre>",
            _sweep_file(result),
            "<h2>Plan and environment</h2>",
            f"<dl>{rows}</dl>",
        ]
    )
