"""`python -m ablations.eval checkpoint=PATH`: the scores of a checkpoint on lm-eval tasks.

A checkpoint is a folder with model.safetensors, config.json (`format`, `model`; `data`; `end_of_text` where its texts
end with another token than ours) and tokenizer.json: a trial's, or one that models.convert read. Nothing is trained.
Prints a table, and one JSON object as the last line.
"""

import dataclasses
import functools
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ablations.home import check_house
from ablations.metrics import is_accuracy
from models.base.command import given, keys_of, parse
from models.base.streams import obeyed, spoken
from models.base.typed import ConfigError, build, nested
from models.vocabulary import END_OF_TEXT
from tasks.config import DRAWN, DataConfig, EvalConfig
from tasks.evals.presets import PRESETS, preset

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from torch import Tensor

    from tasks.problems.data import ProblemData
    from tasks.skills.data import SkillData
    from tasks.text.splits import Document

CHECKPOINT_FILES = ("config.json", "model.safetensors", "tokenizer.json")
UNUSED = (
    *("eval.tokens", "eval.lengths", "eval.mask_documents", "data.mask_documents", "data.epochs"),
    *("data.skills", "data.skills_share"),
)
"""Keys that only matter during a trial."""
OF_A_SOURCE = (
    *("path", "name", "text_field", "domains", "weights", "domain_per"),
    *("skill", "problem", "settings", "answers_only", "template", "fim_rate", "mask_documents"),
)
"""Data keys that are about one source of text."""

USAGE = """python -m ablations.eval checkpoint=PATH [KEY=VALUE ...]

Scores a checkpoint folder (config.json, model.safetensors, tokenizer.json) on lm-eval tasks.

  checkpoint=PATH   the folder
  device=cpu        or cuda
  runs_dir=runs     its cache/ keeps prepared data, evaluation items and downloads
{groups}
eval.tasks names any lm-eval task, or the path of a task's YAML file, WHOSE !function RUNS THAT PYTHON with your rights;
eval=NAME takes a preset's tasks ({presets}), data=NAME is data.source=NAME.
The data keys start from the checkpoint's own.
Example: python -m ablations.eval checkpoint=runs/trials/ID/checkpoint eval.tasks=[python_cloze,blimp] eval.items=100
"""


@dataclass(frozen=True)
class EvalCommand:
    """The command's keys."""

    checkpoint: Path | None = None
    device: Literal["cpu", "cuda"] = "cpu"
    runs_dir: Path = Path("runs")
    eval: EvalConfig = field(default_factory=EvalConfig)
    data: DataConfig = field(default_factory=DataConfig)


@dataclass(frozen=True)
class Request:
    """What was asked for, checked as far as that goes without loading anything."""

    checkpoint: Path
    device: str
    runs_dir: Path
    eval: EvalConfig
    data: dict[str, Any]
    """Overrides of the checkpoint's data keys."""


def request_of(words: Sequence[str]) -> Request:
    """Raises ConfigError for a word that is no KEY=VALUE, an unknown key, or a wrong value."""
    words = [_spelled_out(word) for word in words]
    asked = parse(EvalCommand, words, UNUSED)
    if asked.checkpoint is None:
        raise ConfigError("checkpoint: missing; give the folder of a checkpoint, checkpoint=PATH")
    overrides = nested(given(EvalCommand, words, UNUSED)).get("data", {})
    return Request(asked.checkpoint, asked.device, asked.runs_dir, asked.eval, overrides)


def _spelled_out(word: str) -> str:
    """A preset's name as the tasks that it stands for, and a source's as its key; any other word as it is."""
    key, _, name = word.partition("=")
    if key == "data" and name.isidentifier():
        return f"data.source={name}"
    return f"eval.tasks=[{','.join(preset(name))}]" if key == "eval" else word


def evaluate(request: Request) -> dict[str, Any]:
    """{`checkpoint`, `split`, `scores`: as `tasks.evals.score.score` returns them}.

    Raises ConfigError for a checkpoint that is not one, an unknown task, or data that cannot be had.
    """
    _check_files(request.checkpoint)
    if request.device == "cuda":
        _check_cuda()
    from tasks.evals.known import check_askable, check_copies, check_samples, check_tasks
    from tasks.evals.prepare import prepare_tasks
    from tasks.evals.score import score
    from tasks.evals.ways import Ways

    check_tasks(request.eval.tasks, request.eval.data_dir, request.eval.run_model_code)
    check_copies(request.eval.tasks, request.eval.data_dir)
    check_samples(request.eval.samples, request.eval.tasks)
    from models.checkpoint import load_checkpoint
    from models.decoding.generate import Decoding
    from models.decoding.sampling import draw
    from models.decoding.trees import tree_logits
    from models.layers import inferring
    from models.rules import check_length

    model, saved = load_checkpoint(request.checkpoint)
    learned_from = _data_of(request.checkpoint, saved)
    config, learned = _asked_of(learned_from, request.data), build(DataConfig, learned_from, "data")
    _check_words(request, learned, config)
    check_askable(request.eval.tasks, config.source, learned.source)
    check_length(model.config, config.seq_len)
    tokenizer, vocab_size = _tokenizer(request.checkpoint), saved["model"]["vocab_size"]
    end_of_text = saved.get("end_of_text", END_OF_TEXT)
    end_id = _check_vocabulary(request.checkpoint, tokenizer, vocab_size, end_of_text)
    document_end = end_id if learned_from.get("mask_documents") else None  # scored as its trial scored it
    model = model.to(request.device).eval()

    def logits(tokens_BT: "Tensor") -> "Tensor":
        return model(tokens_BT, document_end=document_end).logits

    cache_dir = request.runs_dir / "data"  # the trials' own
    data = CheckpointData(tokenizer, config, vocab_size, cache_dir)
    prepare_tasks(data, request.eval, cache_dir)
    with inferring(model):
        ways = Ways(
            request.device,
            end_of_text,
            tree_logits=functools.partial(tree_logits, model),
            decoder=functools.partial(Decoding, model),
            sampler=functools.partial(draw, model),
            whole=document_end is None,
        )
        scores = score(logits, data, request.eval, cache_dir, ways)
    return {"checkpoint": str(request.checkpoint), "split": request.eval.split, "scores": scores}


@dataclass(frozen=True)
class CheckpointData:
    """The tokenizer of the checkpoint, and the held-out documents, which are read only if a task asks for them: as its
    trial left them in the cache, else from their source. They are text, so no vocabulary is made for them."""

    tokenizer: "Tokenizer"
    config: DataConfig
    vocab_size: int
    """Of the model: its trial's cache is found by it."""
    cache_dir: Path

    @property
    def seq_len(self) -> int:
        return self.config.seq_len

    @property
    def fingerprint(self) -> dict[str, Any]:
        return dataclasses.asdict(self.config)

    def documents(self, split: Literal["validation", "test"]) -> "Sequence[Document]":
        from tasks.rules import check_source
        from tasks.skills.mixed import text_vocab
        from tasks.text.batches import prepared_before
        from tasks.text.corpora import load_splits

        if self._drawn is not None:
            return self._drawn.documents(split)
        check_source(self.config)
        packed = prepared_before(self.config, text_vocab(self.config, self.vocab_size), self.cache_dir)
        if packed is None:
            return load_splits(self.config, None, self.cache_dir).held_out(split)
        return packed.documents(split)

    def questions(self, split: Literal["validation", "test"]) -> list[dict[str, Any]]:
        return self._drawn.questions(split) if self._drawn is not None else []

    @functools.cached_property
    def _drawn(self) -> "SkillData | ProblemData | None":
        from tasks.prepared import drawn_data

        return drawn_data(self.config, self.vocab_size)


def _check_files(folder: Path) -> None:
    if not folder.is_dir():
        raise ConfigError(f"checkpoint={folder}: there is no such folder")
    missing = [name for name in CHECKPOINT_FILES if not (folder / name).is_file()]
    if missing:
        raise ConfigError(f"checkpoint={folder}: not a checkpoint, it has no {' and no '.join(missing)}")


def _data_of(folder: Path, saved: dict[str, Any]) -> dict[str, Any]:
    """What the checkpoint's config.json says of its text; nothing where another's tool wrote it."""
    data = {} if saved.get("data") is None else saved["data"]
    try:
        build(DataConfig, data, "data")
    except ConfigError as error:
        raise ConfigError(f"checkpoint={folder}: config.json: {error}") from None
    return dict(data)


def _asked_of(learned_from: dict[str, Any], asked: dict[str, Any]) -> DataConfig:
    """The checkpoint's data keys under those that were asked for; where that is another source, without what was about
    the checkpoint's. Raises ConfigError for keys that are of no use together, as before a training."""
    from tasks.rules import check_source, needed_by

    if asked.get("source", learned_from.get("source")) != learned_from.get("source"):
        learned_from = {key: value for key, value in learned_from.items() if key not in OF_A_SOURCE}
    elif any(name in asked and asked[name] != learned_from.get(name) for name in DRAWN):
        learned_from = {**learned_from, "settings": None}
    config = build(DataConfig, {**learned_from, **asked}, "data")
    if asked.keys() & {"source", *OF_A_SOURCE}:  # else as trained; one from elsewhere may not say where its text lies
        check_source(config)
    for key, value in asked.items():
        if needed := needed_by(key, config):
            raise ConfigError(f"data.{key}={value}: is read only with {needed}; add that, or leave it out")
    return config


def _check_words(request: Request, learned: DataConfig, asked: DataConfig) -> None:
    """Who has learned words of a rule can read no others. Raises ConfigError."""
    from tasks.rules import OF_THE_TEXT, OF_THE_WORDS, tokens_of

    if learned.source in DRAWN and (tokens_of(asked), asked.template) != (tokens_of(learned), learned.template):
        keys = [key for key in dict.fromkeys((*OF_THE_WORDS, *OF_THE_TEXT)) if key in request.data]
        other = [key for key in keys if getattr(asked, key) != getattr(learned, key)]
        raise ConfigError(
            f"checkpoint={request.checkpoint}: has learned the words of data.{learned.source}="
            f"{getattr(learned, learned.source)} as they were written there, and no others; leave out "
            f"{', '.join(f'data.{key}' for key in other)}"
        )
    if asked.source == "skill" and asked.skill in learned.skills:
        raise ConfigError(
            f"data.skill={asked.skill}: checkpoint={request.checkpoint} has learned it among text, in tokens of "
            "its own that no task asks for; its trial's record has what it knows of it"
        )


def _tokenizer(folder: Path) -> "Tokenizer":
    from tasks.text.tokenizer import load_tokenizer

    try:
        return load_tokenizer((folder / "tokenizer.json").read_text(encoding="utf-8"))
    except Exception as error:  # tokenizers raises nothing more specific
        raise ConfigError(f"checkpoint={folder}: tokenizer.json cannot be read ({error})") from error


def _check_vocabulary(folder: Path, tokenizer: "Tokenizer", vocab_size: int, end_of_text: Any) -> int:
    """The id of the token that ends a text. Raises ConfigError where there is none, or for ids beyond the model's."""
    largest = max(tokenizer.get_vocab().values(), default=-1)
    if largest >= vocab_size:
        raise ConfigError(
            f"checkpoint={folder}: tokenizer.json has token ids up to {largest}, and the model's vocabulary ends at "
            f"{vocab_size - 1} (model.vocab_size={vocab_size}); put the model's own tokenizer.json there"
        )
    end = tokenizer.token_to_id(end_of_text) if isinstance(end_of_text, str) else None
    if end is None:
        raise ConfigError(
            f"checkpoint={folder}: tokenizer.json has no token {end_of_text} to end a text with; name its own in "
            f'config.json, as in "end_of_text": "</s>"'
        )
    return end


def _check_cuda() -> None:
    import torch

    if not torch.cuda.is_available():
        raise ConfigError("device=cuda: torch finds no GPU here; use device=cpu")


def table(scores: dict[str, dict[str, Any]]) -> str:
    """One line per task and metric."""
    lines = [("task", "metric", "value", "stderr", "95 % over documents", "chance", "items")]
    for task, row in scores.items():
        for metric, value in row.items():
            if metric in ("n", "chance", "items") or _is_stderr(metric) or isinstance(value, list | dict):
                continue
            name, comma, answer_filter = metric.partition(",")
            error = row.get(f"{name}_stderr{comma}{answer_filter}")
            chance = row.get("chance") if is_accuracy(f"{task}/{metric}") else None
            interval = " .. ".join(map(_number, row.get(f"{metric}_interval", ())))
            cells = (_number(value), _number(error), interval, _number(chance), str(row.get("n", "")))
            lines.append((task, metric, *cells))
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def _is_stderr(metric: str) -> bool:
    return metric.partition(",")[0].endswith("_stderr")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def usage() -> str:
    groups = [line for line in keys_of(EvalCommand, UNUSED) if "." in line.partition("=")[0]]
    return USAGE.format(groups="\n".join(f"  {line}" for line in groups), presets=", ".join(PRESETS))


def main(arguments: Sequence[str] | None = None) -> int:
    words = sys.argv[1:] if arguments is None else arguments
    if not words or {"-h", "--help"} & set(words):
        print(usage())
        return 0

    def work() -> int:
        check_house()
        result = evaluate(request_of(words))
        print(table(result["scores"]))
        print(json.dumps(result, allow_nan=False))
        return 0

    return obeyed(work, "interrupted; nothing was written but the cache")


if __name__ == "__main__":
    sys.exit(spoken(main))
