"""The files that a module's work depends on: itself and all of ours that it imports, read off the syntax trees.

Nothing is imported for it. Imports inside functions count, those under `if TYPE_CHECKING:` do not: they never run.
"""

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

OURS = ("models", "tasks", "ablations")


def import_closure(entry: str, root: Path) -> list[Path]:
    """The files under `root`, sorted, of the module `entry` (dotted) and of everything of ours that it imports.

    Raises ValueError where `entry` is no module there.
    """
    if _file(entry, root) is None:
        raise ValueError(f"{entry}: no module under {root}")
    found: dict[str, Path] = {}
    waiting = [entry]
    while waiting:
        module = waiting.pop()
        file = _file(module, root)
        if file is None or module in found:
            continue
        found[module] = file
        # A package's own __init__ runs before its modules.
        waiting += [module.rpartition(".")[0], *_imported(file.read_text(encoding="utf-8"))]
    return sorted(set(found.values()))


@functools.cache
def _imported(text: str) -> tuple[str, ...]:
    """Dotted names that may be modules of ours, in a file that says `text`."""
    return tuple(_names(ast.parse(text)))


def _names(tree: ast.Module) -> Iterator[str]:
    for node in _running(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] in OURS)
        elif isinstance(node, ast.ImportFrom) and node.level:
            raise ValueError(
                f"from {'.' * node.level}{node.module or ''}: name modules from their top, or they are not seen"
            )
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in OURS:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _running(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes below, without what stands under `if TYPE_CHECKING:`."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            for other in child.orelse:
                yield other
                yield from _running(other)
            continue
        yield child
        yield from _running(child)


def _file(module: str, root: Path) -> Path | None:
    if not module:
        return None
    path = root.joinpath(*module.split("."))
    for file in (path / "__init__.py", path.with_suffix(".py")):
        if file.is_file():
            return file
    return None
