"""`python -m ablations.audit TARGET`: the guards, for anybody's language model."""

import contextlib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from ablations.home import check_house
from models.base.command import is_pair, parse
from models.base.streams import obeyed, spoken
from models.base.typed import AtLeast, AtMost, ConfigError

if TYPE_CHECKING:
    from ablations.audit.checks import Report, Verdict

USAGE = """python -m ablations.audit TARGET [KEY=VALUE ...]

Looks whether a causal language model is what it should be, on tokens drawn at random, and prints a verdict each.

  TARGET            package.module:factory    a function without arguments that returns a torch.nn.Module, which maps
                                              tokens (B, T) to logits (B, T, V), or to an object with `logits`.
                                              THIS RUNS THAT CODE, in this process and with your rights
                    a folder                  a causal language model of transformers (config.json, *.safetensors), or
                                              a checkpoint of a trial; nothing is downloaded, no code in it is run

  start             the loss with initial weights is near ln(V)
  size              parameters, and whether a gradient reaches all of them
  causality         no later token changes a logit, in evaluation and in training
  rows              each row of a batch is as it is alone
  padding           what is behind a text, or masked before it, changes nothing
  cache             with a KV cache the same logits as without
  scoring           the loss is the cross entropy of the logits with targets shifted by one
  derivative        the gradient is what the loss changes by
  determinism       evaluation throws no dice, training repeats to the bit

  fresh=true        whether what a factory returns has its initial weights; a folder's are drawn anew for `start`
  rows=3            of the batch
  length=64         tokens of a row
  vocab_size=null   tokens are drawn below it (null: as many as there are logits)
  format=text       or json: one object on standard output

Ends with 0 where no check fails, 1 where one does, and 2 where there is no such model. docs/audit.md says more.
Example: python -m ablations.audit models:build length=32
"""


@dataclass(frozen=True)
class AuditConfig:
    """The command's keys."""

    fresh: bool = True
    rows: Annotated[int, AtLeast(1), AtMost(64)] = 3
    length: Annotated[int, AtLeast(8), AtMost(1024)] = 64
    vocab_size: Annotated[int, AtLeast(2)] | None = None
    format: Literal["text", "json"] = "text"


def asked(words: Sequence[str]) -> tuple[str, AuditConfig]:
    """Raises ConfigError for anything else than one target and its keys."""
    targets = [word for word in words if not is_pair(word)]
    if len(targets) != 1:
        raise ConfigError(f"audit: expected one TARGET, package.module:factory or a folder, not {len(targets)}")
    return targets[0], parse(AuditConfig, [word for word in words if is_pair(word)])


def told(verdict: "Verdict") -> str:
    return f"{verdict.outcome:<15}  {verdict.name:<11}  {verdict.detail} ({verdict.seconds:.1f} s)"


def summary(report: "Report") -> str:
    count = {outcome: sum(v.outcome == outcome for v in report.verdicts) for outcome in ("passes", "fails")}
    rest = len(report.verdicts) - sum(count.values())
    how = f"{report.rows} rows of {report.length} tokens below {report.vocab_size:,}, compared in {report.dtype}"
    return f"{report.target}: {count['passes']} pass, {count['fails']} fail, {rest} cannot be tried ({how})"


def main(arguments: Sequence[str] | None = None) -> int:
    """0, 1 where a check fails, or 2 with one line on stderr where the command cannot be obeyed."""
    words = sys.argv[1:] if arguments is None else arguments
    if not words or {"-h", "--help"} & set(words):
        print(USAGE)
        return 0

    def work() -> int:
        check_house()
        target, config = asked(words)
        out = sys.stdout
        with contextlib.redirect_stdout(sys.stderr):  # what the stranger's code prints is no verdict
            from ablations.audit.target import found

            subject = found(target, trained=not config.fresh)
            from ablations.audit.checks import audit

            def heard(verdict: "Verdict") -> None:
                if config.format == "text":
                    print(told(verdict), file=out, flush=True)

            report = audit(subject, target, config.rows, config.length, config.vocab_size, heard)
        print(json.dumps(report.document(), allow_nan=False) if config.format == "json" else summary(report))
        return 0 if report.passes else 1

    return obeyed(work)


if __name__ == "__main__":
    sys.exit(spoken(main))
