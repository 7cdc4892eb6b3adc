"""The model as lm-eval sees it: a function from tokens to logits, and a tokenizer.

Shapes: B rows, T tokens, V vocabulary, N scored positions over all rows. Rows are padded on the right; the model is
causal, so what stands to the right of a position does not reach it.
"""

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from lm_eval.api.model import LM, TemplateLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from torch import Tensor

from models.base.typed import ConfigError
from models.layers import at_least_fp32
from tasks.evals.drafts import Draft, Rereading, batches, greedy_arguments, write
from tasks.evals.problems import SAMPLES
from tasks.evals.trees import Window, forwards, grown
from tasks.evals.ways import PLAINLY, Ways

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance
    from tokenizers import Tokenizer

TREE_TOKENS = 1024
"""Of one call: on a CPU more of them only leave the caches."""

DRAWN_AT_ONCE = 1024
"""Answers, those to one question together."""
DRAWS_SEED = 1


@functools.lru_cache(maxsize=2)
def _cached_encoder(tokenizer: "Tokenizer") -> Callable[[str], tuple[int, ...]]:
    """The choices of an item share their context, and successive models share the items: encode each string once."""

    @functools.lru_cache(maxsize=16384)
    def encode(string: str) -> tuple[int, ...]:
        return tuple(tokenizer.encode(string, add_special_tokens=False).ids)

    return encode


class HarnessLM(TemplateLM):
    """Deterministic; one process, one device. Texts are greedy, but of the task `problem_samples`.

    `logits` maps tokens (B, T) to logits (B, T, V), causally. `max_length` is the longest T it takes: longer contexts
    lose their beginning. `batch_tokens` bounds B * T of one call. Raises ConfigError where the tokenizer lacks the
    token that ends a text.
    """

    def __init__(
        self,
        logits: Callable[[Tensor], Tensor],
        tokenizer: "Tokenizer",
        max_length: int,
        ways: Ways = PLAINLY,
        batch_tokens: int = 8192,
    ) -> None:
        super().__init__()
        self.sampler, self.tree_logits, self.decoder = ways.sampler, ways.tree_logits, ways.decoder
        self.logits = logits
        self.tokenizer: Tokenizer = tokenizer
        self.max_length = max_length
        self.batch_tokens = batch_tokens
        self._device = torch.device(ways.device)
        end = tokenizer.token_to_id(ways.end_of_text)
        if end is None:
            raise ConfigError(f"end_of_text={ways.end_of_text}: the tokenizer has no such token; name one of its own")
        self._end = int(end)
        self._encode = _cached_encoder(tokenizer)

    @property
    def eot_token_id(self) -> int:
        return self._end

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        return list(self._encode(string))

    def tok_decode(self, tokens: Sequence[int]) -> str:
        return self.tokenizer.decode(list(tokens), skip_special_tokens=False)

    def _loglikelihood_tokens(
        self, requests: list[tuple[tuple[str, str], list[int], list[int]]], **kwargs: Any
    ) -> list[tuple[float, bool]]:
        """(log-probability of the continuation in nats, whether greedy decoding would produce it) per request."""
        windows = [
            window
            for index, (_, context, continuation) in enumerate(requests)
            for window in self._windows(index, context or [self.prefix_token_id], continuation)
        ]
        return self._score(windows, len(requests))

    def loglikelihood_rolling(self, requests: list["Instance"], disable_tqdm: bool = False) -> list[float]:
        """Log-probability in nats of each whole text; every token is predicted once, in windows of max_length."""
        windows = [
            window
            for index, request in enumerate(requests)
            for window in self._rolling(index, self.prefix_token_id, self.tok_encode(request.args[0]))
        ]
        return [log_probability for log_probability, _ in self._score(windows, len(requests))]

    def _windows(self, request: int, context: list[int], continuation: list[int]) -> Iterator[Window]:
        if len(continuation) > self.max_length:
            yield from self._rolling(request, context[-1], continuation)
        elif continuation:
            yield Window(request, (context + continuation)[-self.max_length - 1 : -1], continuation)

    def _rolling(self, request: int, prefix: int, tokens: list[int]) -> Iterator[Window]:
        """lm-eval's windows: disjoint, but the last one is filled up to max_length with what precedes it."""
        for pair in get_rolling_token_windows(tokens, prefix, max_seq_len=self.max_length, context_len=1):
            context, targets = make_disjoint_window(pair)
            yield Window(request, context + targets[:-1], targets)

    @torch.no_grad()
    def _score(self, windows: list[Window], n_requests: int) -> list[tuple[float, bool]]:
        """Sums over the windows of each request; a request without windows scores (0.0, True)."""
        totals = torch.zeros(n_requests, dtype=torch.float64)
        misses = torch.zeros(n_requests, dtype=torch.float64)
        for logits_NV, target_N, request_N in (
            self._in_rows(windows) if self.tree_logits is None else self._in_trees(windows)
        ):
            target_N = target_N.to(logits_NV.device)
            scores_N = at_least_fp32(logits_NV).log_softmax(-1).gather(-1, target_N[:, None])[:, 0]
            totals.index_add_(0, request_N, scores_N.double().cpu())
            misses.index_add_(0, request_N, _missed(logits_NV, target_N).double().cpu())
        return [(total, miss == 0) for total, miss in zip(totals.tolist(), misses.tolist(), strict=True)]

    def _in_rows(self, windows: list[Window]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Logits (N, V), target and request (N,) of all predictions, in some batches; each window is read by itself."""
        for rows in self._batches(sorted(windows, key=lambda window: -len(window.inputs))):
            logits_NV, row_N = self._logits_at_targets(rows)
            target_N = torch.tensor(list(itertools.chain.from_iterable(row.targets for row in rows)))
            yield logits_NV, target_N, torch.tensor([row.request for row in rows])[row_N]

    def _in_trees(self, windows: list[Window]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """The same; what windows share is read once."""
        assert self.tree_logits is not None
        for forward in forwards(grown(windows), TREE_TOKENS, self._end):
            inputs = (forward.tokens_BT, forward.depths_BT, forward.sees_BTT, forward.rows_N, forward.columns_N)
            moved = [None if x is None else x.to(self._device) for x in inputs]
            first = 0
            for logits_NV in self.tree_logits(*moved):  # type: ignore[arg-type]
                part = slice(first, first := first + len(logits_NV))
                yield logits_NV, forward.targets_N[part], forward.requests_N[part]

    def _batches(self, windows: list[Window]) -> Iterator[list[Window]]:
        """Consecutive windows, longest first, so that rows * longest stays within batch_tokens."""
        batch: list[Window] = []
        for window in windows:
            if batch and (len(batch) + 1) * len(batch[0].inputs) > self.batch_tokens:
                yield batch
                batch = []
            batch.append(window)
        if batch:
            yield batch

    def _logits_at_targets(self, rows: list[Window]) -> tuple[Tensor, Tensor]:
        """Logits (N, V) at the positions that predict targets, row by row, and the row (N,) of each, on the CPU."""
        logits_BTV = self._padded_logits([row.inputs for row in rows])
        length_B = torch.tensor([len(row.inputs) for row in rows])
        count_B = torch.tensor([len(row.targets) for row in rows])
        row_N = torch.arange(len(rows)).repeat_interleave(count_B)
        within_N = torch.arange(len(row_N)) - (count_B.cumsum(0) - count_B)[row_N]
        position_N = (length_B - count_B)[row_N] + within_N
        return logits_BTV[row_N.to(logits_BTV.device), position_N.to(logits_BTV.device)], row_N

    def _padded_logits(self, rows: list[list[int]]) -> Tensor:
        longest = max(map(len, rows))
        tokens_BT = torch.tensor([row + [self._end] * (longest - len(row)) for row in rows], device=self._device)
        return self.logits(tokens_BT)

    @torch.no_grad()
    def generate_until(self, requests: list["Instance"], disable_tqdm: bool = False) -> list[str]:
        """Text up to a stop string (left out), the end token, or the request's number of new tokens."""
        drawn = iter(self._drawn([request for request in requests if request.task_name == SAMPLES]))
        written = iter(self._written([request for request in requests if request.task_name != SAMPLES]))
        return [next(drawn if request.task_name == SAMPLES else written) for request in requests]

    def _drawn(self, requests: list["Instance"]) -> list[str]:
        """Answers to questions, each of which comes as often as it is to be answered: a function of the model and of
        what is asked."""
        questions, texts = list({id(request): request for request in requests}.values()), list[str]()
        copies = len(requests) // max(1, len(questions))
        at_once = max(1, DRAWN_AT_ONCE // max(1, copies))
        for first in range(0, len(questions), at_once):
            assert self.sampler is not None
            part = questions[first : first + at_once]
            arguments = part[0].args[1]
            drawn = self.sampler(
                [torch.tensor(self.tok_encode(question.args[0]), device=self._device) for question in part],
                arguments["max_gen_toks"],
                self._end,
                torch.Generator(self._device).manual_seed((DRAWS_SEED << 32) + first),
                copies,
                arguments["temperature"],
            )
            kept = (drawn.lengths_B - drawn.ended_B.long()).tolist()
            texts += [self.tok_decode(row[:n]) for row, n in zip(drawn.tokens_BN.tolist(), kept, strict=True)]
        return texts

    def _written(self, requests: list["Instance"]) -> list[str]:
        drafts = []
        for context, arguments in map(greedy_arguments, requests):
            tokens = self.tok_encode(context) or [self.prefix_token_id]
            drafts.append(Draft.of(tokens, arguments, self.max_length))
        for batch in batches(drafts, self.batch_tokens):
            prompts, room = [draft.context for draft in batch], max(draft.budget for draft in batch)
            decoding = self.decoder(prompts, room) if self.decoder else Rereading(self._last_logits, prompts)
            write(batch, decoding, self._end, self.tok_decode)
        return [draft.text for draft in drafts]

    def _last_logits(self, rows: list[list[int]]) -> Tensor:
        logits_BTV = self._padded_logits(rows)
        last_B = torch.tensor([len(row) - 1 for row in rows], device=logits_BTV.device)
        return logits_BTV[torch.arange(len(rows), device=logits_BTV.device), last_B]


def _missed(logits_NV: Tensor, target_N: Tensor) -> Tensor:
    """Whether another token than the target would be written greedily. The largest logit is found twelve times as fast
    as its place, which is asked for only where the target may share it."""
    missed_N = logits_NV.gather(-1, target_N[:, None])[:, 0] < logits_NV.amax(-1)
    first = torch.nonzero(~missed_N)[:, 0]
    missed_N[first] = logits_NV[first].argmax(-1) != target_N[first]
    return missed_N


class StandIn(LM):
    """Answers every request at once and without a model: what a task does with answers can be tried before there is a
    model to give them. Raises ConfigError for requests that HarnessLM would not answer."""

    def loglikelihood(self, requests: list["Instance"], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        return [(-1.0, False)] * len(requests)

    def loglikelihood_rolling(self, requests: list["Instance"], disable_tqdm: bool = False) -> list[float]:
        return [-1.0] * len(requests)

    def generate_until(self, requests: list["Instance"], disable_tqdm: bool = False) -> list[str]:
        for request in requests:
            greedy_arguments(request)
        return ["0"] * len(requests)
