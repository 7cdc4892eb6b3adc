"""What a trained model scores in lm-eval's tasks."""

import dataclasses
import functools
import time
from pathlib import Path

from ablations.record.record import Record
from ablations.trial.job import TrialJob
from ablations.trial.measures import answer_metrics
from models.layers import inferring
from models.transformer import Transformer
from tasks.prepared import Data


class ScoringFailed(Exception):
    """The lm-eval tasks could not be scored; the training is kept."""


def scored(record: Record, job: TrialJob, model: Transformer, data: Data) -> Record:
    """With what lm-eval's tasks say. Raises ScoringFailed, where checkpoint and metrics are kept."""
    from models.decoding.generate import Decoding
    from models.decoding.sampling import draw
    from models.decoding.trees import tree_logits
    from tasks.evals.score import score
    from tasks.evals.ways import Ways

    keys, started = job.keys, time.monotonic()
    try:
        with inferring(model):
            ways = Ways(
                keys.train.device,
                tree_logits=functools.partial(tree_logits, model),
                decoder=functools.partial(Decoding, model),
                sampler=functools.partial(draw, model),
                whole=keys.document_end is None,
            )
            scores = score(
                lambda tokens: model(tokens, document_end=keys.document_end).logits,
                data,
                keys.eval,
                Path(job.cache),
                ways,
            )
    except Exception as error:  # whatever a task's data or lm-eval raises
        raise ScoringFailed(
            "the training is kept, and the same command scores it again, unless a file of a task changes: "
            f"{type(error).__name__}: {error}"
        ) from error
    eval_s = record.timings["eval_s"] + time.monotonic() - started
    metrics = {**record.metrics, **answer_metrics(scores)}
    timings = {**record.timings, "eval_s": eval_s}
    return dataclasses.replace(record, metrics=metrics, scores=scores, timings=timings)
