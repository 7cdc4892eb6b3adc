from pathlib import Path

import pytest

from ablations.trial.closure import import_closure


def write(root: Path, **files: str) -> None:
    for name, text in files.items():
        path = root.joinpath(*name.split("__")).with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def names(root: Path, entry: str) -> set[str]:
    return {str(path.relative_to(root)) for path in import_closure(entry, root)}


def test_follows_every_form_of_import_and_nothing_else(tmp_path: Path) -> None:
    write(
        tmp_path,
        ablations__entry="import torch\nimport models.a\nfrom tasks import b\n\ndef f():\n    from models.c import x\n",
        models__a="from models.d import y, z",
        models__c="x = 1",
        models__d="y = z = 1\nimport ablations.entry",  # a ring ends
        models__lonely="",
        tasks__b="",
    )
    (tmp_path / "models" / "__init__.py").write_text("import models.seen_by_the_package")
    write(tmp_path, models__seen_by_the_package="")
    assert names(tmp_path, "ablations.entry") == {
        "ablations/entry.py",
        *(f"models/{name}.py" for name in ("a", "c", "d", "__init__", "seen_by_the_package")),
        "tasks/b.py",
    }


def test_what_only_a_type_checker_reads_is_outside(tmp_path: Path) -> None:
    text = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import models.a\nelse:\n    import models.b\n"
    write(tmp_path, ablations__entry=text, models__a="", models__b="")
    assert names(tmp_path, "ablations.entry") == {"ablations/entry.py", "models/b.py"}


def test_any_other_condition_is_taken_to_hold(tmp_path: Path) -> None:
    text = "from typing import TYPE_CHECKING\nif not TYPE_CHECKING:\n    import models.a\n"
    write(tmp_path, ablations__entry=text, models__a="")
    assert names(tmp_path, "ablations.entry") == {"ablations/entry.py", "models/a.py"}


def test_a_relative_import_is_refused_since_it_would_not_be_seen(tmp_path: Path) -> None:
    write(tmp_path, ablations__entry="from . import other", ablations__other="")
    with pytest.raises(ValueError, match="from .: name modules from their top"):
        names(tmp_path, "ablations.entry")


def test_an_entry_that_is_no_module_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"ablations\.gone: no module"):
        import_closure("ablations.gone", tmp_path)
