"""`python -m ablations.eval`: what it reads, what it refuses, and what it prints, around a stand-in model."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from ablations import eval as command
from models.base.typed import ConfigError, build
from models.checkpoint import save_checkpoint
from models.config import ModelConfig, RopeConfig
from models.convert import main as convert
from models.transformer import Transformer, initialise
from tasks.config import DataConfig
from tasks.evals.known import check_askable
from tasks.text import corpora
from tasks.text.batches import prepare
from tasks.text.tokenizer import END_OF_TEXT

VOCAB = 280


class Text(NamedTuple):
    name: str
    text: str


DOCUMENTS = [
    Text(f"m{n}.py", "".join(f"def function_{n}_{i}(value):\n    return value + {i * 37 % 91}\n\n" for i in range(300)))
    for n in range(6)
]


def write_documents(folder: Path) -> Path:
    path = folder / "documents.jsonl"
    path.write_text("".join(json.dumps({"text": document.text}) + "\n" for document in DOCUMENTS))
    return path


def write_tokenizer(folder: Path, size: int = VOCAB, end: str = END_OF_TEXT) -> None:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=[end], initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([document.text for document in DOCUMENTS], trainer)
    tokenizer.save(str(folder / "tokenizer.json"))


@pytest.fixture
def checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint folder of documents beside it, with a loader that needs no trained model."""
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    data = {"source": "text", "path": str(write_documents(tmp_path)), "seq_len": 24}
    saved = {"format": 1, "model": {"vocab_size": VOCAB}, "data": data}
    (folder / "config.json").write_text(json.dumps(saved))
    (folder / "model.safetensors").write_bytes(b"")
    write_tokenizer(folder)

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.config = ModelConfig(rope=RopeConfig(scaling="yarn", factor=2.0, original_length=24))
            self.table = torch.nn.Parameter(torch.randn(VOCAB, VOCAB, generator=torch.Generator().manual_seed(0)))

        def forward(self, tokens_BT: torch.Tensor, document_end: int | None = None) -> Any:
            assert tokens_BT.shape[1] <= 24
            assert not self.training
            return SimpleNamespace(logits=self.table[tokens_BT])

    loader: Any = ModuleType("models.checkpoint")
    loader.load_checkpoint = lambda path: (Model(), json.loads((path / "config.json").read_text()))
    monkeypatch.setitem(sys.modules, "models.checkpoint", loader)
    return folder


def test_scores_a_checkpoint_and_ends_with_one_line_of_json(
    checkpoint: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = [f"checkpoint={checkpoint}", f"runs_dir={tmp_path}/runs", "eval.items=10", "data.max_bytes=900000"]
    assert command.main([*arguments, "eval=quick"]) == 0
    out, err = capfd.readouterr()
    assert err == ""
    *lines, last = out.splitlines()
    result = json.loads(last)
    assert result["split"] == "test"
    assert list(result["scores"]) == ["python_bits_per_byte", "python_cloze"]
    assert len(result["scores"]["python_cloze"]["items"]) == 10
    assert lines[0].startswith("task  ") and lines[0].endswith("stderr  95 % over documents  chance  items")
    row = next(line.split() for line in lines if line.split()[:2] == ["python_cloze", "acc"])
    assert row[2] == f"{result['scores']['python_cloze']['acc']:.4f}"
    assert row[4:] == ["0.2500", "10"]
    assert [path.name for path in (tmp_path / "runs" / "data").iterdir()] == ["evals"], (
        "documents are text: none packed"
    )


def test_a_checkpoint_that_does_not_say_where_its_text_lies_is_asked_what_needs_none(
    checkpoint: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """As one from elsewhere does: other tasks are scored, and its own text is asked for."""
    saved = json.loads((checkpoint / "config.json").read_text())
    del saved["data"]["path"]
    saved["data"]["mask_documents"] = True  # which the stand-in can score
    (checkpoint / "config.json").write_text(json.dumps(saved))
    (tmp_path / "copies/piqa").mkdir(parents=True)
    row = {"goal": "add", "sol1": "a value", "sol2": "a function", "label": 0}
    (tmp_path / "copies/piqa/validation.jsonl").write_text(json.dumps(row) + "\n")
    words = [f"checkpoint={checkpoint}", f"runs_dir={tmp_path}/runs"]
    piqa = ["eval.tasks=[piqa]", f"eval.data_dir={tmp_path}/copies"]
    assert command.main([*words, *piqa]) == command.main([*words, *piqa, "data.seq_len=20"]) == 0
    assert command.main([*words, "eval=quick"]) == 2
    assert capfd.readouterr().err == "error: data.source=text: needs data.path=FILE_OR_FOLDER\n"


def test_what_text_does_not_ask_is_refused_before_anything_is_written(
    checkpoint: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert command.main([f"checkpoint={checkpoint}", f"runs_dir={tmp_path}/runs", "eval=skills"]) == 2
    assert "error: eval.tasks=skill_answers: text asks nothing; take data.source=" in capfd.readouterr().err
    skill = ["data.source=skill", "data.skill=recall", "data.max_bytes=9", "eval=skills"]
    assert command.main([f"checkpoint={checkpoint}", f"runs_dir={tmp_path}/runs", *skill]) == 2
    assert "error: data.max_bytes=9: is read only with text, data.source=text, hf" in capfd.readouterr().err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["checkpoint=/nowhere/at/all"], "checkpoint=/nowhere/at/all: there is no such folder"),
        (["eval.items=5"], "checkpoint: missing"),
        (["checkpoint=x", "eval.itms=5"], "eval.itms: no such key; did you mean eval.items?"),
        (["checkpoint=x", "eval.tokens=5"], "eval.tokens: no such key"),
        (["checkpoint=x", "eval.items=five"], "eval.items=five: expected a whole number"),
        (["checkpoint=x", "eval.tasks=python_cloze"], "eval.tasks=python_cloze: expected a list"),
        (["checkpoint=x", "eval=quik"], "eval=quik: no such preset; did you mean quick?"),
        (["checkpoint=x", "eval=quick", "eval.tasks=[piqa]"], "eval.tasks: given twice"),
        (["checkpoint=x", "data.source=stdlb"], "did you mean stdlib?"),
        (["checkpoint=x", "data.seq_len=[1"], "data.seq_len=[1: not a value"),
        (["chekpoint=x"], "chekpoint: no such key; did you mean checkpoint?"),
        (["checkpoint=x", "+eval.items=5"], "+eval.items: no such key; did you mean eval.items?"),
        (["checkpoint=x", "verbose"], "verbose: no such key"),
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


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["data.seq_len=49"], "data.seq_len=49: beyond the model, whose model.rope.scaling=yarn stretches"),
        (["data.name=wikitext"], "data.name=wikitext: is read with data.source=hf only; add data.source=hf"),
        (["data.source=stdlib", "data.skill=star"], "data.skill=star: is read with data.source=skill only"),
        (
            ["eval.tasks=[python_cloze]", "eval.data_dir=."],
            "eval.data_dir=.: eval.tasks=[python_cloze] has no task that",
        ),
        (["data.source=domains", "data.weights={a: 1}"], "data.weights.a: no such domain"),
    ],
)
def test_keys_that_would_be_ignored_are_refused(checkpoint: Path, tmp_path: Path, words: list[str], told: str) -> None:
    request = command.request_of([f"checkpoint={checkpoint}", f"runs_dir={tmp_path}/runs", *words])
    with pytest.raises(ConfigError) as error:
        command.evaluate(request)
    assert str(error.value).startswith(told) and not (tmp_path / "runs").exists()


def test_another_source_does_not_take_over_what_was_about_the_checkpoints() -> None:
    learned = {"source": "text", "path": "a.txt", "seq_len": 24}
    asked = command._asked_of(learned, {"source": "stdlib"})
    assert (asked.source, asked.path, asked.seq_len) == ("stdlib", None, 24)
    assert command._asked_of(learned, {"path": "b.txt"}).path == "b.txt"


def test_who_has_learned_words_is_asked_no_others(tmp_path: Path, checkpoint: Path) -> None:
    learned = {"source": "skill", "skill": "recall", "settings": {"keys": 8, "pairs": [2]}, "seq_len": 48}
    shutil.copytree(checkpoint, tmp_path / "words")
    config = json.loads((tmp_path / "words/config.json").read_text())
    (tmp_path / "words/config.json").write_text(json.dumps({**config, "data": learned}))
    words = [f"checkpoint={tmp_path / 'words'}", f"runs_dir={tmp_path}/runs", "eval.tasks=[]"]
    for asked, out in (
        ("data=stdlib", "data.source$"),
        ("data.settings={keys: 9, pairs: [2]}", "data.settings$"),
        ("data.skill=chain", "data.skill$"),  # which has no such settings
    ):
        with pytest.raises(ConfigError, match=f"has learned the words of data.skill=recall .*; leave out {out}"):
            command.evaluate(command.request_of([*words, "data.batch_size=3", "data.seq_len=24", asked]))
    problem = {"source": "problem", "problem": "sums", "template": "plain", "seq_len": 48}
    (tmp_path / "words/config.json").write_text(json.dumps({**config, "data": problem}))
    with pytest.raises(ConfigError, match=r"the words of data.problem=sums .*; leave out data.template$"):
        command.evaluate(command.request_of([*words, "data.template=chat"]))
    (tmp_path / "words/config.json").write_text(json.dumps({**config, "data": learned}))
    with pytest.raises(ConfigError, match="^eval.tasks=lambada_openai: is text, of which data.source=skill has no"):
        command.evaluate(command.request_of([*words[:2], "eval.tasks=[lambada_openai]"]))


def test_a_skill_among_text_has_tokens_that_no_task_asks_for(tmp_path: Path, checkpoint: Path) -> None:
    shutil.copytree(checkpoint, tmp_path / "both")
    config = json.loads((tmp_path / "both/config.json").read_text())
    (tmp_path / "both/config.json").write_text(json.dumps({**config, "data": {**config["data"], "skills": ["chain"]}}))
    words = [f"checkpoint={tmp_path / 'both'}", f"runs_dir={tmp_path}/runs", "eval=skills", "data=skill"]
    with pytest.raises(ConfigError, match=r"^data.skill=chain: .* has learned it among text, in tokens of its own"):
        command.evaluate(command.request_of([*words, "data.skill=chain", "data.seq_len=48"]))


def test_who_has_learned_text_is_asked_of_text_and_of_a_skill_at_once(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a checkpoint of another tool, which says nothing of its text."""
    check_askable(["skill_answers", "piqa"], "skill", "text")
    for task in ("problem_greedy", "problem_samples"):
        with pytest.raises(
            ConfigError, match=f"^eval.tasks={task}: data.source=text has taught none of a problem's words"
        ):
            check_askable([task], "problem", "text")
    with pytest.raises(ConfigError, match="^eval.samples=8: is read by problem_samples only; add it to eval.tasks, or"):
        command.evaluate(command.request_of([f"checkpoint={checkpoint}", "eval=quick", "eval.samples=8"]))
    shutil.copytree(checkpoint, tmp_path / "foreign")
    config = json.loads((tmp_path / "foreign/config.json").read_text())
    (tmp_path / "foreign/config.json").write_text(json.dumps({**config, "data": {"seq_len": 48}}))
    asked = list[tuple[Any, ...]]()
    monkeypatch.setattr("tasks.evals.known.check_askable", lambda *words: asked.append(words))
    skill = ["eval.tasks=[skill_answers]", "eval.items=2", "data=skill", "data.skill=recall", "data.seq_len=24"]
    settings = "data.settings={keys: 16, pairs: [2]}"
    for folder in (checkpoint, tmp_path / "foreign"):
        command.evaluate(command.request_of([f"checkpoint={folder}", f"runs_dir={tmp_path}/runs", *skill, settings]))
    assert [source for _, *source in asked] == [["skill", "text"], ["skill", "python_packages"]]
    with pytest.raises(ConfigError, match="^eval.tasks=piqa: is text, of which data.source=skill has no token; take "):
        check_askable(["skill_answers", "piqa"], "skill")


OF_EACH: dict[str, dict[str, Any]] = {
    "python_packages": {"mask_documents": True, "fim_rate": 0.1},
    "text": {"path": "a.txt", "text_field": "body"},
    "hf": {"name": "wikitext", "text_field": "body"},
    "domains": {"domains": {"a": "x", "b": "y"}, "weights": {"a": 1.0, "b": 2.0}, "domain_per": "batch"},
    "skill": {"skill": "star", "settings": {"path": [3]}, "answers_only": True},
    "problem": {"problem": "sums", "settings": {"digits": [2]}, "answers_only": True, "template": "chat"},
}


@pytest.mark.parametrize("learned", OF_EACH)
@pytest.mark.parametrize("asked", OF_EACH)
def test_a_checkpoint_of_any_source_is_scored_on_any_other(learned: str, asked: str) -> None:
    found = command._asked_of({"source": learned, **OF_EACH[learned]}, {"source": asked, **OF_EACH[asked]})
    assert found == build(DataConfig, {"source": asked, **OF_EACH[asked]}, "data")


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
    request = command.request_of([f"checkpoint={checkpoint}", f"runs_dir={tmp_path}/runs"])
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


def foreign(place: Path, vocab_size: int, config: dict[str, Any], size: int = VOCAB, end: str = "</s>") -> Path:
    """A stranger's folder, read by models.convert: a model with a vocabulary of its own, 61 tokens long, and a
    tokenizer of `size` tokens; `config` is laid over their config.json."""
    narrow = {"n_heads": 2, "kv_lora_rank": 12, "qk_nope_head_dim": 8, "qk_rope_head_dim": 6, "v_head_dim": 10}
    values = {"vocab_size": vocab_size, "d_model": 16, "n_layers": 2, "dtype": "float32", "attention": narrow}
    model = Transformer(build(ModelConfig, values, "model"))
    initialise(model, 0, 0.3)
    save_checkpoint(place / "made", model)
    assert convert(["to-hf", str(place / "made"), str(place / "theirs")]) == 0
    written = json.loads((place / "theirs" / "config.json").read_text()) | {"max_position_embeddings": 61} | config
    (place / "theirs" / "config.json").write_text(json.dumps({**written, "v3_ablations": None}))
    write_tokenizer(place / "theirs", size, end)
    assert convert(["from-hf", str(place / "theirs"), str(place / "checkpoint")]) == 0
    return place / "checkpoint"


@pytest.mark.parametrize("vocab_size", [VOCAB, 32_000])
@pytest.mark.parametrize("end", ["</s>", END_OF_TEXT])
def test_a_strangers_checkpoint_is_scored_with_what_it_brings(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, vocab_size: int, end: str
) -> None:
    """Its tokenizer, its end of text and its length; no tokenizer is trained, whatever its vocabulary."""
    folder = foreign(tmp_path, vocab_size, {"eos_token_id": 0}, end=end)
    lengths: list[int] = []
    forward = Transformer.forward
    monkeypatch.setattr(
        Transformer, "forward", lambda self, x, **given: (lengths.append(x.shape[1]), forward(self, x, **given))[1]
    )
    words = [f"checkpoint={folder}", f"runs_dir={tmp_path}/runs", "eval.tasks=[python_bits_per_byte]", "eval.items=2"]
    assert command.main([*words, "data.source=text", f"data.path={write_documents(tmp_path)}"]) == 0
    result = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert 1 < result["scores"]["python_bits_per_byte"]["bits_per_byte"] < 20
    assert max(lengths) == 61


@pytest.mark.parametrize(
    ("vocab_size", "config", "message"),
    [
        (VOCAB, {}, "tokenizer.json has no token <|endoftext|> to end a text with; name its own in config.json"),
        (VOCAB, {"eos_token_id": VOCAB}, "has no token <|endoftext|> to end a text with"),
        (VOCAB - 1, {"eos_token_id": 0}, "token ids up to 279, and the model's vocabulary ends at 278"),
        (64, {"eos_token_id": 0}, "model.vocab_size=64"),
    ],
    ids=["no end", "an end that is not there", "one token too many", "another model's tokenizer"],
)
def test_a_tokenizer_that_does_not_fit_is_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], vocab_size: int, config: dict[str, Any], message: str
) -> None:
    folder = foreign(tmp_path, vocab_size, config)
    capfd.readouterr()
    words = [f"checkpoint={folder}", f"runs_dir={tmp_path}/runs", "eval.tasks=[python_bits_per_byte]"]
    assert command.main([*words, "data.source=text", f"data.path={write_documents(tmp_path)}"]) == 2
    out, err = capfd.readouterr()
    assert out == "" and err.startswith(f"error: checkpoint={folder}: ") and err.count("\n") == 1
    assert message in err


def test_an_end_can_be_named_in_the_checkpoint(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """As the error says."""
    folder = foreign(tmp_path, VOCAB, {})
    saved = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**saved, "end_of_text": "</s>"}))
    words = [f"checkpoint={folder}", f"runs_dir={tmp_path}/runs", "eval.tasks=[python_bits_per_byte]", "eval.items=2"]
    assert command.main([*words, "data.source=text", f"data.path={write_documents(tmp_path)}"]) == 0
    words.append("data.seq_len=0")
    capfd.readouterr()
    assert command.main(words) == 2
    assert "data.seq_len=0: must be at least 1" in capfd.readouterr().err


@pytest.mark.parametrize(("data", "rule"), [(3, "data=3: expected "), ({"seq_len": "x"}, "data.seq_len=x: ")])
def test_what_a_checkpoint_says_wrong_of_its_text_is_blamed_on_it(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], data: Any, rule: str
) -> None:
    folder = foreign(tmp_path, VOCAB, {})
    saved = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**saved, "data": data}))
    capfd.readouterr()
    assert command.main([f"checkpoint={folder}", "eval.tasks=[python_bits_per_byte]"]) == 2
    err = capfd.readouterr().err
    assert err.startswith(f"error: checkpoint={folder}: config.json: {rule}") and err.count("\n") == 1
    (folder / "config.json").write_text(json.dumps({**saved, "data": None}))
    command.main([f"checkpoint={folder}", "eval.tasks=[python_bits_per_byte]"])
    assert "expected a group" not in capfd.readouterr().err, "null says nothing of it"


def test_a_trials_own_documents_come_out_of_its_cache(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The same ones, but neither read nor streamed again; without the cache they are."""
    saved = json.loads((checkpoint / "config.json").read_text())
    words = [f"checkpoint={checkpoint}", "eval.items=10", "eval.tasks=[python_cloze]"]
    prepare(build(DataConfig, saved["data"], "data"), VOCAB, tmp_path / "cached" / "data")
    read, load_splits = [], corpora.load_splits
    monkeypatch.setattr(
        corpora, "load_splits", lambda config, *rest: (read.append(config), load_splits(config, *rest))[1]
    )
    scores = []
    for runs in ("cached", "fresh"):
        assert command.main([*words, f"runs_dir={tmp_path / runs}"]) == 0
        scores.append(json.loads(capfd.readouterr().out.splitlines()[-1])["scores"])
        assert len(read) == (runs == "fresh")
    assert scores[0] == scores[1]
