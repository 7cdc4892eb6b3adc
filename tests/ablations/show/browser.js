// Uses the pages as a reader would, and leaves what it saw as JSON in the harness's own document.

const styled = part => part.ownerDocument.defaultView.getComputedStyle(part);
const words = part => part.textContent;

// What an arm has drawn in each figure, and how opaque its rows are.
const ofArm = (page, name) => ({
  drawn: [...page.querySelectorAll("figure")].map(figure =>
    [...figure.querySelectorAll("g[data-arm]")].filter(part =>
      part.dataset.arm.split(" ").includes(name) && styled(part).display !== "none").length),
  rows: [...page.querySelectorAll("tr[data-arm]")].filter(row => row.dataset.arm === name)
    .map(row => Number(styled(row).opacity)),
});

const click = box => { box.click(); };

const hiding = page => [...page.querySelectorAll(".arms input")].map(box => {
  const arms = [...page.querySelectorAll(".arms input")].map(other => other.dataset.arm);
  const look = () => Object.fromEntries(arms.map(arm => [arm, ofArm(page, arm)]));
  const said = { arm: box.dataset.arm, label: words(box.parentNode), before: look() };
  click(box);
  said.hidden = look();
  click(box);
  said.shown = look();
  return said;
});

// Every column of every table that can be sorted: as it stands, and after one, two and three clicks on its head.
const sorting = page => [...page.querySelectorAll("th[aria-sort]")].map(head => {
  const body = head.closest("table").tBodies[0];
  const column = () => [...body.rows].map(row => words(row.cells[head.cellIndex]));
  const seen = [column()];
  for (const _ of [1, 2, 3]) { click(head); seen.push(column()); }
  return { head: words(head), isWords: head.classList.contains("word"), seen };
});

const tables = page => Object.fromEntries([...page.querySelectorAll("h2")].map(title => {
  let next = title.nextElementSibling;
  const table = next && (next.matches("table") ? next : next.querySelector("table"));
  return [words(title), table ? [...table.rows].map(row => [...row.cells].map(words)) : null];
}));

// What stands out to the right of the window, but for what scrolls in a box of its own.
const overflow = view => [...view.document.querySelectorAll("body *")]
  .filter(part => !part.closest(".wide, pre, svg") && part.getBoundingClientRect().right > view.innerWidth + 1)
  .map(part => part.outerHTML.slice(0, 80));

// Where the pictures that are seen stand, what of them a reader can only reach sideways, and how many lines claims have.
const layout = (view, page) => {
  const column = page.querySelector("main"), seen = part => part.getBoundingClientRect().width > 0;
  const lines = part => Math.round(part.getBoundingClientRect().height / parseFloat(styled(part).lineHeight) * 10) / 10;
  return {
    column: column ? column.clientWidth - 2 * parseFloat(styled(column).paddingLeft) : 0,
    pictures: [...page.querySelectorAll("figure svg")].filter(seen).map(svg => {
      const { top, left, right, width } = svg.getBoundingClientRect();
      return { top: top + view.scrollY, left, right, width,
        hinted: [...svg.closest("figure").querySelectorAll(".hint")].some(seen) };
    }),
    claims: [...page.querySelectorAll(".claims summary")].map(lines),
  };
};

// What a pointer just beside each seed's point is told.
const hovering = page => [...page.querySelectorAll("figure use title")]
  .filter(title => words(title).includes(", seed ") && title.parentNode.getBoundingClientRect().width)
  .map(title => {
    title.parentNode.scrollIntoView({ block: "center" });
    const box = title.parentNode.getBoundingClientRect();
    const hit = page.elementFromPoint(box.right + 2, (box.top + box.bottom) / 2);
    return [words(title), hit && hit.querySelector("title") ? words(hit.querySelector("title")) : ""];
  });

const filtering = page => {
  const input = page.getElementById("words"), seen = {};
  const shown = () => [...page.querySelectorAll("article")].filter(one => styled(one).display !== "none")
    .map(one => words(one.querySelector(".eyebrow")).split(" ")[0]);
  const set = (id, value) => {
    page.getElementById(id).value = value;
    page.getElementById(id).dispatchEvent(new Event("input"));
    return [shown(), words(page.getElementById("count"))];
  };
  return input && { all: shown(), mla: set("words", "mla"), none: set("words", "zzz"), again: set("words", ""),
    open: set("state", "open"), settled: set("state", "settled"), every: set("state", "") };
};

addEventListener("load", () => {
  const found = {};
  for (const frame of document.querySelectorAll("iframe")) {
    const view = frame.contentWindow, page = frame.contentDocument;
    found[frame.id] = {
      layout: layout(view, page), tables: tables(page), hiding: hiding(page), sorting: sorting(page), filtering: filtering(page),
      hovering: hovering(page), overflow: overflow(view), scrolls: page.documentElement.scrollWidth - view.innerWidth,
      scripts: page.querySelectorAll("script").length,
      fetched: view.performance.getEntriesByType("resource").map(one => one.name), failures: view.failures,
    };
  }
  document.body.innerHTML = "<pre></pre>";
  document.body.firstChild.textContent = JSON.stringify(found);
});
