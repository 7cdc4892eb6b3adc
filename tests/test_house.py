"""The house itself: imports go down, the training path is light, every sweep composes, the documents' commands work."""

import ast
import functools
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from ablations.config.compose import compose
from ablations.config.sweepfile import SCALES, sweep_files
from ablations.home import ROOT
from tests.slow import SLOW

BELOW = {"models": set(), "tasks": {"models"}, "ablations": {"models", "tasks"}}
"""Floor -> the floors that it may import, besides itself."""
NOT_FOR_TRAINING = ("wandb", "wandb_workspaces", "optuna", "hydra", "omegaconf", "lm_eval")

PLACING = ("mkstemp", "mkdtemp", "NamedTemporaryFile", "rename", "chmod", "link_to", "hardlink_to")

SOURCES = sorted(path for floor in BELOW for path in (ROOT / floor).rglob("*.py"))
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def test_every_package_is_installed() -> None:
    """An editable installation finds what is not listed all the same, and a wheel does not have it."""
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    assert sorted(listed) == sorted({".".join(path.parent.relative_to(ROOT).parts) for path in SOURCES})


def test_what_is_called_slow_is_there() -> None:
    for file, names in SLOW.items():
        text = (ROOT / "tests" / file).read_text()
        for function, _, settings in (name.partition("[") for name in names):
            assert f"\ndef {function}" in text, (file, function)
            assert all(re.search(rf"\b{word}", text) for word in re.findall(r"\w+", settings)), (file, settings)


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@functools.cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def imported(nodes: Iterator[ast.AST] | list[ast.stmt]) -> set[str]:
    """Top-level names of the packages that these statements import."""
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, "imports are absolute"
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_imports_only_go_down(path: Path) -> None:
    floor = path.relative_to(ROOT).parts[0]
    inside_functions_too = imported(ast.walk(tree_of(path)))
    assert inside_functions_too & set(BELOW) <= BELOW[floor] | {floor}


ROOMS = ("", "config", "record", "judge", "launch", "trial", "guards", "sweep", "show", "board", "commands")
"""Of ablations/, each above those that it may import; `""`: what they share."""
SHARED = ("__init__", "home", "files", "metrics", "numbers")


def room_of(module: str) -> str:
    """Of a dotted name in ablations/, or of a name in such a module."""
    first = module.split(".")[1] if "." in module else "__init__"
    return first if first in ROOMS else "" if first in SHARED else "commands"


@pytest.mark.parametrize("path", [p for p in SOURCES if p.is_relative_to(ROOT / "ablations")], ids=name_of)
def test_rooms_import_only_from_rooms_below(path: Path) -> None:
    own = room_of(".".join(path.relative_to(ROOT).with_suffix("").parts))
    others = {room_of(name) for name in imported_modules(path) if name.split(".")[0] == "ablations"}
    assert {room for room in others if ROOMS.index(room) > ROOMS.index(own)} == set()


def test_figures_know_no_section() -> None:
    paths = list((ROOT / "ablations/show/figures").glob("*.py"))
    assert paths and not [
        p for p in paths for name in imported_modules(p) if name.startswith("ablations.show.sections")
    ]


def test_no_module_imports_itself_by_a_detour() -> None:
    modules = {".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): p for p in SOURCES}
    imports = {name: {m for m in imported_modules(path) if m in modules} - {name} for name, path in modules.items()}
    while leaves := [name for name, wanted in imports.items() if not wanted & imports.keys()]:
        for name in leaves:
            del imports[name]
    assert not imports, f"a ring among {sorted(imports)}"


def imported_modules(path: Path) -> set[str]:
    """Dotted names, inside functions too; of `from package import module` both."""
    names: set[str] = set()
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return names


@pytest.mark.parametrize("path", [p for p in SOURCES if "evals" not in p.parts], ids=name_of)
def test_what_training_does_not_need_is_imported_where_it_is_used(path: Path) -> None:
    at_the_top = imported(tree_of(path).body)
    assert at_the_top & set(NOT_FOR_TRAINING) == set()


def test_models_and_the_training_path_import_without_the_harness() -> None:
    """With wandb, Optuna, Hydra and lm-eval out of reach, as on a machine that only trains."""
    trained = [p for p in SOURCES if p.is_relative_to(ROOT / "models") or p.is_relative_to(ROOT / "tasks")]
    modules = [
        ".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for p in trained
        if "evals" not in p.parts and "triton" not in p.stem
    ]
    modules += [f"ablations.{name}" for name in ("config.trialkeys", "trial.train", "trial.ranked", "sweep.jobs")]
    modules += [f"benchmarks.{name}" for name in ("on_gpu", "on_gpu_report", "on_gpu_trials", "waits", "train_step")]
    modules += ["benchmarks.decode"]
    script = f"""
import importlib, sys
class Gone:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {NOT_FOR_TRAINING!r}:
            raise ModuleNotFoundError(name + " is out of reach", name=name)
sys.meta_path.insert(0, Gone())
from ablations.launch.lean import lean
with lean():
    import lightning
for module in {modules!r}:
    importlib.import_module(module)
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_scheduler_does_without_what_trains() -> None:
    """It plans, asks and reports, and starts in a second or two: what trains is imported in its workers."""
    script = """
import sys
from ablations.config.compose import compose
from ablations.sweep.planning import make_plan
import ablations.report, ablations.sweep.conductor
make_plan(compose(["sweep=moe_balance", "scale=smoke", "track.mode=disabled"]))
print([name for name in ("lightning", "torchmetrics", "transformers", "lm_eval", "optuna") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


def placing(tree: ast.AST) -> set[str]:
    """The calls by which a file gets to its place, or its permissions, otherwise than by models/base/files.py."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            of_os = isinstance(node.value, ast.Name) and node.value.id in ("os", "shutil")
            if node.attr in PLACING or (of_os and node.attr in ("replace", "rename", "renames", "move")):
                found.add(node.attr)
        elif isinstance(node, ast.ImportFrom) and node.module in ("os", "shutil", "tempfile"):
            found |= {alias.name for alias in node.names} & {*PLACING, "replace", "move"}
    return found


@pytest.mark.parametrize("path", [*SOURCES, *sorted((ROOT / "benchmarks").rglob("*.py"))], ids=name_of)
def test_files_are_put_in_their_place_by_one_module(path: Path) -> None:
    """It alone knows how: a temporary of its own, on the disk, with the umask's permissions."""
    found = placing(tree_of(path))
    assert found == ({"rename", "replace", "chmod"} if name_of(path) == "models/base/files.py" else set())


IN_A_NEW_FOLDER = "in a folder that is not in its place yet"
A_LOG = "a line after another; who reads it knows that the last one may be a part"
PLAIN_WRITES = {
    "models/base/files.py": "the one writer",
    "models/base/streams.py": "nowhere, in place of a closed stream",
    "models/convert.py": IN_A_NEW_FOLDER,
    "tasks/text/packing.py": IN_A_NEW_FOLDER,
    "tasks/text/cache.py": IN_A_NEW_FOLDER,
    "ablations/sweep/earlier.py": "the file of an earlier sweep, into a folder that ends with its reading",
    "ablations/trial/memory.py": "to the kernel, and into a pipe",
    "ablations/launch/worker.py": "into a pipe",
    "ablations/launch/parcels.py": "into a stream",
    "ablations/launch/process.py": A_LOG,
    "ablations/launch/ray_pool.py": A_LOG,
    "ablations/launch/slurm_pool.py": A_LOG,
    "ablations/record/steplog.py": A_LOG,
}


def writing(tree: ast.AST) -> bool:
    """Whether a file of the disk is written as it stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in ("write_text", "write_bytes"):
            return True
        if isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) in (
            "open",
            "fdopen",
        ):
            modes = [*node.args, *(keyword.value for keyword in node.keywords if keyword.arg == "mode")]
            if any(isinstance(mode, ast.Constant) and re.match("[wax]", str(mode.value)) for mode in modes):
                return True
    return False


def test_what_is_written_plainly_is_not_in_its_place() -> None:
    """All else is written by models/base/files.py, whole or not at all."""
    assert {name_of(path) for path in SOURCES if writing(tree_of(path))} == PLAIN_WRITES.keys()


def test_no_file_names_a_class_to_build() -> None:
    """A YAML file holds values, never code: `_target_` would make Hydra call what a file names."""
    word = "_tar" + "get_"
    files = [*SOURCES, *SCALES.glob("*.y*ml"), *(ROOT / "sweeps").glob("*.y*ml")]
    assert [name_of(path) for path in files if word in path.read_text()] == []


@pytest.mark.parametrize("scale", ["smoke", "cpu"])
@pytest.mark.parametrize("sweep", sweep_files(None))
def test_every_sweep_file_composes_with_all_its_arms(sweep: str, scale: str) -> None:
    config = compose([f"sweep={sweep}", f"scale={scale}", "arms=all"])
    assert config.sweep.name == sweep and config.sweep.source, "a question names its paper"
    for claim in config.sweep.expected:
        assert claim.paper, f"{claim.arm}: a claim carries the paper's words and place"


def commands(text: str) -> list[list[str]]:
    """Arguments of every `python -m ablations.run ...` in a document; placeholders in capitals are left out."""
    found = []
    for match in re.finditer(r"python -m ablations\.run((?:[^\n`#&|]|\\\n)*)", text):
        arguments = shlex.split(match.group(1).replace("\\\n", " "))
        if not any(re.search(r"<|\.\.\.|=[A-Z]{2,}$", argument) for argument in arguments):
            found.append(arguments)
    return found


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_the_commands_of_a_document_compose(path: Path) -> None:
    for arguments in commands(path.read_text()):
        overrides = [a for a in arguments if not a.startswith("-") and a != "job" and not a.startswith("sweeps_dir=")]
        named = [a for a in overrides if a.startswith("sweep=")]
        if named and named[0].removeprefix("sweep=") in sweep_files(None):
            compose(overrides)


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_the_links_of_a_document_lead_somewhere(path: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", path.read_text())
    broken = [t for t in targets if "://" not in t and not t.startswith("mailto:") and not (path.parent / t).exists()]
    assert broken == []
