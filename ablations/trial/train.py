"""One trial: a pure function of its resolved keys, its seed and the data. It leaves one directory with one record.

A trial that was killed goes on from its last resumable checkpoint with exactly the bits that it would have had: batch t
depends on (seed, t) alone, and the checkpoint holds weights, optimizer, schedule and the place in the data. One whose
training is done keeps weights and metrics before it is scored: where scoring fails, the next run scores and no more.
"""

import dataclasses
import logging
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ablations.config.trialkeys import TrialKeys
from ablations.record.record import RECORD, Record, finished, read_record
from ablations.record.steplog import STEPS, StepLog, read_steps
from ablations.record.trialdir import RESUME, STATE, TRAINED, clear, finished_in, owned
from ablations.trial.branch import hand_on
from ablations.trial.chain import BASE, distance, save_base
from ablations.trial.context import context_metrics
from ablations.trial.crew import crew_of, whole_weights
from ablations.trial.fitting import batches_of, build_model, open_data, quiet_lightning, trainer_of
from ablations.trial.identity import TRIAL, environment
from ablations.trial.job import TrialJob
from ablations.trial.measures import (
    batch_metrics,
    precision_metrics,
    test_metrics,
    training_loss,
    until_half,
)
from ablations.trial.recorder import Notes, Recorder, Report, Unwatched, Watcher
from ablations.trial.resume import copy_whole, resume_of
from ablations.trial.scoring import scored
from ablations.trial.stages import reward_metrics, stage_metrics, stages_done
from ablations.trial.teacher import learn_from, teacher_of
from models.base.files import remove, set_aside, unfinished_in, write_atomically
from models.base.typed import ConfigError
from models.checkpoint import load_checkpoint, save_checkpoint
from models.module import Diverged
from models.transformer import Transformer
from tasks.prepared import Data, chat_template

log = logging.getLogger(__name__)


def run_trial(job: TrialJob, report: Report, watched: Callable[[], Watcher] = Unwatched) -> Record:
    """Train, evaluate and record one trial, where it has no record yet; `watched` makes one who looks on."""
    folder = Path(job.folder)
    with owned(folder, lambda owner: report({"event": "waiting", "owner": owner})):
        record = finished_in(folder, _noting(report))
        if record is None:
            for left in unfinished_in(folder):
                remove(left)
            watcher = watched()
            try:
                record = _score_kept(job, watcher, report) or _train(job, watcher, report)
                record = put_on_record(record, folder, job.keep)
            except BaseException:
                watcher.finish(None)
                raise
            watcher.finish(record)
        clear(folder)
    return record


def put_on_record(record: Record, folder: Path, keep: bool = False) -> Record:
    """Write it, and return what is on record; what was kept to go on from is then of use to others alone: with `keep`,
    or where it was stopped on its way. Where somebody has broken the lock and was the first to finish, his record
    stays."""
    if (other := finished(folder / RECORD)) is not None:
        return other
    if (folder / RESUME).is_file() and record.status == "complete" and (keep or record.config["until"] < 1):
        copy_whole(folder / RESUME, folder / STATE)
    record.write(folder / RECORD)
    if not keep:
        (folder / BASE).unlink(missing_ok=True)
    clear(folder)
    return record


def _train(job: TrialJob, watcher: Watcher, report: Report) -> Record:
    """Stage by stage, each next one from the state that the one before has left."""
    quiet_lightning()
    folder = Path(job.folder)
    said = _noting(report)
    resume = resume_of(folder, job.keys, job.seed, None if job.trunk is None else Path(job.trunk), said)
    teacher = teacher_of(job, lambda other: run_trial(other, report), said)
    notes = Notes(job.keys, StepLog(folder / STEPS, resume.steps), watcher, report)
    notes.validation |= resume.validation
    state, module, last = resume.weights, None, len(job.keys.before)
    based = job.keys.has_base and (last > 0 or job.keep)
    if based and resume.stage == 0 and state is not None:
        save_base(folder, state)
    started = time.monotonic()
    try:
        with crew_of(job) as crew:
            for number, stage in enumerate(job.keys.stages):
                if number < resume.stage or (number == resume.stage and resume.ended):
                    continue
                module = build_model(stage, job.seed)
                checkpoint = resume.path if number == resume.stage else None
                if checkpoint is None and job.keys.goes_on(number):
                    checkpoint = folder / RESUME
                    hand_on(checkpoint, job.keys.stages[number - 1], number, module, job.seed)
                elif checkpoint is None and state is not None:
                    module.begin(state)
                data = open_data(stage, job.cache)
                if stage.distil.on and teacher is not None:
                    data = learn_from(teacher.model, stage, module, data)
                kept = number < last or job.keep
                recorder = Recorder(notes, number, data, folder, job.seed, kept)
                strategy = "auto" if crew is None else crew.begin(number, module, checkpoint, kept)
                trainer = trainer_of(stage, folder, [recorder], strategy)
                trainer.fit(module, batches_of(stage, data, job.seed), ckpt_path=checkpoint, weights_only=True)
                state = whole_weights(module)
                if based and number == 0:
                    save_base(folder, state)
                if crew is not None:
                    module = None  # it may be a part of the model
    except Diverged as diverged:
        return dataclasses.replace(
            begun(job), status="diverged", reason=str(diverged), history=notes.history(), answering=notes.answering()
        )
    finally:
        notes.steps.close()
    if module is None:  # others had trained all of it, or a part each
        module = build_model(job.keys, job.seed)
        module.transformer.load_state_dict(state or {})
    if job.keys.until < 1:
        return dataclasses.replace(begun(job), history=notes.history(), validation=notes.validation)
    report({"event": "evaluating"})
    cost = {} if teacher is None else {"teacher_flops": teacher.flops}
    return finish(begun(job), job, module.transformer, notes, time.monotonic() - started, cost)


def begun(job: TrialJob, entry: str = TRIAL, **also: Any) -> Record:
    """The record of a trial before anything is known of it. `also`: what else its bits depend on."""
    return Record(
        id=job.id,
        seed=job.seed,
        status="complete",
        config=dataclasses.asdict(job.keys),
        data=open_data(job.keys, job.cache).fingerprint,
        environment={**environment(job.keys, entry), **also},
    )


def finish(
    base: Record, job: TrialJob, model: Transformer, notes: Notes, train_s: float, known: Mapping[str, float] = {}
) -> Record:
    """Evaluate; where tasks are named keep the checkpoint, and score (a search trial does neither). `known`: metrics
    that are there already.

    Raises ScoringFailed, where checkpoint and metrics are kept.
    """
    data, folder = open_data(job.keys, job.cache), Path(job.folder)
    record = _measured(base, job.keys, data, model, notes, folder)
    if record.status == "complete":
        record = dataclasses.replace(record, metrics={**record.metrics, **known})
    timings = {**record.timings, "train_s": train_s, "tokens_per_second": notes.tokens_here / train_s}
    record = dataclasses.replace(record, timings=timings)
    if record.status == "complete" and job.keys.eval.tasks:
        write_atomically(folder / "checkpoint" / "tokenizer.json", data.tokenizer.to_str())
        kept = {"data": dataclasses.asdict(job.keys.data), "trial": job.id}
        template = chat_template(job.keys.data)
        save_checkpoint(folder / "checkpoint", model, kept | ({"chat_template": template} if template else {}))
        record.write(folder / TRAINED)
        record = scored(record, job, model, data)
    return record


def _measured(base: Record, keys: TrialKeys, data: Data, model: Transformer, notes: Notes, folder: Path) -> Record:
    """The record of a finished training, without scores."""
    started = time.monotonic()
    metrics, load = test_metrics(keys, data, model)
    if not math.isfinite(metrics["loss"]):  # the last step's harm shows only here
        reason = f"loss on the {keys.eval.split} split is not finite after the last step"
        return dataclasses.replace(base, status="diverged", reason=reason, history=notes.history())
    metrics |= training_loss(keys, data, notes.steps.rows) | batch_metrics(keys, notes.steps.rows)
    further, needles = context_metrics(keys, data, model)
    metrics |= further | precision_metrics(keys, data, model) | until_half(data.skill, notes.validation)
    metrics |= distance(keys, data, model, folder)
    done = stages_done(keys, notes.steps.rows)
    return dataclasses.replace(
        base,
        metrics=metrics | stage_metrics(done) | reward_metrics(notes.steps.rows),
        load=load,
        needles=needles,
        history=notes.history(),
        validation=notes.validation,
        stages=done,
        answering=notes.answering(),
        timings={"eval_s": time.monotonic() - started},
    )


def _score_kept(job: TrialJob, watcher: Watcher, report: Report) -> Record | None:
    """The record of a training that was kept and is only to be scored; None where there is none."""
    folder = Path(job.folder)
    if not (folder / TRAINED).is_file():
        return None
    try:
        record = read_record(folder / TRAINED)
        model, _ = load_checkpoint(folder / "checkpoint", job.keys.train.device)
    except ConfigError as error:
        aside = [set_aside(path).name for path in (folder / TRAINED, folder / "checkpoint") if path.exists()]
        _noting(report)(f"damaged, set aside as {' and '.join(aside)}, and the trial trains again: {error}")
        return None
    report({"event": "evaluating"})
    watcher.replay(read_steps(folder / STEPS), record.validation)
    return scored(record, job, model, open_data(job.keys, job.cache))


def _noting(report: Report) -> Callable[[str], None]:
    """What the user must read."""
    return lambda text: report({"event": "note", "text": text})
