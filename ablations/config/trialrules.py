"""The rules between a trial's keys. What a single key must keep stands in its type."""

from ablations.config.chainrules import check_distil, check_tokens
from ablations.config.trialkeys import Stage, TrialKeys
from models.base.typed import ConfigError, as_typed
from models.config import ModelConfig
from models.pipeline.rules import check_pipeline
from models.rules import check_length, validate
from models.training.config import OptimConfig
from tasks.config import DRAWN, MOST_ORDERED
from tasks.evals.known import check_askable, check_samples
from tasks.evals.programs import check_programs
from tasks.problems.chosen import check_problem, problem_of
from tasks.rules import OF_THE_TEXT, OF_THE_WORDS, check_source, tokens_of
from tasks.skills.chosen import check_learnable, check_skill
from tasks.skills.mixed import check_skills
from tasks.text.fim import reserved
from tasks.text.tokenizer import least_vocab, require_vocab

MOST_STEPS = 1_000_000
"""Of a trial; V3's own training took 235,000 (14.8T tokens in batches of 63M)."""


def check(keys: TrialKeys) -> TrialKeys:
    """`keys`, of which every stage can be trained and the last one scored. Raises ConfigError."""
    for number, stage in enumerate(keys.stages):
        _check_stage(stage)
        if stage.grpo.on and not number:
            raise ConfigError("grpo.on=true: is the first stage, and nobody has learned to answer yet; train before it")
        if keys.goes_on(number):
            _check_place(keys.stages[number - 1], stage)
        elif number:
            check_tokens(keys.stages[number - 1], stage)
        if stage.train.devices != keys.train.devices:
            raise ConfigError(
                f"train.devices={keys.train.devices}: a stage before the last has {stage.train.devices}; all stages of "
                "a trial share as many"
            )
    if (teacher := keys.taught_by) is not None:
        try:
            check(teacher)
        except ConfigError as error:
            raise ConfigError(f"teacher: {error}") from None
    for stage in keys.stages:
        if stage.distil.on:
            check_distil(stage)
    if keys.eval.tokens < keys.data.seq_len:
        raise ConfigError(f"eval.tokens={keys.eval.tokens}: less than one sequence (data.seq_len={keys.data.seq_len})")
    check_programs(keys.eval.tasks, keys.eval.run_model_code)
    _check_lengths(keys)
    _check_answers(keys)
    return keys


def _check_lengths(keys: TrialKeys) -> None:
    """A context that is measured is of text, and not longer than what the model was made for."""
    lengths = keys.eval.lengths
    if lengths and (source := keys.data.source) in DRAWN:
        raise ConfigError(f"eval.lengths={lengths}: are of text, and data.source={source} has none; leave them out")
    for length in lengths:
        check_length(keys.model, length, "eval.lengths")


def _check_answers(keys: TrialKeys) -> None:
    """What is asked can be; that a problem's answers fit into a sequence, `check_problem` sees to."""
    source = keys.data.source
    if keys.eval.mask_documents and source == "skill":
        raise ConfigError(
            "eval.mask_documents=true: is about documents of text, which data.source=skill has none of; leave it out"
        )
    check_samples(keys.eval.samples, keys.eval.tasks)
    check_askable(keys.eval.tasks, source)


def _check_place(trunk: Stage, stage: Stage) -> None:
    """A stage that goes on in the place of another has had its batches so far, or as many tokens in other sequences,
    and has some left."""
    shared = min(stage.stop, trunk.stop)
    if _places(stage, shared) != _places(trunk, shared):
        raise ConfigError(
            f"{_batches(stage)}: cut other batches than the trunk's ({_batches(trunk)}), in whose place this goes on "
            f"after step {trunk.stop}; keep its batches, take longer sequences and as many fewer of them, or compare "
            "from scratch"
        )
    own, learned = stage.data, trunk.data
    other = [name for name in (*OF_THE_WORDS, *OF_THE_TEXT) if getattr(own, name) != getattr(learned, name)]
    if {"source", "skill", "problem", "template"} & {*other} or tokens_of(own) != tokens_of(learned):
        name = other[0]
        raise ConfigError(
            f"data.{name}={as_typed(getattr(own, name))}: goes on in the place of a trunk that has data.{name}="
            f"{as_typed(getattr(learned, name))}, whose tokens mean other things; take the trunk's, or compare from "
            "scratch"
        )
    for name in ("domain_per", *(["skills_share"] if own.skills else [])):
        if (value := getattr(own, name)) != (before := getattr(learned, name)):
            raise ConfigError(
                f"data.{name}={value}: in the place of a trunk that has data.{name}={before}: some text would come "
                "twice and some never; take the trunk's, or compare from scratch"
            )
    if stage.stop <= trunk.stop:
        given = f"train.tokens={stage.train.tokens}"
        if stage.train.token_fraction < 1:
            given += f", train.token_fraction={stage.train.token_fraction:g}"
        raise ConfigError(
            f"{given}: end at step {stage.stop}, and the trunk at {trunk.stop}; train longer, or branch off earlier "
            "(branch_at, or the shares in horizons)"
        )
    if (epochs := stage.data.epochs) != trunk.data.epochs or (epochs > 1 and stage.sequences != trunk.sequences):
        raise ConfigError(
            f"data.epochs={epochs}: of {stage.period:,} sequences, in the place of a trunk that has "
            f"{trunk.data.epochs} of {trunk.period:,}: some would come oftener than others; compare from scratch"
        )
    order = stage.data.order
    if order != trunk.data.order or (order != "mixed" and stage.sequences != trunk.sequences):
        raise ConfigError(
            f"data.order={order}: of {stage.sequences:,} sequences, in the place of a trunk that had the first of "
            f"{trunk.sequences:,} in order {trunk.data.order}: some would come twice and others never; compare from "
            "scratch"
        )


def _places(stage: Stage, steps: int) -> list[tuple[int, int]]:
    """(first token, tokens) of each of the first steps."""
    return [(first * stage.data.seq_len, count * stage.data.seq_len) for first, count in stage.batches[:steps]]


def _batches(stage: Stage) -> str:
    data = stage.data
    ramp = f", data.ramp_from={data.ramp_from:g}" if data.ramp_from != 1 else ""
    parts = f", train.microbatches={stage.microbatches}" if data.batch_size % stage.microbatches or ramp else ""
    return f"data.batch_size={data.batch_size}, data.seq_len={data.seq_len}{ramp}{parts}"


def _check_stage(stage: Stage) -> None:
    validate(stage.model)
    data, count = stage.data, stage.microbatches
    if data.seq_len < 2:
        raise ConfigError(f"data.seq_len={data.seq_len}: must be at least 2, or no token has a next one")
    if data.batch_size % count:
        name = "train.microbatches" if stage.model.pipeline.microbatches is None else "model.pipeline.microbatches"
        raise ConfigError(
            f"data.batch_size={data.batch_size}: must divide evenly into {name}={count}; "
            f"the next that does is {-(-data.batch_size // count) * count}"
        )
    check_source(data)
    if data.source == "skill":
        check_skill(data, stage.model.vocab_size)
        check_learnable(data)
    elif data.source == "problem":
        check_problem(data, stage.model.vocab_size)
    else:
        require_vocab(stage.model.vocab_size, reserved(data.fim_rate))
    check_skills(data, stage.model.vocab_size, least_vocab(reserved(data.fim_rate)))
    check_pipeline(stage.model, count)
    if stage.train.devices > 1:
        _check_devices(stage)
    _check_tokens(stage)
    _check_order(stage)
    _check_epochs(stage)
    _check_schedule(stage.optim)
    kernels = stage.model.precision.kernels
    if kernels in ("torch", "triton") and stage.train.device != "cuda":
        raise ConfigError(f"model.precision.kernels={kernels}: needs train.device=cuda; on a CPU it is emulated")
    check_length(stage.model, data.seq_len)
    if stage.train.compile is True and (why := not_compiled(stage)):
        raise ConfigError(f"train.compile=true: {why}; take train.compile=false")
    if stage.grpo.on:
        _check_grpo(stage)


def not_compiled(stage: Stage) -> str | None:
    """The key of it that torch.compile would only take apart, or never be done with, and why."""
    model = stage.model
    for name, value, refused, why in (
        ("model.precision.recipe", model.precision.recipe, model.precision.fp8, "multiplies by kernels of its own"),
        ("model.pipeline.schedule", model.pipeline.schedule, model.pipeline.schedule != "none", "takes blocks apart"),
        ("model.dtype", model.dtype, model.dtype == "float64", "is for exactness"),
        ("grpo.on", "true", stage.grpo.on, "learns from answers of any length"),
        ("data.ramp_from", stage.data.ramp_from, stage.data.ramp_from != 1, "makes batches of many sizes"),
        ("train.devices", stage.train.devices, stage.train.devices > 1, "has not been tried with it"),
    ):
        if refused:
            return f"{name}={value} {why}"
    return None


def _check_devices(stage: Stage) -> None:
    """Every rank has whole microbatches, or an equal part of the only one; what ranks cannot share yet is refused."""
    model, data, devices, count = stage.model, stage.data, stage.train.devices, stage.microbatches
    key = f"train.devices={devices}"
    if model.pipeline.schedule != "none":
        raise ConfigError(
            f"{key}: shares batches, and model.pipeline.schedule={model.pipeline.schedule} shares layers; take one"
        )
    if stage.grpo.on or stage.distil.on:
        group = "grpo" if stage.grpo.on else "distil"
        raise ConfigError(f"{key}: a stage with {group}.on=true writes what it learns from, on one device; take 1")
    if model.precision.fp8 and stage.train.strategy == "fsdp":
        raise ConfigError(
            f"train.strategy=fsdp: model.precision.recipe={model.precision.recipe} casts whole weights; take ddp"
        )
    if count % devices == 0:
        return
    if count > 1 or data.batch_size % devices:
        raise ConfigError(
            f"{key}: must divide train.microbatches={count}, or, where that is 1, data.batch_size={data.batch_size}"
        )
    if model.moe_layers and model.moe.balance.counts_microbatches:
        raise ConfigError(
            f"{key}: cuts the only microbatch, over which model.moe.balance counts (scope or load_scope=microbatch); "
            f"take train.microbatches={devices}"
        )
    if data.ramp_from != 1:
        raise ConfigError(
            f"{key}: data.ramp_from={data.ramp_from} cuts batches of other sizes; take train.microbatches={devices}"
        )


def _check_grpo(stage: Stage) -> None:
    """What a policy learns from are its own answers to whole groups of questions; the main model alone learns."""
    grpo, data = stage.grpo, stage.data
    if data.source != "problem":
        raise ConfigError(
            f"grpo.on=true: data.source={data.source} asks nothing that is judged; take data.source=problem"
        )
    if data.batch_size % grpo.group:
        raise ConfigError(
            f"data.batch_size={data.batch_size}: counts answers, so it must be a multiple of grpo.group={grpo.group}"
        )
    if grpo.answer_tokens >= data.seq_len:
        raise ConfigError(
            f"grpo.answer_tokens={grpo.answer_tokens}: leaves nothing of data.seq_len={data.seq_len} for the question; "
            "lower it, or raise data.seq_len"
        )
    if data.ramp_from != 1 or data.order != "mixed" or data.epochs != 1:
        raise ConfigError(
            "grpo.on=true: batches are whole groups in the order drawn; take data.ramp_from=1, data.order=mixed, "
            "data.epochs=1"
        )
    _check_main_model_alone(stage.model)
    problem = problem_of(data)
    longest = problem.longest[0] + 2 * (data.template == "chat") + grpo.answer_tokens
    if longest > data.seq_len:
        raise ConfigError(
            f"grpo.answer_tokens={grpo.answer_tokens}: with the longest question {longest} tokens, more than "
            f"data.seq_len={data.seq_len}; lower it, or raise data.seq_len"
        )
    if stage.steps % grpo.updates:
        raise ConfigError(
            f"grpo.updates={grpo.updates}: the stage's {stage.steps} steps are no whole number of draws; take a divisor"
        )


def _check_main_model_alone(model: ModelConfig) -> None:
    balance = model.moe.balance
    for name, value, free in (
        ("model.mtp.depth", model.mtp.depth, 0),
        ("model.pipeline.schedule", model.pipeline.schedule, "none"),
        ("model.moe.balance.scope", "batch" if balance.needs_batch_load else "sequence", "sequence"),
    ):
        if value != free:
            raise ConfigError(f"{name}={value}: has no part in reinforcement learning here; take {name}={free}")


def _check_tokens(stage: Stage) -> None:
    train = stage.train
    if stage.tokens < stage.tokens_per_step:
        raise ConfigError(
            f"train.tokens={train.tokens} (x train.token_fraction={train.token_fraction}): less than one batch, which "
            f"is data.batch_size x data.seq_len = {stage.tokens_per_step} tokens; take more tokens, or smaller batches"
        )
    if stage.tokens // stage.tokens_per_step > MOST_STEPS:
        raise ConfigError(
            f"train.tokens={train.tokens}: {stage.tokens // stage.tokens_per_step:,} batches of data.batch_size x "
            f"data.seq_len = {stage.tokens_per_step} tokens; at most {MOST_STEPS:,}"
        )


def _check_order(stage: Stage) -> None:
    data = stage.data
    if data.order == "mixed":
        return
    if stage.tokens > MOST_ORDERED:
        raise ConfigError(
            f"data.order={data.order}: holds the training's {stage.tokens:,} tokens in memory; at most "
            f"{MOST_ORDERED:,}, so lower train.tokens, or take data.order=mixed"
        )
    if data.domain_per == "batch":
        raise ConfigError(
            f"data.order={data.order}: would take data.domain_per=batch's batches apart; take data.domain_per=sequence"
        )


def _check_epochs(stage: Stage) -> None:
    """No batch is of two of them."""
    epochs, period = stage.data.epochs, stage.period
    if epochs > 1 and (
        stage.sequences % epochs or any(first % period + count > period for first, count in stage.batches)
    ):
        raise ConfigError(
            f"data.epochs={epochs}: the stage's {stage.steps} batches of {stage.sequences:,} sequences are no whole "
            "number for each; change train.tokens" + (", or take data.ramp_from=1" if stage.data.ramp_from < 1 else "")
        )


def _check_schedule(optim: OptimConfig) -> None:
    ends = (optim.warmup_fraction, optim.cosine_from, optim.cosine_until, optim.tail_from)
    if optim.schedule == "v3" and not ends[0] <= ends[1] < ends[2] <= ends[3]:
        raise ConfigError(
            f"optim.cosine_from={optim.cosine_from}: the v3 schedule needs optim.warmup_fraction <= cosine_from < "
            f"cosine_until <= tail_from (here {', '.join(map(str, ends))})"
        )
    if optim.schedule == "wsd" and optim.warmup_fraction + optim.decay_fraction > 1:
        raise ConfigError(
            f"optim.decay_fraction={optim.decay_fraction}: with optim.warmup_fraction={optim.warmup_fraction} it is "
            "more than the whole run; lower one of them"
        )
