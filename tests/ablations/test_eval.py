"""`python -m ablations.eval`: what it reads, what it refuses, and what it prints, around a stand-in model."""

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from ablations import eval as command
from models.typed import ConfigError

VOCAB = 280


class Text(NamedTuple):
    name: str
    text: str


DOCUMENTS = [
    Text(f"m{n}.py", "".join(f"def function_{n}_{i}(value):\n    return value + {i * 37 % 91}\n\n" for i in range(60)))
    for n in range(6)
]


@pytest.fixture
def checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint folder, with a loader and prepared data that need no trained model."""
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    saved = {"format": 1, "model": {"vocab_size": VOCAB}, "data": {"source": "stdlib", "seq_len": 24}}
    (folder / "config.json").write_text(json.dumps(saved))
    (folder / "model.safetensors").write_bytes(b"")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([document.text for document in DOCUMENTS], trainer)
    tokenizer.save(str(folder / "tokenizer.json"))

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = torch.nn.Parameter(torch.randn(VOCAB, VOCAB, generator=torch.Generator().manual_seed(0)))

        def forward(self, tokens_BT: torch.Tensor, document_end: int | None = None) -> Any:
            assert tokens_BT.shape[1] <= 24
            assert not self.training
            return SimpleNamespace(logits=self.table[tokens_BT])

    loader: Any = ModuleType("models.checkpoint")
    loader.load_checkpoint = lambda path: (Model(), json.loads((path / "config.json").read_text()))
    batches: Any = ModuleType("tasks.batches")
    batches.prepared = []

    def prepare(config: Any, vocab_size: int, cache_dir: Path) -> Any:
        batches.prepared.append((config.source, config.seq_len, config.max_bytes, vocab_size, cache_dir))
        return SimpleNamespace(fingerprint={"path": str(tmp_path)}, documents=lambda split: DOCUMENTS)

    batches.prepare = prepare
    monkeypatch.setitem(sys.modules, "models.checkpoint", loader)
    monkeypatch.setitem(sys.modules, "tasks.batches", batches)
    return folder


def test_scores_a_checkpoint_and_ends_with_one_line_of_json(
    checkpoint: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = [f"checkpoint={checkpoint}", f"runs_dir={tmp_path}/runs", "eval.items=10", "data.max_bytes=5000"]
    assert command.main(arguments) == 0
    out, err = capfd.readouterr()
    assert err == ""
    *lines, last = out.splitlines()
    result = json.loads(last)
    assert result["split"] == "test"
    assert list(result["scores"]) == ["python_bits_per_byte", "python_cloze"]
    assert len(result["scores"]["python_cloze"]["items"]) == 10
    assert lines[0].split() == ["task", "metric", "value", "stderr", "chance", "items"]
    row = next(line.split() for line in lines if line.split()[:2] == ["python_cloze", "acc"])
    assert row[2] == f"{result['scores']['python_cloze']['acc']:.4f}"
    assert row[4:] == ["0.2500", "10"]
    assert sys.modules["tasks.batches"].prepared == [("stdlib", 24, 5000, VOCAB, tmp_path / "runs" / "data")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["checkpoint=/nowhere/at/all"], "checkpoint=/nowhere/at/all: there is no such folder"),
        (["eval.items=5"], "checkpoint: missing"),
        (["checkpoint=x", "eval.itms=5"], "eval.itms: no such key; did you mean items?"),
        (["checkpoint=x", "eval.tokens=5"], "eval.tokens: no such key"),
        (["checkpoint=x", "eval.items=five"], "eval.items=five: expected int"),
        (["checkpoint=x", "eval.tasks=python_cloze"], "eval.tasks=python_cloze: expected a list"),
        (["checkpoint=x", "data.source=stdlb"], "did you mean stdlib?"),
        (["checkpoint=x", "data.seq_len=[1"], "data.seq_len=[1: not a value"),
        (["chekpoint=x"], "chekpoint: no such key; did you mean checkpoint?"),
        (["checkpoint=x", "+eval.items=5"], "+eval.items: no such key; did you mean eval.items?"),
        (["checkpoint=x", "verbose"], "verbose: expected KEY=VALUE"),
        (["checkpoint=x", "device=tpu"], "device=tpu: expected one of cpu, cuda"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    arguments: list[str], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert command.main(arguments) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("error: ") and message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("masked", [True, False])
def test_a_masked_model_is_scored_masked(checkpoint: Path, tmp_path: Path, masked: bool) -> None:
    """As its trial scored it: attention stays within documents."""
    saved = json.loads((checkpoint / "config.json").read_text())
    saved["data"]["mask_documents"] = masked
    (checkpoint / "config.json").write_text(json.dumps(saved))
    loader: Any = sys.modules["models.checkpoint"]
    seen, load = [], loader.load_checkpoint

    def spying(path: Path) -> Any:
        model = load(path)[0]
        model.register_forward_pre_hook(lambda _, args, given: seen.append(given["document_end"]), with_kwargs=True)
        return model, saved

    loader.load_checkpoint = spying
    words = [f"checkpoint={checkpoint}", "eval.tasks=[python_bits_per_byte]", "eval.items=2", f"runs_dir={tmp_path}"]
    assert command.main(words) == 0
    assert set(seen) == {0 if masked else None}


def test_folder_without_a_checkpoint_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    (checkpoint / "tokenizer.json").write_text("{")
    request = command.parse([f"checkpoint={checkpoint}", f"runs_dir={tmp_path}/runs"])
    with pytest.raises(ConfigError, match=r"tokenizer.json cannot be read"):
        command.evaluate(request)
    (checkpoint / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"not a checkpoint, it has no model.safetensors"):
        command.evaluate(request)
    assert not (tmp_path / "runs").exists()


def test_help_lists_the_keys_and_loads_nothing_heavy() -> None:
    program = (
        "import sys; from ablations.eval import main; code = main(['--help']);"
        "heavy = {'torch', 'lm_eval', 'datasets', 'tokenizers', 'numpy', 'yaml'} & set(sys.modules);"
        "sys.exit(f'loaded {heavy}' if heavy else code)"
    )
    root = Path(command.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    for key in ("checkpoint=PATH", "eval.tasks=[python_bits_per_byte,python_cloze]", "eval.items=1000", "data.seq_len"):
        assert key in done.stdout


def test_table_shows_filters_and_what_is_missing() -> None:
    scores = {
        "t": {"exact_match,strict": 0.5, "exact_match_stderr,strict": 0.1, "exact_match,flexible": None, "n": 4},
    }
    lines = [line.split() for line in command.table(scores).splitlines()]
    assert lines[1:] == [["t", "exact_match,strict", "0.5000", "0.1000", "4"], ["t", "exact_match,flexible", "4"]]
