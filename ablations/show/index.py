"""index.html: every sweep's question and its one-sentence answer, on one page that needs neither server nor network."""

import contextlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

from ablations.config.sweepfile import read_yaml, sweep_files
from ablations.judge.result import Result
from ablations.record.summary import Summary, summaries
from ablations.show.answer import answer
from ablations.show.markup import number, text
from ablations.show.stylesheet import COLOURS
from models.base.typed import ConfigError

STYLE = """
* { box-sizing: border-box; }
html { color-scheme: light dark; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 40px 24px 80px; }
h1 { font-size: 1.75rem; line-height: 1.25; margin: 0 0 8px; }
h2 { font-size: 1.1rem; line-height: 1.35; margin: 2px 0 8px; text-wrap: balance; }
h2 a { color: inherit; text-decoration-color: var(--faint); text-underline-offset: .2em; }
h2 a:hover { text-decoration-color: currentColor; }
p { margin: 0 0 8px; max-width: 68ch; }
.note, .eyebrow, nav { color: var(--muted); font-size: .875rem; }
.filters { display: flex; flex-wrap: wrap; gap: 8px 12px; margin: 24px 0 8px; }
input, select { font: inherit; font-size: .95rem; color: inherit; background: var(--panel); padding: 6px 10px;
  border: 1px solid var(--faint); border-radius: 6px; }
input { flex: 1 1 16em; min-width: 0; }
article { display: grid; grid-template-columns: minmax(0, 1fr) 300px; gap: 8px 32px; padding: 28px 0;
  border-top: 1px solid var(--faint); }
article[hidden] { display: none; } article:target h2 a { text-decoration-color: currentColor; }
article:target { box-shadow: -13px 0 var(--paper), -16px 0 var(--blue); }
article img { display: block; width: 100%; height: auto; background: #fff; border-radius: 6px; padding: 6px; }
nav a { color: var(--blue); margin-right: 1em; }
.bar { display: flex; height: 6px; width: 180px; border-radius: 3px; overflow: hidden; background: var(--faint);
  margin: 6px 0 10px; }
.bar i { display: block; }
.agrees { background: var(--green); } .disagrees { background: var(--vermillion); }
.depends { background: var(--orange); }
.warning { color: var(--vermillion); font-size: .875rem; }
section { border-top: 1px solid var(--faint); padding-top: 28px; }
dt { font-weight: 600; } dd { margin: 2px 0 14px; color: var(--muted); font-size: .875rem; }
code { overflow-wrap: anywhere; }
@media screen and (prefers-color-scheme: dark) {
  article img { background: none; filter: invert(1) hue-rotate(180deg); } }
@media (max-width: 760px) { main { padding: 24px 16px 60px; } article { grid-template-columns: minmax(0, 1fr); } }
@media print { .filters { display: none; } article { break-inside: avoid; } }
"""
SCRIPT = """
const field = id => document.getElementById(id);
const shown = () => {
  const words = field("words").value.toLowerCase().split(/\\s+/).filter(Boolean);
  const scale = field("scale").value, state = field("state").value;
  let count = 0;
  for (const one of document.querySelectorAll("article")) {
    const fits = words.every(word => one.textContent.toLowerCase().includes(word))
      && (!scale || one.dataset.scale === scale) && (!state || one.dataset.state === state);
    one.hidden = !fits;
    count += fits;
  }
  field("count").textContent = count;
};
for (const id of ["words", "scale", "state"]) field(id).addEventListener("input", shown);
"""
COLOURED = {"agrees": "agrees", "disagrees": "disagrees", "depends on the length": "depends"}


def summary_of(result: Result, pictures: Sequence[str]) -> Summary:
    """`pictures`: names of the figures that were drawn, in order."""
    outcomes = [verdict.outcome for verdict in result.verdicts]
    return Summary(
        sweep=result.sweep,
        scale=result.scale,
        run=result.run,
        question=result.plan.question,
        answer=answer(result),
        outcomes={outcome: outcomes.count(outcome) for outcome in dict.fromkeys(outcomes)},
        seeds=len(result.seeds),
        trials=result.planned - len(result.missing),
        planned=result.planned,
        picture=f"figures/{pictures[0]}.svg" if pictures else None,
        note=result.plan.note,
    )


def index_html(root: Path) -> str:
    """Of all runs under `root` that have a summary."""
    found = [(folder.relative_to(root).as_posix(), summary) for folder, summary in summaries(root)]
    scales = list(dict.fromkeys(summary.scale for _, summary in found))
    claims, settled = (sum(getattr(summary, name) for _, summary in found) for name in ("claims", "settled"))
    states = {"": "every state", "settled": "all claims settled", "open": "some open"}
    filters = _choice("scale", {"": "every scale", **{scale: scale for scale in scales}}) + _choice("state", states)
    parts = [
        "<h1>V3 Ablations: answers</h1>",
        f'<p class="note"><span id="count">{len(found)}</span> results; {settled} of {claims} claims settled. What is '
        "said of a claim is read off its simultaneous 95 % interval alone.</p>",
        f'<div class="filters"><input id="words" type="search" placeholder="Search" aria-label="Search">{filters}',
        "</div>",
        *(_article(*one) for one in found),
        *_unasked({summary.sweep for _, summary in found}),
    ]
    body = "\n".join(parts)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>V3 Ablations: answers</title>\n<style>{COLOURS}{STYLE}</style>\n</head>\n<body>\n<main>\n{body}\n"
        f"</main>\n<script>{SCRIPT}</script>\n</body>\n</html>\n"
    )


def _unasked(asked: Collection[str]) -> Iterator[str]:
    """The checkout's other sweeps, whose questions have no answer here yet."""
    rows = []
    for name, (file, *_) in sweep_files(None).items():
        with contextlib.suppress(ConfigError):  # a file that is wrong is told by whoever runs it
            if name not in asked and (question := read_yaml(file).get("question")):
                command = text(f"python -m ablations.run sweep={name}")
                rows.append(f"<dt>{text(question)}</dt><dd><code>{command}</code></dd>")
    if rows:
        yield f"<section><h2>Not asked here yet</h2><dl>{''.join(rows)}</dl></section>"


def _article(folder: str, summary: Summary) -> str:
    place = quote(folder, safe="/@")  # or a folder named `javascript:...` would be a script
    state = "settled" if summary.settled == summary.claims else "open"
    page = f"{place}/page.html"
    image = f'<img src="{place}/{quote(summary.picture or "")}" alt="" loading="lazy">'
    picture = f'<a href="{page}" tabindex="-1">{image}</a>' if summary.picture else ""
    links = "".join(f'<a href="{place}/{name}">{name}</a>' for name in ("page.html", "table.md", "table.csv"))
    note = f'<p class="warning">{text(summary.note)}</p>' if summary.note else ""
    said = summary.answer.removesuffix(summary.note).rstrip() if summary.note else summary.answer
    return (
        f'<article id="{text(folder)}" data-scale="{text(summary.scale)}" data-state="{state}"><div>'
        f'<p class="eyebrow">{text(summary.sweep)} · {text(summary.run)} · {text(summary.state)}</p>'
        f'<h2><a href="{page}">{text(summary.question)}</a></h2>{_bar(summary)}'
        f"<p>{number(said)}</p>{note}<nav>{links}</nav></div>"
        f"<div>{picture}</div></article>"
    )


def _choice(name: str, options: Mapping[str, str]) -> str:
    inside = "".join(f'<option value="{text(value)}">{text(said)}</option>' for value, said in options.items())
    return f'<select id="{name}" aria-label="{name}">{inside}</select>'


def _bar(summary: Summary) -> str:
    """How many of the claims have which verdict; what is open stays pale."""
    parts = (
        f'<i class="{style}" style="width: {100 * summary.outcomes[outcome] / max(1, summary.claims):.1f}%"></i>'
        for outcome, style in COLOURED.items()
        if outcome in summary.outcomes
    )
    label = ", ".join(f"{count} {outcome}" for outcome, count in summary.outcomes.items())
    return f'<div class="bar" role="img" title="{text(label)}" aria-label="{text(label)}">{"".join(parts)}</div>'
