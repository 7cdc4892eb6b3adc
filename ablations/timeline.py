"""`python -m ablations.timeline schedule=NAME[,NAME...] stages=S microbatches=M [out=FILE.svg]`: a schedule's times.

Simulates pipeline schedules with given times of one chunk (what a stage does with a microbatch), prints bubbles, ends
and activations, and draws what each rank does when.
"""

import dataclasses
import io
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from ablations.home import check_house
from models.base.command import parse
from models.base.files import write_atomically
from models.base.streams import obeyed, spoken
from models.base.typed import Above, AtLeast, AtMost, ConfigError, closest
from models.pipeline.schedules import SCHEDULES, make_schedule
from models.pipeline.simulate import Costs, Timeline, simulate

KEYS = f"""
  schedule=NAME,...   of {", ".join(SCHEDULES)}
  stages=S            that a microbatch passes: on as many ranks, or on half where a rank has two of them
  microbatches=M
  f=1 i=1 w=1         times of one chunk: forward, gradient of the input, gradient of the weights
  overlapped=null     time of a forward and a backward chunk that overlap; null: their sum, no gain
  transfer=0          time between two ranks
  out=null            an SVG of what every rank does when
  memory=null         an SVG of the activations that every rank holds

Bubble: share of the time in which a rank waits, as the mean over ranks and of the rank that waits longest; V3's table 2
has formulas for the longest. A microbatch's activations through all layers of a rank (with dualpipe, of one of its two
stages) count 1.

Example: python -m ablations.timeline schedule=1f1b,dualpipe stages=8 microbatches=20 overlapped=2.6 out=timeline.svg
"""


Time = Annotated[float, Above(0), AtMost(1e12)]


@dataclasses.dataclass(frozen=True)
class TimelineConfig:
    """The command's keys. `schedule` is what was typed, names between commas."""

    schedule: str = ""
    stages: Annotated[int, AtLeast(1)] | None = None
    microbatches: Annotated[int, AtLeast(1)] | None = None
    f: Time = 1.0
    i: Time = 1.0
    w: Time = 1.0
    overlapped: Time | None = None
    transfer: Annotated[float, AtLeast(0), AtMost(1e12)] = 0.0
    out: Path | None = None
    memory: Path | None = None

    @property
    def schedules(self) -> list[str]:
        """Each once."""
        return list(dict.fromkeys(self.schedule.split(",")))


def checked(config: TimelineConfig) -> TimelineConfig:
    """Raises ConfigError."""
    for name in config.schedules:
        if name not in SCHEDULES:
            names = ", ".join(SCHEDULES)
            raise ConfigError(f"schedule={name}: expected some of {names}, between commas{closest(name, SCHEDULES)}")
    for key in ("stages", "microbatches"):
        if getattr(config, key) is None:
            raise ConfigError(f"{key}: missing; give a number, as in {key}=8")
    for key in ("out", "memory"):
        value = getattr(config, key)
        if value is not None and value.suffix != ".svg":
            raise ConfigError(f"{key}={value}: an SVG is written, so the name must end in .svg")
    if config.out is not None and config.out == config.memory:
        raise ConfigError(f"memory={config.memory}: out has the same name; give each picture its own")
    return config


def simulated(config: TimelineConfig) -> dict[str, Timeline]:
    """By schedule. Raises ConfigError where one cannot be made for so many stages and microbatches."""
    costs = Costs(config.f, config.i, config.w, config.overlapped, config.transfer)
    assert config.stages is not None and config.microbatches is not None
    try:
        return {
            name: simulate(make_schedule(name, config.stages, config.microbatches), costs) for name in config.schedules
        }
    except ConfigError as error:  # in the words of a sweep; here the keys are this command's
        raise ConfigError(str(error).replace("model.pipeline.", "")) from error


def table(timelines: Mapping[str, Timeline]) -> str:
    """For the eyes."""
    from ablations import numbers
    from ablations.show.figures.gantt import peak

    rows = [("schedule", "ranks", "bubble (mean)", "bubble (longest)", "end", "peak activations by rank")]
    for name, timeline in timelines.items():
        count = len(timeline.ranks)
        peaks = " ".join(f"{peak(timeline, rank):g}" for rank in range(count))
        mean, longest = (numbers.percent(x, 2) for x in (timeline.bubble_share, timeline.longest_bubble_share))
        rows.append((name, str(count), mean, longest, f"{timeline.end:.6g}", peaks))
    first, *others, _ = (max(map(len, column)) for column in zip(*rows, strict=True))
    lines = []
    for name, *cells, peaks in rows:
        right = "  ".join(cell.rjust(width) for cell, width in zip(cells, others, strict=True))
        lines.append(f"{name:{first}}  {right}  {peaks}")
    return "\n".join(lines)


def write_pictures(config: TimelineConfig, timelines: Mapping[str, Timeline]) -> list[Path]:
    """The files that were asked for. Equal times give equal bytes."""
    import matplotlib

    from ablations.show.figures.gantt import memory_figure, timeline_figure
    from ablations.show.figures.palette import STYLE

    written = []
    for name, draw in ((config.out, timeline_figure), (config.memory, memory_figure)):
        if name is not None:
            svg = io.BytesIO()
            with matplotlib.rc_context(STYLE):
                draw(timelines).savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
            write_atomically(name, svg.getvalue())
            written.append(name)
    return written


def main(arguments: list[str] | None = None) -> int:
    """0, or 2 with one line on stderr where the command cannot be obeyed."""
    words = sys.argv[1:] if arguments is None else arguments
    if {"-h", "--help"} & set(words):
        print(f"{__doc__}{KEYS}", end="")
        return 0

    def work() -> int:
        check_house()
        config = checked(parse(TimelineConfig, words))
        timelines = simulated(config)
        written = write_pictures(config, timelines) if config.out or config.memory else []
        print(table(timelines), *written, sep="\n")
        return 0

    return obeyed(work)


if __name__ == "__main__":
    sys.exit(spoken(main))
