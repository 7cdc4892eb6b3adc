"""Our scores are those of lm-eval's own `hf` model on the converted checkpoint, item by item, on real benchmarks."""

import gzip
import json
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
import torch
from lm_eval.api.instance import Instance

from benchmarks.scoring import TASKS, TOLERANCE, Command, EvalKeys, compare, in_fp64, run, tables, texts_of
from benchmarks.scoring_sides import Sides, Timed, random_checkpoint
from models.base.typed import ConfigError
from tasks.evals.lm import HarnessLM

SHARED = Path(__file__).parents[3] / "shared" / "data"
ITEMS = 4

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.skipif(not (SHARED / "hellaswag").is_dir(), reason="real benchmarks are not here"),
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The benchmarks, of hellaswag the first lines: whatever it is asked, lm-eval rewrites all of its 10,000 items."""
    place = tmp_path_factory.mktemp("benchmarks")
    for folder in SHARED.iterdir():
        if folder.name != "hellaswag":
            (place / folder.name).symlink_to(folder)
    (place / "hellaswag").mkdir()
    name = "hellaswag/validation.jsonl.gz"
    with gzip.open(SHARED / name, "rt") as whole, gzip.open(place / name, "wt") as part:
        part.writelines(islice(whole, 100))
    return str(place)


@pytest.fixture(scope="module")
def command(data: str) -> Command:
    return Command(EvalKeys(data, list(TASKS)), items=ITEMS, turns=1, batch_sizes=[4], size="tiny", length=96)


@pytest.fixture(scope="module")
def sides(command: Command, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sides]:
    """Shorter than many of the items, and of a model that was trained in BF16."""
    place, threads = tmp_path_factory.mktemp("equality"), torch.get_num_threads()
    torch.set_num_threads(1)
    random_checkpoint(place / "ours", command.size, command.length, texts_of(command))
    config = place / "ours" / "config.json"
    saved = json.loads(config.read_text())
    config.write_text(json.dumps(saved | {"model": saved["model"] | {"dtype": "bfloat16"}}))
    yield Sides.of(place / "ours", place / "converted")
    torch.set_num_threads(threads)


@pytest.mark.parametrize("task", TASKS)
def test_scores_are_those_of_their_model(task: str, data: str, command: Command, sides: Sides) -> None:
    items = 1 if task == "wikitext" else ITEMS
    (row,) = compare(sides, replace(command, eval=EvalKeys(data, [task]), items=items), lambda _: None)
    assert row.items == (67 if task == "blimp" else items)
    assert row.flipped == 0 and row.scores < 1e-5
    if task != "wikitext":  # where rounding adds up over thousands of tokens
        assert row.largest <= TOLERANCE and row.equal == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("turns=0", "turns=0: must be at least 1"),
        ("items=0", "items=0: must be at least 1"),
        ("batch_sizes=[0]", "batch_sizes[0]=0: must be at least 1"),
        ("batch_sizes=[]", "batch_sizes=[]: there is nothing to compare; name one at least"),
        ("eval.tasks=[]", "eval.tasks=[]: there is nothing to compare; name one at least"),
        ("bf16_items=-1", "bf16_items=-1: must not be negative"),
        (
            "eval.tasks=[python_cloze]",
            "eval.tasks=python_cloze: is of a trial's own text, or a file; name standard tasks",
        ),
        ("eval.tasks=[gsm8k]", "eval.tasks=gsm8k: has text written, and likelihoods alone are compared; leave it out"),
    ],
)
def test_what_cannot_be_compared_is_refused(words: str, said: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(said)}$"):
        run([f"eval.data_dir={SHARED}", words])


def test_what_was_found_is_kept_for_readers(data: str, tmp_path: Path) -> None:
    words = [f"eval.data_dir={data}", "eval.tasks=[piqa]", "size=tiny", "length=96", "items=2", "turns=1"]
    with pytest.raises(ConfigError, match="is a file; name a folder$"):
        run([*words, f"out={__file__}"])
    found = run([*words, "batch_sizes=[4]", f"out={tmp_path / 'kept'}"])
    assert json.loads((tmp_path / "kept/scoring.json").read_text()) == json.loads(json.dumps(found))
    lines = (tmp_path / "kept/table.md").read_text().splitlines()
    assert any(line.startswith("random weights, model=tiny: ") for line in lines)
    assert any(line.startswith("| piqa | 2 | 4 |") for line in lines)


def test_bf16_is_counted_apart(data: str, command: Command, sides: Sides) -> None:
    """Rounded weights are no longer the same; so few items flip, if any, that only what is counted is tested."""
    asked = replace(command, eval=EvalKeys(data, ["piqa"]), items=1, bf16_items=6)
    (row,) = compare(sides, asked, lambda _: None)
    assert row.bf16 is not None and (row.items, row.bf16.items) == (1, 6)
    assert row.bf16.flipped <= 6 and min(row.bf16.seconds, row.bf16.seconds_theirs) > 0
    (beside, low) = tables([row])
    assert (beside.title, low.title) == ("Ours beside hf's", "In BF16") and tables([replace(row, bf16=None)]) == [
        beside
    ]
    assert sides.computing_in("bfloat16").model.dtype == torch.bfloat16 and sides.model.dtype == torch.float32


def test_fp64_tells_whose_rounding_it_is(sides: Sides, command: Command) -> None:
    """Were anything of it FP32, ours would be as far from it as theirs, or equal to it."""
    wide = sides.computing_in("float64")
    tokens = torch.arange(40)[None]
    with torch.no_grad():
        assert wide.model(tokens).logits.dtype == torch.float64
    found = in_fp64(sides, "piqa", replace(command, exact_items=3))
    assert found.answers == 6 == found.within == found.within_theirs
    assert 0 < found.largest < 1e-4 > found.largest_theirs > 0


def test_logits_in_fp64_are_scored_in_fp64(sides: Sides) -> None:
    size = sides.model.config.vocab_size
    logits_VV = torch.randn(size, size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    lm = HarnessLM(lambda tokens: logits_VV[tokens], sides.tokenizer, 32)
    context, answer = lm.tok_encode("the cat"), lm.tok_encode(" sat on it")
    ((found, _),) = lm._loglikelihood_tokens([(("the cat", " sat on it"), context, answer)])
    before = [*context, *answer][len(context) - 1 : -1]
    exact = logits_VV[before].log_softmax(-1).gather(-1, torch.tensor(answer)[:, None]).sum()
    assert found == pytest.approx(float(exact), abs=1e-12)


def test_an_answer_that_hf_does_not_take_is_one_line(sides: Sides) -> None:
    theirs = Timed(sides.theirs(1))
    for context in ("a", ""):  # blimp has none
        answer = Instance("loglikelihood", {}, (context, " b" * 200), 0, ("task", 0, 1))
        with pytest.raises(ConfigError, match="^items: hf takes no answer that is longer than the model"):
            theirs.loglikelihood([answer])


def test_what_else_hf_asserts_is_not_taken_for_a_long_answer(sides: Sides, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = Timed(sides.theirs(1))

    def fails(requests: list[Instance]) -> None:
        raise AssertionError("of another kind")

    monkeypatch.setattr(theirs.inner, "loglikelihood", fails)
    with pytest.raises(AssertionError, match="of another kind"):
        theirs.loglikelihood([Instance("loglikelihood", {}, ("a", " b"), 0, ("task", 0, 1))])


def test_who_learned_a_skill_is_compared_on_no_text(data: str, command: Command, tmp_path: Path) -> None:
    random_checkpoint(tmp_path / "skill", "tiny", 32, texts_of(command))
    config = json.loads((tmp_path / "skill/config.json").read_text())
    config["data"] |= {"source": "skill", "skill": "phonebook"}
    (tmp_path / "skill/config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match="^eval.tasks=piqa: is text, of which data.source=skill has no token"):
        run([f"eval.data_dir={data}", "eval.tasks=[piqa]", f"checkpoint={tmp_path / 'skill'}", "items=2"])
