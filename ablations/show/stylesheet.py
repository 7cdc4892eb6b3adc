"""How a result's page looks, and what its script adds: tables that can be sorted. Without it nothing is lost."""

COLOURS = """
:root { --paper: #ffffff; --panel: #f5f6f8; --ink: #1b1f24; --muted: #5d646d; --faint: #d5d9de;
  --blue: #0072b2; --vermillion: #d55e00; --green: #009e73; --purple: #cc79a7; --orange: #e69f00; --sky: #56b4e9; }
@media screen and (prefers-color-scheme: dark) {
  :root { --paper: #14171b; --panel: #1c2026; --ink: #e7eaee; --muted: #9aa3ad; --faint: #343a42;
    --blue: #4aa3df; --vermillion: #f07f2e; --green: #2fc297; --purple: #dd94bd; --orange: #f0b429; --sky: #86cdf5; } }
"""
"""Light and dark, by the names that figures are recoloured to."""

STYLE = """
* { box-sizing: border-box; }
html { color-scheme: light dark; }
body { margin: 0; background: var(--paper); color: var(--ink); line-height: 1.5;
  font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
main { max-width: 1200px; margin: 0 auto; padding: 40px 24px 80px; }
h1 { font-size: 1.75rem; line-height: 1.25; margin: 4px 0 12px; max-width: 30em; text-wrap: balance; }
h2 { font-size: 1.2rem; margin: 48px 0 12px; }
p, li { max-width: 72ch; }
.eyebrow, .note, figcaption, footer { color: var(--muted); font-size: .875rem; }
.eyebrow { margin: 0; }
.lead { font-size: 1.15rem; line-height: 1.45; margin: 0 0 1rem; }
nav { columns: 3 10.5em; font-size: .875rem; margin: 28px 0 0; padding: 14px 0; border-block: 1px solid var(--faint); }
nav a { display: block; padding: 1px 0; break-inside: avoid; } a { color: var(--blue); }
.warning { border-left: 3px solid var(--vermillion); padding: 4px 0 4px 12px; }
.wide { overflow-x: auto; background:
  linear-gradient(90deg, var(--paper) 30%, transparent) 0 0 / 40px 100% no-repeat local,
  linear-gradient(270deg, var(--paper) 30%, transparent) 100% 0 / 40px 100% no-repeat local,
  linear-gradient(90deg, var(--faint), transparent) 0 0 / 12px 100% no-repeat scroll,
  linear-gradient(270deg, var(--faint), transparent) 100% 0 / 12px 100% no-repeat scroll; }
th[aria-sort] { cursor: pointer; } th[aria-sort]:hover { color: var(--ink); }
th[aria-sort=ascending]::after { content: " \\2191"; } th[aria-sort=descending]::after { content: " \\2193"; }
table { border-collapse: separate; border-spacing: 0; width: 100%; font-size: .875rem;
  font-variant-numeric: tabular-nums; }
th, td { padding: 6px 12px 6px 0; text-align: right; white-space: nowrap; vertical-align: top;
  border-bottom: 1px solid var(--faint); }
th { color: var(--muted); font-weight: 600; vertical-align: bottom; white-space: normal; min-width: 4.2em; }
th:first-child, td:first-child { position: sticky; left: 0; background: var(--paper); }
th.word, td.word { text-align: left; }
th.word:not(:first-child), td.word:not(:first-child) { padding-left: 12px; }
td.long { white-space: normal; min-width: 15em; } td.loose { white-space: normal; min-width: 8em; }
tr.standing td { color: var(--muted); }
.claims { padding: 0; margin: 0; }
.claims li { list-style: none; max-width: none; border-bottom: 1px solid var(--faint); }
.claims summary { display: grid; grid-template-columns: 8em minmax(0, 1fr) max-content 8em; gap: 2px 16px;
  align-items: baseline; padding: 7px 0; color: var(--ink); list-style: none; }
.claims summary::-webkit-details-marker { display: none; }
.claims summary:hover { background: var(--panel); }
.claims .measured { font-variant-numeric: tabular-nums; text-align: right; font-size: .9rem; }
.claims small { color: var(--muted); } .claims .paper { text-align: right; }
.claims .words small, .whole { white-space: nowrap; } .claims .words small::before { content: "\\b7\\a0"; }
.claims details > p { margin: 0 0 12px calc(8em + 16px); }
details.note { margin-top: 8px; }
.outcome { font-weight: 700; font-size: .9rem; } .outcome b { display: inline-block; width: 1.4em; }
.agrees { color: var(--green); } .disagrees { color: var(--vermillion); } .void { color: var(--purple); }
.not-resolved, .no-signal-here, .depends-on-the-length { color: var(--muted); }
figure { margin: 28px 0; }
figure svg { display: block; width: 100%; height: auto; }
.wide.only svg { min-width: 720px; }
.narrow, .hint { display: none; } .narrow svg { max-width: 460px; }
.hint { color: var(--muted); font-size: .8rem; margin: 0 0 4px; }
figcaption { margin-top: 6px; max-width: 90ch; }
g[data-arm] use:not([style*=stroke]) { pointer-events: all; stroke-width: 6px; } /* small points: easier to hit */
g.off { display: none; } tr.off { opacity: .35; }
.arms:not([hidden]) { display: flex; flex-wrap: wrap; gap: 4px 16px; padding: 8px 0; background: var(--paper); }
.arms label { display: flex; gap: 6px; align-items: center; font-size: .875rem; cursor: pointer; }
.arms input { accent-color: var(--arm); margin: 0; }
pre { background: var(--panel); border-radius: 6px; padding: 12px 16px; overflow-x: auto; font-size: .875rem; }
code { font-family: ui-monospace, "SF Mono", Menlo, Consolas, monospace; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 4px 20px; font-size: .875rem; }
dt { color: var(--muted); } dd { margin: 0; overflow-wrap: anywhere; }
details summary { cursor: pointer; color: var(--muted); }
.banner { background: var(--vermillion); color: #fff; border-radius: 6px; padding: 10px 16px; max-width: none; }
@media screen and (max-width: 760px) { main { padding: 16px 16px 60px; } h1 { font-size: 1.3rem; text-wrap: pretty; }
  .lead { font-size: 1.02rem; } h2 { margin-top: 32px; } .lead + h2 { margin-top: 16px; }
  .broad { display: none; } .narrow, .hint { display: block; }
  td.long:first-child { min-width: 9em; }
  .claims summary { display: flow-root; position: relative; padding: 6px 0 6px 1.4em; font-size: .82rem;
    line-height: 1.35; }
  .claims .measured { float: right; font-size: .75rem; line-height: 1.47; margin-left: .5em; }
  .claims .words small { font-size: .7rem; } .claims .words small::before { content: none; }
  .outcome b { position: absolute; left: 0; width: auto; }
  .outcome span { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
  .claims .paper { display: none; } .claims details > p { margin: 0 0 10px 1.7em; } }
@media screen and (min-width: 761px) { .arms { position: sticky; top: 0; } }
@media print {
  html { font-size: 11px; } main { max-width: none; padding: 0; } nav, .arms:not([hidden]) { display: none; }
  details::details-content { content-visibility: visible; block-size: auto; } .claims summary { padding: 4px 0; }
  .wide { overflow: visible; background: none; } tr.off { opacity: 1; } g.off { display: inline; }
  table { font-size: .8rem; } th, td { white-space: normal; padding: 3px 6px 3px 0; min-width: 0; }
  td.long, td.loose { min-width: 0; } td.long, pre { overflow-wrap: anywhere; } pre { white-space: pre-wrap; }
  h2 { margin-top: 24px; break-after: avoid; } figure, tr, .claims li { break-inside: avoid; }
  figure svg, .wide.only svg { min-width: 0; max-width: 620px; } }
"""
SCRIPT = """
const ABSENT = "-", SIZES = { k: 1e3, M: 1e6, B: 1e9, T: 1e12 };

const numberIn = cell => {
  const found = cell.replace(/\\u2212/g, "-").match(/^[<[+\u00b1]*(-?[\\d.]+(?:e[-+]?\\d+)?)([kMBT]?)/);
  return found ? found[1] * (SIZES[found[2]] || 1) : NaN;
};

const compared = (a, b, words) => {
  const [x, y] = words ? [NaN, NaN] : [numberIn(a), numberIn(b)], [left, right] = [x, y].map(Number.isNaN);
  return left && right ? a.localeCompare(b, "en", { numeric: true }) : left || right ? left - right : x - y;
};

for (const body of document.querySelectorAll("tbody")) [...body.rows].forEach((row, place) => { row.place = place; });

for (const head of document.querySelectorAll("th[aria-sort]")) head.addEventListener("click", () => {
  const next = { none: "ascending", ascending: "descending", descending: "none" }[head.getAttribute("aria-sort")];
  const body = head.closest("table").tBodies[0], words = head.classList.contains("word");
  const cell = row => row.cells[head.cellIndex].textContent;
  const empty = row => Number(cell(row) === ABSENT);
  const order = (a, b) => next === "none" ? a.place - b.place : empty(a) - empty(b)
    || compared(cell(a), cell(b), words) * (next === "ascending" ? 1 : -1) || a.place - b.place;
  const rows = [...body.rows].sort(order);
  for (const other of head.parentNode.cells)
    if (other.hasAttribute("aria-sort")) other.setAttribute("aria-sort", "none");
  head.setAttribute("aria-sort", next);
  body.append(...rows);
});

const boxes = [...document.querySelectorAll(".arms input")];
const show = () => {
  const off = new Set(boxes.filter(box => !box.checked).map(box => box.dataset.arm));
  for (const part of document.querySelectorAll("g[data-arm], tr[data-arm]"))
    part.classList.toggle("off", part.dataset.arm.split(" ").some(arm => off.has(arm)));
};
for (const box of boxes) box.addEventListener("change", show);
for (const bar of document.querySelectorAll(".arms")) bar.hidden = false;
"""
