"""The file of `benchmarks.on_gpu` as markdown (`python -m benchmarks.on_gpu --render FILE`)."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks.on_gpu import TASKS, Report, Section

Found = Mapping[str, Any]


def markdown(report: Report) -> str:
    """What every section found, or why it did not. docs/gpu.md explains the numbers."""
    parts = ["# On one GPU", f"Device: {report.device}. torch {report.torch}, CUDA {report.cuda}."]
    if report.quick:
        parts.append("**Small sizes on a CPU, to see that it runs: no number here says anything of a GPU.**")
    rows = [[s.name, s.status, f"{s.seconds:g}", f"{s.budget_s:g}", s.reason] for s in report.sections]
    parts.append(table(["section", "status", "seconds", "budget", "why"], rows))
    if absent := [name for name in TASKS if name not in [section.name for section in report.sections]]:
        parts.append(f"Not run: {', '.join(absent)}.")
    for section in report.sections:
        if section.status != "skipped":
            parts += [f"## {TASKS[section.name].about if section.name in TASKS else section.name}", _body(section)]
    return "\n\n".join(parts)


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    cells = ([str("" if cell is None else cell).replace("|", "\\|") for cell in row] for row in rows)
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in cells)])


def _body(section: Section) -> str:
    """As its own kind is shown; what has another form than it should, as it is."""
    command = f"`{section.command}`"
    if "said" in section.found:
        return f"{command}: {section.found['said']}"
    if not section.found:
        return f"{command} printed nothing."
    try:
        return f"{command}\n\n{SHOWN.get(section.name, _plain)(section.found)}"
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, StopIteration, RecursionError):
        return f"{command}\n\n{_plain(section.found)}"


def _plain(found: Found) -> str:
    return table(["", ""], [[key, value] for key, value in found.items()])


def _waits(found: Found) -> str:
    rows = [
        [kind, sum(at.values()), ", ".join(sorted(at))] for kind, at in {**found["waits"], **found["known"]}.items()
    ]
    return table(["model", f"waits in {found['steps']} steps", "where"], rows)


def _accumulator(found: Found) -> str:
    rows = [
        [kind, every, *(f"{row[name]:.1e}" for name in ("mean", "frobenius", "largest"))]
        for kind, by_every in found["accumulator"]["bias"].items()
        for every, row in by_every.items()
    ]
    return table(["operands", "promoted every", "bias", "Frobenius", "largest"], rows)


def _gemm(found: Found) -> str:
    sides = list(_sides(found, ""))
    rows = [[name, side, row["ms"], row["tflops"], row["ratio"], row["error"]] for name, side, row in sides]
    if not rows:
        raise ValueError("no product was timed")
    return table(["product", "side", "ms", "TFLOP/s", "x BF16", "error"], rows)


def _sides(found: Found, at: str) -> Any:
    """(product, side, its row), wherever a group has sides."""
    for name, value in found.items():
        if isinstance(value, dict):
            if "tflops" in value:
                yield at.strip(), name, value
            else:
                yield from _sides(value, f"{at} {name}")


def _step(found: Found) -> str:
    rows = [[side, f"{rate:,}"] for side, rate in found["tokens_per_second"].items()]
    fastest = f"Our fastest over theirs: {found['ratio']}. {found['gflops_per_second']:,} GFLOP/s of ours."
    return table(["side", "tokens/s"], rows) + "\n\n" + fastest


def _trials(found: Found) -> str:
    names = ("status", "loss", "train_loss", "train_s", "tokens_per_second", "peak_bytes", "reason")
    rows = [[name, *(row.get(key) for key in names)] for name, row in found["trials"].items()]
    return table(["recipe", *names], rows)


def _decode(found: Found) -> str:
    contexts = found["contexts"]
    kinds = list(next(iter(contexts.values()))["tokens_per_s"])
    rows = [[kind, *(row["tokens_per_s"][kind] for row in contexts.values())] for kind in kinds]
    return table(["tokens/s at a context of", *contexts], rows)


SHOWN: dict[str, Callable[[Found], str]] = {
    "waits": _waits,
    "accumulator": _accumulator,
    "gemm": _gemm,
    "step": _step,
    "trials": _trials,
    "decode": _decode,
}
