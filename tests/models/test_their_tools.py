"""A converted checkpoint in strangers' tools: transformers' tokenizer and pipeline, and lm-eval's own `hf` model."""

import dataclasses
import json
import os
import shutil
import stat
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
import torch
from lm_eval.evaluator import evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

from ablations.home import ROOT
from models.base.typed import build
from models.checkpoint import load_checkpoint, save_checkpoint
from models.config import ModelConfig
from models.convert import main
from models.decoding.generate import greedy
from models.prompt import build as build_model
from models.training.batch import Batch
from models.transformer import Transformer, initialise
from tasks.config import DataConfig
from tasks.evals.lm import HarnessLM
from tasks.prepared import chat_template
from tasks.problems.data import ProblemData
from tasks.problems.template import CHAT_TEMPLATES
from tasks.text.tokenizer import END_OF_TEXT, load_tokenizer, train_tokenizer

LENGTH = 48
TEXT = "\n\n".join((ROOT / name).read_text() for name in ("models/moe.py", "models/attention.py"))
CHAIN = "def __init__(self)"
"""A prompt after which the model of `folder` goes round all its tokens' successors, one of which is the end."""

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer([TEXT], 400)


@pytest.fixture(scope="module")
def model(tokenizer: Tokenizer) -> Transformer:
    """Mostly, one token determines the next one, so that it is known when a text ends: after 5 tokens of CHAIN."""
    narrow = {"n_heads": 2, "kv_lora_rank": 12, "qk_nope_head_dim": 8, "qk_rope_head_dim": 6, "v_head_dim": 10}
    values: dict[str, Any] = {"vocab_size": 400, "d_model": 48, "n_layers": 2, "dtype": "float32", "attention": narrow}
    config = build(ModelConfig, values, "model")
    made = Transformer(config)
    initialise(made, 0, 0.3)
    last = tokenizer.encode(CHAIN, add_special_tokens=False).ids[-1]
    rest = [token for token in range(1, 400) if token != last]
    circle = [last, *rest[:5], 0, *rest[5:]]
    with torch.no_grad():
        directions = torch.nn.functional.normalize(made.model.embed_tokens.weight, dim=1)
        made.model.embed_tokens.weight.copy_(directions)
        made.lm_head.weight[circle[1:] + circle[:1]] = directions[circle]
        for name, parameter in made.named_parameters():
            if "o_proj" in name or "down_proj" in name:
                parameter.mul_(0.003)
    return made.eval()


@pytest.fixture(scope="module")
def folder(model: Transformer, tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Converted, with a umask that lets the group read."""
    place = tmp_path_factory.mktemp("tools")
    before = os.umask(0o027)
    try:
        save_checkpoint(place / "ours", model, {"data": {"seq_len": LENGTH}})
        (place / "ours" / "tokenizer.json").write_text(tokenizer.to_str())
        assert main(["to-hf", str(place / "ours"), str(place / "hf")]) == 0
        assert {stat.S_IMODE(path.stat().st_mode) for path in (place / "hf").iterdir()} == {0o640}
        assert stat.S_IMODE((place / "hf").stat().st_mode) == 0o750
    finally:
        os.umask(before)
    return place / "hf"


def test_the_end_and_the_length_stand_in_every_file(folder: Path) -> None:
    for name in ("config.json", "generation_config.json"):
        values = json.loads((folder / name).read_text())
        assert (values["bos_token_id"], values["eos_token_id"]) == (0, 0), name
    assert json.loads((folder / "config.json").read_text())["max_position_embeddings"] == LENGTH
    theirs = AutoTokenizer.from_pretrained(folder)
    assert (theirs.eos_token, theirs.eos_token_id, theirs.model_max_length) == (END_OF_TEXT, 0, LENGTH)


@pytest.mark.parametrize(
    "text",
    [
        *(TEXT, "", " two  spaces ", "\n\n\tx = [ 1 , 2 ]\n", "don 't stop . ' ok '", "Grüße, 漢字 🙂\u200b\r\n"),
        *(f"a{END_OF_TEXT}b", END_OF_TEXT),
    ],
    ids=lambda text: repr(text[:16]),
)
def test_their_tokenizer_gives_our_ids_and_the_text_back(folder: Path, tokenizer: Tokenizer, text: str) -> None:
    theirs, ours = AutoTokenizer.from_pretrained(folder), load_tokenizer(tokenizer.to_str())
    ids = theirs(text)["input_ids"]
    assert ids == theirs.encode(text) == ours.encode(text, add_special_tokens=False).ids
    assert theirs.decode(ids) == text
    assert theirs.decode([0, *ids, 0]) == END_OF_TEXT + text + END_OF_TEXT, "special tokens are kept"


def test_their_pipeline_stops_where_a_text_ends(folder: Path, model: Transformer, tokenizer: Tokenizer) -> None:
    """The same text as ours, and nothing after the end; without the end in the files it would be 20 tokens."""
    prompt = torch.tensor([tokenizer.encode(CHAIN, add_special_tokens=False).ids])
    expected = greedy(model, prompt, 20)[0].tolist()
    assert expected[5] == 0 and 0 not in expected[:5]
    generate = pipeline("text-generation", model=str(folder))
    made = generate(CHAIN, max_new_tokens=20, do_sample=False, return_full_text=False)
    assert made[0]["generated_text"] == tokenizer.decode(expected[:5])
    ids = generate.model.generate(prompt, max_new_tokens=20, do_sample=False)[0, prompt.shape[1] :]
    assert ids.tolist() == expected[:6]
    begun = generate.model.generate(max_new_tokens=3, do_sample=False)[0]
    assert begun.tolist() == [0, *greedy(model, torch.tensor([[0]]), 3)[0].tolist()], "a text from its beginning"


TASKS: dict[str, dict[str, Any]] = {
    "choices": {"output_type": "multiple_choice", "doc_to_choice": "{{choices}}", "doc_to_target": "{{gold}}"},
    "rolling": {"output_type": "loglikelihood_rolling", "doc_to_target": "{{text}}"},
    "open": {
        "output_type": "generate_until",
        "doc_to_target": "x",
        "generation_kwargs": {"until": ["\n\n\n"], "max_gen_toks": 12, "do_sample": False},
    },
}
METRICS = {"choices": "acc", "rolling": "byte_perplexity", "open": "exact_match"}


def tasks(place: Path) -> Any:
    """Of local files: no context (which transformers cannot generate from), short ones, and longer ones than the model
    takes."""
    rows = []
    for n, context in enumerate(("", CHAIN, TEXT[:40], TEXT[:400], TEXT[300:900])):
        choices = [" self.config", "\n    return x", " 漢字", TEXT[n : n + 30]]
        rows.append({"text": context, "choices": choices, "gold": n % 4})
    for name, entries in TASKS.items():
        file = place / f"{name}.json"
        file.write_text("\n".join(map(json.dumps, rows[1:] if name == "open" else rows)))
        source = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(file)}}}
        shown = "" if name == "rolling" else "{{text}}"
        common = {"task": name, **source, "test_split": "test", "doc_to_text": shown, "target_delimiter": ""}
        metrics = [{"metric": METRICS[name]}]
        (place / f"{name}.yaml").write_text(json.dumps({**common, **entries, "metric_list": metrics}))
    return TaskManager(include_path=place, include_defaults=False).load(list(TASKS))


def test_lm_evals_own_model_gives_our_scorers_numbers(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setenv("DISABLE_MULTIPROC", "1")
    ours, _ = load_checkpoint(folder.parent / "ours")
    tokenizer = load_tokenizer((folder / "tokenizer.json").read_text())
    theirs = HFLM(pretrained=str(folder), device="cpu", batch_size=1)
    assert theirs.max_length == LENGTH and theirs.prefix_token_id == theirs.eot_token_id == 0
    loaded = tasks(tmp_path)
    scored: list[Any] = [
        evaluate(lm, loaded, bootstrap_iters=0, log_samples=True)
        for lm in (theirs, HarnessLM(lambda tokens: ours(tokens).logits, tokenizer, LENGTH))
    ]
    compared = 0
    for name in TASKS:
        for one, other in zip(*(result["samples"][name] for result in scored), strict=True):
            a, b = one["resps"], other["resps"]
            if name == "open":
                assert a == b
            else:
                found, expected = torch.tensor(nats(a)), torch.tensor(nats(b))
                torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-3)
                compared += found.numel()
    assert compared == 5 * 4 + 5


def nats(responses: Any) -> list[float]:
    """The numbers in lm-eval's nested answers, which come as floats, tensors or their texts."""
    if isinstance(responses, list | tuple):
        return [value for response in responses for value in nats(response)]
    return [] if str(responses) in ("True", "False") else [float(responses)]


PAIRS = DataConfig(
    source="problem",
    problem="sorting",
    settings={"numbers": [2, 3], "below": 12, "short": 0.5},
    seq_len=32,
    template="chat",
)


@pytest.fixture(scope="module", params=["chat", "plain"])
def chatting(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ProblemData]:
    """A model that has learned some steps of a problem, converted."""
    place = tmp_path_factory.mktemp("chatting")
    data = ProblemData(dataclasses.replace(PAIRS, template=request.param), 32)
    made, threads = build_model("tiny", {"vocab_size": 32, "d_model": 32, "dtype": "float32"}), torch.get_num_threads()
    torch.set_num_threads(1)
    adam = torch.optim.Adam(made.train().parameters(), 0.01)
    for step in range(60):
        tokens = Batch.of(data.train_batch(0, step)).tokens_BT1
        logits = made(tokens[:, :-1]).logits
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()).backward()
        adam.step()
        adam.zero_grad()
    torch.set_num_threads(threads)
    said = {"data": dataclasses.asdict(data.config), "chat_template": chat_template(data.config)}
    save_checkpoint(place / "ours", made, said)
    (place / "ours" / "tokenizer.json").write_text(data.tokenizer.to_str())
    assert main(["to-hf", str(place / "ours"), str(place / "hf")]) == 0
    return place, data


def test_transformers_chats_as_we_answer(chatting: tuple[Path, ProblemData]) -> None:
    """Token for token, from the words of a question to the end of the answer."""
    place, data = chatting
    ours, _ = load_checkpoint(place / "ours")
    theirs, model = AutoTokenizer.from_pretrained(place / "hf"), AutoModelForCausalLM.from_pretrained(place / "hf")
    asked, ended = data.prompts("test", 0, 0, 12), 0
    for i in range(12):
        question = data.text(asked.questions.tokens_NQ[i]).strip()
        inputs = theirs.apply_chat_template(
            [{"role": "user", "content": question}],
            add_generation_prompt=True,
            return_tensors="pt",
            return_dict=True,
        )
        prompt = asked.tokens_NP[i][: asked.lengths_N[i]]
        assert inputs["input_ids"][0].tolist() == prompt.tolist()
        expected = greedy(ours, torch.from_numpy(prompt)[None], data.longest_answer)[0].tolist()
        end = expected.index(0) + 1 if 0 in expected else len(expected)
        ended += 0 in expected
        made = model.generate(**inputs, max_new_tokens=data.longest_answer, do_sample=False)[0, len(prompt) :]
        assert made.tolist() == expected[:end]
        assert theirs.decode(made) == data.tokenizer.decode(expected[:end], skip_special_tokens=False)
    assert ended > 6, "it has learned to end its answers"


def test_a_template_goes_there_and_back(chatting: tuple[Path, ProblemData], tmp_path: Path) -> None:
    place, data = chatting
    written = json.loads((place / "hf" / "tokenizer_config.json").read_text())
    assert written["chat_template"] == CHAT_TEMPLATES[data.config.template]
    assert "chat_template" not in json.loads((place / "hf" / "config.json").read_text())["v3_ablations"]
    assert main(["from-hf", str(place / "hf"), str(tmp_path / "back")]) == 0
    assert main(["to-hf", str(tmp_path / "back"), str(tmp_path / "again")]) == 0
    assert json.loads((tmp_path / "again" / "tokenizer_config.json").read_text()) == written


def test_a_template_without_its_markers_is_one_line(
    chatting: tuple[Path, ProblemData], tmp_path: Path, tokenizer: Tokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    place, data = chatting
    folder = shutil.copytree(place / "ours", tmp_path / "ours")
    (folder / "tokenizer.json").write_text(tokenizer.to_str())
    code = main(["to-hf", str(folder), str(tmp_path / "out")])
    if data.config.template == "plain":
        assert code == 0, "it has none but the end"
        return
    (line,) = capsys.readouterr().err.splitlines()
    assert code == 2 and line.startswith("error: chat_template: writes <user>, which is no token of tokenizer.json; ")
    assert not (tmp_path / "out").exists()


def test_what_has_learned_text_has_no_template(folder: Path) -> None:
    assert "chat_template" not in json.loads((folder / "tokenizer_config.json").read_text())
    assert chat_template(DataConfig()) is None
