"""What one stage is trained by: its module, its data, its batches, and Lightning's Trainer."""

import functools
import logging
import warnings
from pathlib import Path

import lightning as L
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.strategies import Strategy

from ablations.config.trialkeys import Stage
from models.module import Course, LanguageModel
from models.post_training.policy import Policy
from tasks.config import END_OF_TEXT_ID, DataConfig
from tasks.datamodule import QuestionModule, TextDataModule
from tasks.prepared import Data, prepare_data
from tasks.problems.data import ProblemData

READ_EVERY = {"cpu": 1, "cuda": 16}
"""Steps (models.module.Course.read_every): a GPU runs ahead of its host, a CPU is its own."""


def open_data(stage: Stage, cache: str) -> Data:
    """The packed corpus that a stage learns from; kept, since a worker runs many trials on it."""
    return _opened(stage.data, stage.model.vocab_size, cache)


@functools.lru_cache(maxsize=4)
def _opened(config: DataConfig, vocab_size: int, cache: str) -> Data:
    return prepare_data(config, vocab_size, Path(cache))


def build_model(stage: Stage, seed: int, rank: int | None = None) -> LanguageModel:
    """The module of a stage, initialised from its seed; with a `rank`, that rank's part of a pipeline."""
    course = Course(
        stage.full_batches,
        stage.microbatches,
        stage.step_starts,
        stage.train.perturb,
        stage.train.spike_nats,
        stage.document_end,
        READ_EVERY[stage.train.device],
        stage.parallel,
    )
    if stage.grpo.on:
        return Policy(stage.model, stage.optim, course, seed, stage.grpo, END_OF_TEXT_ID)
    module = LanguageModel(stage.model, stage.optim, course, seed, rank)
    if stage.train.compile:
        from models.training.compiled import compile_blocks

        compile_blocks(module.transformer)
    return module


def batches_of(stage: Stage, data: Data, seed: int) -> L.LightningDataModule:
    """What a stage learns from, step by step."""
    if stage.grpo.on:
        assert isinstance(data, ProblemData)  # by ablations.config.trialrules
        return QuestionModule(data, seed, stage.batches, stage.grpo)
    return TextDataModule(data, seed, stage.batches, stage.data.order, stage.data.epochs)


def trainer_of(stage: Stage, folder: Path, callbacks: list[L.Callback], strategy: Strategy | str = "auto") -> L.Trainer:
    """Lightning's, for one training and nothing beside it."""
    return L.Trainer(
        max_steps=stage.stop,
        max_epochs=1,
        accelerator="gpu" if stage.train.device == "cuda" else "cpu",
        devices=1,
        strategy=strategy,
        plugins=[LightningEnvironment()],  # else it looks for a cluster to be a part of
        gradient_clip_val=stage.optim.clip_norm,
        gradient_clip_algorithm="norm",
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        default_root_dir=str(folder),
    )


def quiet_lightning() -> None:
    """It warns of what is meant."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
