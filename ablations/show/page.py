"""page.html: the result on one page that stands alone: no external resource, light and dark, whole without its script.

The question and its verdicts come first, then the numbers and pictures that carry them, then what lets a reader doubt
or repeat them: guards, search, deviations, the plan's hash, the environment, the commands.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple
from urllib.parse import quote

from ablations import numbers
from ablations.judge.result import Result
from ablations.show.answer import answer
from ablations.show.claims import arm_by_arm, claims
from ablations.show.figures import palette
from ablations.show.figures.every import Picture
from ablations.show.figures.marks import tokens
from ablations.show.markup import number, text
from ablations.show.render import failure_lines
from ablations.show.sections.every import TABLES, all_tables
from ablations.show.sections.settings import settings_table
from ablations.show.stylesheet import COLOURS, SCRIPT, STYLE
from ablations.show.table import Table

FIGURES_AFTER = {
    "verdicts": ("differences",),
    "lengths": ("lengths",),
    "positions": ("positions",),
    "contexts": ("needles",),
    "levels": ("capacity",),
    "stages": ("rewards",),
    "constraint": ("loss", "max_vio", "frontier", "load"),
    "pipeline": ("timelines", "memory"),
}
"""Which figures stand behind which table, or where it would stand."""
HEADS = {"constraint": "Training"}
"""Of figures that are not about the table before them."""

FILES = ("table.md", "table.csv", "plan.json")
"""What lies beside a page."""
INDEX = "../../index.html"
"""From a page to the list of all, in runs/ and in results/."""
SWEEP_FILE = "sweep-file"

_VARIABLES = {
    palette.INK: "--ink",
    palette.MUTED: "--muted",
    palette.FAINT: "--faint",
    **dict(zip(palette.COLOURS, ("--blue", "--vermillion", "--green", "--purple", "--orange", "--sky"), strict=True)),
}


class Link(NamedTuple):
    """What is read, and where it leads."""

    text: str
    url: str


def page_html(
    result: Result,
    pictures: Sequence[Picture],
    commands: Sequence[str],
    links: Mapping[str, Sequence[Link]] | None = None,
) -> str:
    """`commands`: what a reader types to repeat this result. `links`: by arm, to where else its trials can be seen."""
    by_name = {picture.name: picture for picture in pictures}
    title, tables = f"{result.sweep} ({result.scale})", all_tables(result)
    parts = [
        f'<p class="eyebrow">{text(result.sweep)} · scale={text(result.scale)} · {text(_extent(result))}</p>',
        f"<h1>{text(result.plan.question)}</h1>",
        f'<p class="banner">{text(result.plan.note)}</p>' if result.plan.note else "",
        f'<p class="lead">{number(answer(result, extents=False).removesuffix(result.plan.note).rstrip())}</p>',
        *_warnings(result),
        *(
            part
            for name in TABLES
            for part in (_shown(result, name, tables.get(name)), *_figures(result, name, by_name))
        ),
        _provenance(result, commands, links or {}),
    ]
    body = _with_contents("\n".join(part for part in parts if part), _leading(result))
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{text(title)}</title>\n<style>{COLOURS}{STYLE}</style>\n</head>\n<body>\n<main>\n{body}\n</main>\n"
        f"<script>{SCRIPT}</script>\n</body>\n</html>\n"
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
        return arm_by_arm(result) if name == "verdicts" else ""
    return claims(result, table) if name == "verdicts" else _section(result, table)


def _figures(result: Result, after: str, pictures: Mapping[str, Picture]) -> list[str]:
    drawn = [_figure(pictures[name]) for name in FIGURES_AFTER.get(after, ()) if name in pictures]
    if not drawn or after not in HEADS:
        return drawn
    return ["<section>", f"<h2>{HEADS[after]}</h2>", _toggles(result), *drawn, "</section>"]


def _toggles(result: Result) -> str:
    """A box for each arm, in its colour. They need the script, which shows them."""
    boxes = "".join(
        f'<label style="--arm: var({_VARIABLES[look["color"]]})"><input type="checkbox" checked autocomplete="off" '
        f'data-arm="{tokens([name])}">{text(name)}</label>'
        for name, look in palette.look_of(result).items()
    )
    return f'<div class="arms" role="group" aria-label="Arms shown" hidden>{boxes}</div>'


def _leading(result: Result) -> list[Link]:
    """To what lies beside the page. Its neighbours are those of its place in the list: a page is made from its own
    folder alone, and would be another one whenever a result comes beside it."""
    own = [Link(f"{result.sweep}.yaml", f"#{SWEEP_FILE}")] if result.plan.sweep_file else []
    place = f"{INDEX}#{quote(f'{result.sweep}/{result.run}', safe='/@')}"
    return [*own, *(Link(name, name) for name in FILES), Link("neighbours", place), Link("all results", INDEX)]


def _with_contents(body: str, leading: Sequence[Link]) -> str:
    """Every section has a place of its own; behind the first one, which is what was found, stands a list of them."""
    titles = re.findall(r"<h2>(.*?)</h2>", body)
    for title in titles:
        body = body.replace(f"<h2>{title}</h2>", f'<h2 id="{_slug(title)}">{title}</h2>', 1)
    links = "".join(f'<a href="#{_slug(title)}">{title}</a>' for title in titles)
    files = "".join(f'<a href="{text(link.url)}">{text(link.text)}</a>' for link in leading)
    second = f'<h2 id="{_slug(titles[min(1, len(titles) - 1)])}">'
    return body.replace(second, f"<nav>{links}{files}</nav>\n{second}", 1)


def _slug(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def _section(result: Result, table: Table) -> str:
    sorts = ' aria-sort="none"' if len(table.rows) > 2 else ""
    head = "".join(f'<th scope="col"{sorts}{_word(i, table)}>{text(c)}</th>' for i, c in enumerate(table.columns))
    rows = []
    for row in table.rows:
        cells = (f"<td{_word(i, table, cell)}>{number(cell)}</td>" for i, cell in enumerate(row))
        rows.append(f"<tr{_of_arm(result, row[0])}>{''.join(cells)}</tr>")
    body = f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
    if table.folded:
        body = f"<details><summary>{len(table.rows)} rows</summary>{body}</details>"
    note = f'\n<p class="note">{text(table.note)}</p>' if table.note else ""
    return f"<h2>{text(table.title)}</h2>\n{body}{note}"


def _of_arm(result: Result, cell: str) -> str:
    """Attributes of a row that begins with an arm's name, which may say what that stands on."""
    arm = result.arms.get(cell) or result.arms.get(cell.partition(" (onto ")[0])
    if arm is None:
        return ""
    return f' data-arm="{tokens([arm.name])}"' + ("" if arm.kind == "arm" else ' class="standing"')


def _word(index: int, table: Table, cell: str = "") -> str:
    if index not in table.words:
        return ' class="loose"' if len(cell) > 20 and "(" in cell else ""
    most = 24 if index == 0 else 48  # the first column stays where it is when a narrow window is scrolled
    return ' class="word long"' if len(cell) > most else ' class="word"'


def _figure(picture: Picture) -> str:
    """Broad, and narrow for a phone; where there is no narrow form, a phone says that there is more at the right."""
    caption = f"<figcaption>{text(picture.caption)}</figcaption>"
    if picture.narrow is None:
        hint = '<p class="hint">The picture is wider than the window: scroll it sideways.</p>'
        return f'<figure>{hint}<div class="wide only">{inline_svg(picture)}</div>{caption}</figure>'
    narrow = inline_svg(dataclasses.replace(picture, name=f"{picture.name}-narrow", svg=picture.narrow))
    forms = f'<div class="broad">{inline_svg(picture)}</div><div class="narrow">{narrow}</div>'
    return f"<figure>{forms}{caption}</figure>"


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
    # Nobody sees less than a tenth of a point; a half of a page's bytes would be digits beyond it.
    svg = re.sub(r' (?:d|x|y)="[^"]*"', lambda places: re.sub(r"-?\d+\.\d\d+", _to_a_tenth, places[0]), svg)
    opening, rest = svg.split(">", 1)
    opening = re.sub(r' (width|height)="[^"]*"', "", opening)
    return f'{opening} role="img" aria-label="{text(picture.caption)}">{rest}'


def _to_a_tenth(found: re.Match[str]) -> str:
    return f"{float(found[0]):.1f}".removesuffix(".0")


def _sweep_file(result: Result) -> str:
    written = result.plan.sweep_file
    if not written:
        return ""
    name = f"{text(result.sweep)}.yaml"
    return (  # a place inside of what is folded unfolds it for who comes to it
        f"<details><summary>The sweep's file, {name}</summary>"
        f'<pre id="{SWEEP_FILE}"><code>{text(written)}</code></pre></details>'
    )


def _papers(source: str) -> str:
    """The source, with a link for each paper that it names by its number on arXiv."""
    return re.sub(r"\b(\d{4}\.\d{5})\b", r'<a href="https://arxiv.org/abs/\1">\1</a>', text(source))


def _links(links: Mapping[str, Sequence[Link]]) -> str:
    """Of runs on a W&B server."""
    lines = [
        f"<dt>{text(name)}</dt><dd>"
        + " ".join(f'<a href="{text(link.url)}">{text(link.text)}</a>' for link in own)
        + "</dd>"
        for name, own in links.items()
    ]
    return f"<h2>Runs in Weights &amp; Biases</h2>\n<dl>{''.join(lines)}</dl>" if lines else ""


def _provenance(result: Result, commands: Sequence[str], links: Mapping[str, Sequence[Link]]) -> str:
    facts = {
        "plan.json": f"SHA-256 {result.plan_sha}, written before the first trial",
        "decision rule": result.plan.decision_rule,
        "followed": result.decision_rule if result.decision_rule != result.plan.decision_rule else None,
        "search": result.plan.search,
        "code": result.plan.code,
        "data": result.plan.data,
        "minutes": numbers.fixed(result.state.minutes, 1) if result.state.minutes else None,
        **{str(key): value for key, value in sorted(result.environment.items())},
    }
    rows = "".join(f"<dt>{text(k)}</dt><dd>{text(v)}</dd>" for k, v in facts.items() if v not in (None, "", {}, []))
    rows = f"<dt>source</dt><dd>{_papers(result.plan.source)}</dd>{rows}"
    deviations = "".join(f"<li>{text(line)}</li>" for line in result.deviations)
    unfinished = "".join(f"<li>{text(line)}</li>" for line in failure_lines(result))
    return "\n".join(
        [
            _section(result, settings_table(result)),
            _links(links),
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
