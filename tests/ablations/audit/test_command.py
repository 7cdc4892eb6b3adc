"""`python -m ablations.audit`: its words, its errors, what it prints and how it ends."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ablations.audit.__main__ import main
from ablations.home import ROOT

FOLDER = Path(__file__).parent


def said(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = main(list(words))
    out, err = capsys.readouterr()
    return code, out, err


def test_a_verdict_each_and_a_summary(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = said(capsys, "foreign_models:Good", "rows=2", "length=32")
    lines = out.splitlines()
    assert (code, err, len(lines)) == (0, "", 10)
    assert all(line.startswith("passes") for line in lines[:-1])
    assert lines[-1] == (
        "foreign_models:Good: 9 pass, 0 fail, 0 cannot be tried (2 rows of 32 tokens below 61, compared in float64)"
    )


def test_a_fault_ends_with_one(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = said(capsys, "foreign_models:NotShifted", "length=32")
    assert code == 1 and "fails            scoring" in out and "8 pass, 1 fail" in out


def test_a_model_that_leaves_the_process_has_not_passed(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = said(capsys, "foreign_models:LeavingLate", "length=32")
    assert code == 1 and "the model raises SystemExit: 0" in out and len(out.splitlines()) == 10


def test_json_is_one_object_whatever_the_factory_prints(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = said(capsys, "foreign_models:talks", "length=32", "format=json")
    written = json.loads(out)
    assert (code, err) == (0, "building\n")
    assert written["target"] == "foreign_models:talks" and written["passes"] is True
    assert set(written["verdicts"][0]) == {"name", "outcome", "detail", "facts", "seconds"}


WRONG = {
    ("nowhere.at.all:build",): "nowhere.at.all:build: no module nowhere.at.all",
    ("foreign_models:Goood",): "has no attribute Goood; did you mean Good?",
    ("foreign_models:NUMBER",): "foreign_models:NUMBER: NUMBER is int; expected a function that returns a model",
    ("foreign_models:needs",): "is called without arguments (missing a required argument: 'width')",
    ("foreign_models:raises",): "foreign_models:raises: the factory raises RuntimeError: no weights here",
    ("foreign_models:leaves",): "foreign_models:leaves: the factory raises SystemExit: 3",
    ("foreign_models:no_module",): "foreign_models:no_module: returns str; expected a torch.nn.Module",
    ("foreign_models:LastAlone",): "logits of shape (3, 61) for tokens (3, 64): expected (3, 64, V)",
    ("foreign_models:Smaller",): "vocab_size=61: the model refuses tokens up to 60; vocab_size=N draws tokens below N",
    ("foreign_models:Good", "vocab_size=100"): "vocab_size=100: the logits are of 61 tokens; give no more",
    ("foreign_models:Good", "length=200"): "length=200: the model raises for tokens (3, 200) (IndexError",
    ("foreign_models:Good", "length=4"): "length=4: must be at least 8",
    ("foreign_models:Good", "rows=none"): "rows=none: expected a whole number",
    ("foreign_models:Good", "lenght=32"): "lenght: no such key; did you mean length?",
    ("foreign_models:Good", "format=xml"): "format=xml: expected one of text, json",
    ("foreign_models:NoLogits",): "the model returns dict; expected logits (B, T, V)",
    ("foreign_models:NotFinite",): "the logits are not finite",
    ("foreign_models:Leaving",): "foreign_models:Leaving: the model raises, though not at first (SystemExit: 0)",
    ("foreign_models:",): "foreign_models:: expected package.module:factory, or a folder",
    ("/nowhere/at/all",): "/nowhere/at/all: there is no such folder",
    (
        "foreign_models:Good",
        "foreign_models:Good",
    ): "expected one TARGET, package.module:factory or a folder, not 2",
    ("length=32",): "audit: expected one TARGET, package.module:factory or a folder, not 0",
}


@pytest.mark.parametrize("words", WRONG, ids=" ".join)
def test_wrong_input_is_one_line(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = said(capsys, *words)
    assert (code, out) == (2, "")
    assert err.startswith("error: ") and err.count("\n") == 1 and WRONG[words] in err


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "holds no config.json"),
        ({"config.json": "{"}, "config.json is not readable as JSON"),
        ({"config.json": "{}"}, "holds no .safetensors; pickles are not read"),
        ({"config.json": "{}", "pytorch_model.bin": ""}, "holds no .safetensors; pickles are not read"),
        ({"config.json": '{"model_type": "no_such"}', "a.safetensors": ""}, "transformers cannot load it"),
        (
            {"config.json": '{"model_type": "mine", "auto_map": {"AutoConfig": "evil.C"}}', "a.safetensors": "",
             "evil.py": "raise SystemExit('this ran')"},
            "transformers cannot load it",
        ),
        ({"config.json": '{"model_type": "llama"}', "model.safetensors": "cut"}, "transformers cannot load it"),
        ({"config.json": "{}", "a.safetensors": "", "adapter_config.json": "{}"}, "which names another model; merge"),
        (
            {"config.json": "{}", "a.safetensors": "", "model.safetensors.index.json": '{"weight_map": {"a": "../b"}}'},
            "model.safetensors.index.json names ../b, which is no file of this folder",
        ),
        (
            {"config.json": "{}", "a.safetensors": "", "model.safetensors.index.json": "[]"},
            "model.safetensors.index.json has no weight_map from tensors to files",
        ),
    ],
)  # fmt: skip
def test_a_folder_that_is_none_is_one_line(
    files: dict[str, str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    code, out, err = said(capsys, str(tmp_path))
    assert (code, out) == (2, "") and err.count("\n") == 1
    assert err.startswith(f"error: {tmp_path}: ") and message in err


def test_help_imports_no_torch_and_names_every_key(capsys: pytest.CaptureFixture[str]) -> None:
    script = (
        "import sys; from ablations.audit.__main__ import main; main(['--help']); assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for key in ("fresh=true", "rows=3", "length=64", "vocab_size=null", "format=text", "THIS RUNS THAT CODE"):
        assert key in done.stdout


def test_a_module_in_the_current_directory_is_found(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("from foreign_models import Good\n")
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{FOLDER}", "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-m", "ablations.audit", "mine:Good", "length=16", "rows=2"]
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "") and "mine:Good: 9 pass" in done.stdout
