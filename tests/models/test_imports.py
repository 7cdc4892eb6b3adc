"""models/ is read from the bottom up: no file imports, at its top or inside a function, one that imports it."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in (ROOT / "models").rglob("*.py")
}


def imports(path: Path) -> set[str]:
    """The files of models/ that a file imports: anywhere in it, for types as well."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found & FILES.keys()


def cycle(graph: dict[str, set[str]]) -> list[str]:
    """One, or an empty list: files that nothing unfinished depends on are taken away until none is left."""
    left = {name: set(below) for name, below in graph.items()}
    while done := {name for name, below in left.items() if not below & left.keys()}:
        left = {name: below for name, below in left.items() if name not in done}
    if not left:
        return []
    path = [min(left)]
    while path.count(path[-1]) < 2:
        path.append(min(left[path[-1]] & left.keys()))
    return path[path.index(path[-1]) :]


def test_no_file_of_models_imports_what_imports_it() -> None:
    graph = {name: imports(path) for name, path in FILES.items()}
    assert "models.config" in graph["models.transformer"] and len(graph) > 30
    assert cycle(graph) == []


ROOMS = {
    "base": set(),
    "training": {"base"},
    "precision": {"base", "training"},
    "pipeline": {"base", "training"},
    "decoding": {"base"},
    "measure": {"base", "training", "decoding"},
    "post_training": {"base", "training", "decoding"},
}
"""Room -> the rooms that it may import, besides itself and, but for `base`, the files of models/ itself."""


def room_of(module: str) -> str:
    """`""`: of models/ itself."""
    room = (module.split(".") + [""])[1]
    return room if (ROOT / "models" / room).is_dir() else ""


def test_rooms_of_models_import_as_their_table_says() -> None:
    assert {room_of(name) for name in FILES} == {"", *ROOMS}
    between = {(room_of(name), room_of(other)) for name, path in FILES.items() for other in imports(path)}
    assert {(room, other) for room, other in between if room and other not in ROOMS[room] | {room, ""}} == set()
    assert not {("base", ""), ("", "measure"), ("", "post_training")} & between


def test_a_cycle_is_found_and_named() -> None:
    assert cycle({"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": set()}) == ["b", "c", "b"]
    assert cycle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []
