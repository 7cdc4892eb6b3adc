"""The two sides of `benchmarks.scoring`: one checkpoint as it is, and converted for lm-eval's own `hf` model."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lm_eval.api.model import LM

from models.base.typed import ConfigError
from tasks.evals.harness import quiet

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance
    from tokenizers import Tokenizer

    from models.base.bounds import DType
    from models.transformer import Transformer

WIDE = 0.06
"""Of random weights: their logits differ by about one nat."""


class Timed(LM):
    """An LM, with the processor's seconds that its answers took and the answers themselves."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner, self.seconds = inner, 0.0
        self.answers: list[float] = []

    def _asked(self, kind: str, requests: "list[Instance]") -> list[Any]:
        started = time.process_time()
        try:
            found: list[Any] = getattr(self.inner, kind)(requests)
        except AssertionError:
            if kind != "loglikelihood" or not self._too_long(requests):
                raise
            raise ConfigError(
                "items: hf takes no answer that is longer than the model, and one of these is; take fewer items, or a "
                "checkpoint of a larger data.seq_len"
            ) from None
        self.seconds += time.process_time() - started
        self.answers += [float(answer[0] if isinstance(answer, tuple) else answer) for answer in found]
        return found

    def _too_long(self, requests: "list[Instance]") -> bool:
        """Whether an answer has more tokens than the model takes, which `hf` asserts against without a word."""
        limit, lm = self.inner.max_length, self.inner
        asked = [request.args for request in requests]
        return any(len(lm._encode_pair(*pair)[1] if pair[0] else lm.tok_encode(pair[1])) > limit for pair in asked)

    def loglikelihood(self, requests: "list[Instance]", disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        return self._asked("loglikelihood", requests)

    def loglikelihood_rolling(self, requests: "list[Instance]", disable_tqdm: bool = False) -> list[float]:
        return self._asked("loglikelihood_rolling", requests)

    def generate_until(self, requests: "list[Instance]", disable_tqdm: bool = False) -> list[str]:
        raise NotImplementedError("likelihoods alone are compared")


def scored(lm: LM, tasks: dict[str, Any], items: int) -> tuple[Timed, dict[str, Any]]:
    """lm-eval's results of one side."""
    from tasks.evals.harness import evaluate

    timed = Timed(lm)
    return timed, evaluate(timed, tasks, items, 0)


def random_checkpoint(folder: Path, size_name: str, length: int, texts: Sequence[str]) -> None:
    """A model of a named size with wide random weights, and a tokenizer of the texts."""
    from models.checkpoint import save_checkpoint
    from models.sizes import size
    from models.transformer import Transformer, initialise
    from tasks.text.tokenizer import train_tokenizer

    config = replace(size(size_name)[0], dtype="float32")
    model = Transformer(config)
    initialise(model, 0, WIDE)
    save_checkpoint(folder, model, {"data": {"seq_len": length}})
    (folder / "tokenizer.json").write_text(train_tokenizer(texts, config.vocab_size).to_str(), encoding="utf-8")


@dataclass(frozen=True)
class Sides:
    """The same checkpoint as it is and converted."""

    model: "Transformer"
    tokenizer: "Tokenizer"
    length: int
    converted: Path
    learned: str = "text"
    """Its `data.source`."""
    dtype: "DType" = "float32"

    @staticmethod
    def of(checkpoint: Path, place: Path) -> "Sides":
        from models.checkpoint import load_checkpoint
        from models.convert import to_hf
        from tasks.text.tokenizer import load_tokenizer

        model, saved = load_checkpoint(checkpoint)
        to_hf(checkpoint, place)
        tokenizer = load_tokenizer((checkpoint / "tokenizer.json").read_text(encoding="utf-8"))
        data = saved["data"]
        sides = Sides(model, tokenizer, data["seq_len"], place, data.get("source", "text"))
        return sides.computing_in("float32")  # whatever it was trained in

    @property
    def parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.model.parameters())

    def ours(self) -> LM:
        """With nothing kept of an earlier turn."""
        from models.decoding.generate import Decoding
        from models.decoding.trees import tree_logits
        from tasks.evals import lm
        from tasks.evals.ways import Ways

        lm._cached_encoder.cache_clear()
        return lm.HarnessLM(
            lambda tokens: self.model(tokens).logits,
            self.tokenizer,
            self.length,
            Ways(tree_logits=partial(tree_logits, self.model), decoder=partial(Decoding, self.model)),
        )

    def computing_in(self, dtype: "DType") -> "Sides":
        """The same weights in products of that type."""
        from models.transformer import Transformer

        config = replace(self.model.config, dtype=dtype)
        if dtype == "float64":  # grouped products have no such kernel, and nothing is rounded on the way
            precision = replace(config.precision, recipe="auto")
            config = replace(config, moe=replace(config.moe, backend="loop"), precision=precision)
        model = Transformer(config)
        model.load_state_dict(self.model.state_dict())
        return replace(self, model=model.eval(), dtype=dtype)

    def theirs(self, batch_size: int = 16, adds_in: str | None = None) -> LM:
        """As `lm_eval --model hf` makes it; `adds_in` is its `softmax_dtype`."""
        from lm_eval.models.huggingface import HFLM

        with quiet():
            return HFLM(
                pretrained=str(self.converted),
                device="cpu",
                dtype=self.dtype,
                softmax_dtype=adds_in,
                batch_size=batch_size,
            )
