"""Figures: the same result gives the same SVG, what is drawn is what the result holds, and nothing is needed."""

import dataclasses
import io
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ablations.config.schema import ContrastConfig
from ablations.home import ROOT
from ablations.judge.families import by_seed, families_of
from ablations.judge.gather import load_published, load_result
from ablations.judge.result import Result
from ablations.show.figures.curves import length_curves, paired_curve
from ablations.show.figures.every import Picture, draw_figures, lay_out
from ablations.show.figures.loads import load_map
from ablations.show.figures.marks import mark, marked
from ablations.show.figures.palette import INK, NARROW, WIDTH, look_of
from ablations.show.figures.points import forest, search_points
from ablations.show.page import inline_svg

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def result(finished_run: Path) -> Result:
    return load_result(finished_run, "moe_balance", "cpu")


@pytest.fixture(scope="module")
def pictures(result: Result) -> dict[str, Picture]:
    return {picture.name: picture for picture in draw_figures(result)}


def words(picture: Picture) -> list[str]:
    return ["".join(node.itertext()).strip() for node in ET.fromstring(picture.svg).iter(f"{SVG}text")]


def test_all_are_drawn_as_svg_and_png(pictures: dict[str, Picture]) -> None:
    assert list(pictures) == ["differences", "loss", "max_vio", "frontier", "load"]
    assert all(picture.png.startswith(b"\x89PNG") for picture in pictures.values())


def test_each_has_a_narrow_form_that_shows_as_much(pictures: dict[str, Picture]) -> None:
    for picture in pictures.values():
        assert picture.narrow is not None
        narrow = dataclasses.replace(picture, svg=picture.narrow)
        sizes = [float(ET.fromstring(form.svg).attrib["viewBox"].split()[2]) for form in (picture, narrow)]
        assert sizes == [72 * WIDTH, 72 * NARROW]
        broad, slim = (re.findall(r'data-arm="([^"]*)"', form.svg.decode()) for form in (picture, narrow))
        assert set(broad) == set(slim) != set(), picture.name


def test_a_pages_figure_gives_up_digits_that_nobody_sees_and_no_others(pictures: dict[str, Picture]) -> None:
    picture = pictures["differences"]
    inside, titles = inline_svg(picture), re.findall(r"<title>[^<]*</title>", picture.svg.decode())
    assert titles and all(title in inside for title in titles)
    assert len(inside) < 1.15 * len(picture.svg) and not re.search(r' d="[^"]*\.\d\d', inside)
    places = [re.findall(r'<use [^>]* x="([-\d.]+)" y="([-\d.]+)"', form) for form in (picture.svg.decode(), inside)]
    assert len(places[0]) == len(places[1]) > 20
    for full, short in zip(*places, strict=True):
        assert all(abs(float(a) - float(b)) <= 0.051 for a, b in zip(full, short, strict=True))


def test_svg_repeats_byte_for_byte(finished_run: Path, pictures: dict[str, Picture]) -> None:
    again = {picture.name: picture.svg for picture in draw_figures(load_result(finished_run, "moe_balance", "cpu"))}
    assert again == {name: picture.svg for name, picture in pictures.items()}
    assert b"dc:date" not in pictures["loss"].svg


def test_every_arm_is_named(pictures: dict[str, Picture]) -> None:
    for name in ("differences", "frontier", "load"):
        assert {"bias", "none", "control"} <= set(words(pictures[name])), name
    assert {"aux_loss", "bias", "none", "aa"} <= set(words(pictures["loss"]))
    assert "bias - batch_aux_loss" in words(pictures["differences"])


def test_paired_curve_is_the_difference_of_equal_steps(result: Result) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots()
    look = {"color": "red", "linestyle": "-", "marker": "o"}
    paired_curve(axes, result.arms["aux_loss"], result.arms["none"], look)
    # Raw losses fall from 6.9 to 3.9 with a seed spread of 0.04; only their pairing leaves 0.018.
    line, validation = (np.asarray(axis.get_ydata()) for axis in axes.lines)
    d = result.difference("none")
    plt.close(figure)
    assert d is not None and abs(line[-1] - d.mean) < 0.003
    assert validation[-1] == pytest.approx(d.mean, abs=0.002)


def test_a_slope_per_dose_is_not_drawn_among_differences(result: Result) -> None:
    import matplotlib.pyplot as plt

    weights = {"aux_loss": -11.0, "bias": 11.0}
    slope, at = (ContrastConfig("", {arm: w * far for arm, w in weights.items()}) for far in (1.0, 0.01))
    plan = dataclasses.replace(result.plan, contrasts={"alpha": slope, "alpha_at": at})
    figure = forest(dataclasses.replace(result, plan=plan, differences=families_of(result.arms, plan)))
    assert figure is not None
    named = {label.get_text() for axes in figure.axes for label in axes.get_yticklabels()}
    plt.close(figure)
    assert "alpha_at" in named and "alpha" not in named


def test_load_is_sorted_before_the_mean(result: Result) -> None:
    import matplotlib.pyplot as plt

    figure = load_map(result)
    assert figure is not None
    image = np.stack([np.asarray(row.get_array()) for row in figure.axes[0].collections])
    plt.close(figure)
    assert image.shape == (5, 16)
    assert (image[:, :-1] >= image[:, 1:]).all() and image.mean(axis=1) == pytest.approx(np.ones(5))


def drawn_of(picture: Picture, arm: str) -> list[str]:
    """The titles of all that is drawn of an arm."""
    groups = [g for g in ET.fromstring(picture.svg).iter(f"{SVG}g") if arm in g.get("data-arm", "").split()]
    return [title.text or "" for group in groups for title in group.iter(f"{SVG}title")]


def test_every_seed_is_drawn_behind_its_interval_and_says_its_value(
    result: Result, pictures: dict[str, Picture]
) -> None:
    d = result.difference("bias", "loss")
    assert d is not None and d.low is not None and d.high is not None
    own = by_seed(result.arms, result.plan, d)
    assert len(own) == d.n == 6 and np.mean(list(own.values())) == pytest.approx(d.mean)
    titles = [title.replace("\N{MINUS SIGN}", "-") for title in drawn_of(pictures["differences"], "bias")]
    seeds = [f"bias, seed {seed}: {value:+.4f}" for seed, value in own.items()]
    assert titles[:6] == seeds, "behind the interval: what is drawn first"
    assert titles.count(f"bias: {d.mean:+.4f} [{d.low:+.4f}, {d.high:+.4f}]") == 2, "the mean and its interval"


def test_what_is_drawn_of_an_arm_is_marked(result: Result, pictures: dict[str, Picture]) -> None:
    for name in ("differences", "loss", "max_vio", "frontier", "load"):
        assert drawn_of(pictures[name], "bias"), name
        assert b'id="mark' not in pictures[name].svg
    assert len(drawn_of(pictures["load"], "bias")) == 2, "a row in each layer"
    assert "aux_loss: mean of 6 seeds" in drawn_of(pictures["loss"], "aux_loss")


def test_each_of_many_arms_looks_like_no_other(result: Result) -> None:
    """In its line as in its points."""
    bias = result.arms["bias"]
    many = {f"arm_{i}": dataclasses.replace(bias, name=f"arm_{i}") for i in range(30)}
    looks = look_of(dataclasses.replace(result, arms=result.arms | many)).values()
    for style in ("linestyle", "marker"):
        assert len({(look["color"], look[style]) for look in looks}) == len(looks) == len(result.arms) + 30


def test_nothing_in_an_arms_colour_is_unmarked(result: Result, pictures: dict[str, Picture]) -> None:
    colours = {look["color"]: name for name, look in look_of(result).items() if result.arms[name].kind == "arm"}
    del colours[INK]

    def unmarked(group: ET.Element, arms: str = "") -> list[str]:
        found = []
        for part in group:
            marks = part.get("data-arm", arms)
            if part.tag not in (f"{SVG}g", f"{SVG}defs"):
                style = part.get("style", "")
                found += [name for colour, name in colours.items() if colour in style and name not in marks.split()]
            elif part.tag == f"{SVG}g":
                found += unmarked(part, marks)
        return found

    assert {"bias", "none"} < set(colours.values())
    for name in ("differences", "loss", "max_vio", "frontier"):
        assert unmarked(ET.fromstring(pictures[name].svg)) == [], name


def test_a_title_stays_within_its_mark_and_is_text() -> None:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots()
    (points,) = axes.plot([1, 2], [1, 2], linestyle="", marker="o")
    mark(points, ["<b> & c", "d"], "<i>", "-1", "one too many")
    axes.plot([2, 1], [1, 2], linestyle="", marker="o")
    svg = io.StringIO()
    figure.savefig(svg, format="svg")
    plt.close(figure)
    (group,) = (g for g in ET.fromstring(marked(svg.getvalue())).iter(f"{SVG}g") if "data-arm" in g.attrib)
    assert group.get("data-arm") == "%3Cb%3E%20%26%20c d"
    assert [title.text for title in ET.fromstring(marked(svg.getvalue())).iter(f"{SVG}title")] == [
        "<i>",
        "\N{MINUS SIGN}1",
    ]


def test_the_effect_against_length_is_drawn_where_there_are_lengths(result: Result) -> None:
    import matplotlib.pyplot as plt

    assert length_curves(result) is None
    plan = dataclasses.replace(result.plan, horizons=[0.5])
    sooner = {name: 0.07 * (name == "bias") for name in result.arms}
    arms = {
        name: dataclasses.replace(
            arm,
            values={**arm.values, "loss_at_50": {s: v + 0.5 + sooner[name] for s, v in arm.values["loss"].items()}},
        )
        for name, arm in result.arms.items()
    }
    longer = dataclasses.replace(result, plan=plan, arms=arms, differences=families_of(arms, plan))
    figure = length_curves(longer)
    assert figure is not None
    (axes,) = figure.axes
    tokens = result.arms["aux_loss"].plan.tokens
    assert axes.get_xticks().tolist() == [tokens / 2, tokens]
    drawn = {bars.get_label(): bars for bars in axes.containers}
    assert drawn.keys() == result.arms.keys() - {"aux_loss"}
    line, caps, _ = drawn["bias"].lines
    d, earlier = (longer.difference("bias", metric) for metric in ("loss", "loss_at_50"))
    assert d is not None and earlier is not None
    assert line.get_ydata().tolist() == [earlier.mean, d.mean] == [pytest.approx(d.mean + 0.07), d.mean]
    assert line.get_xdata().tolist() == pytest.approx([tokens / 2, tokens], rel=0.1)
    assert [cap.get_ydata()[-1] for cap in caps] == [pytest.approx(d.low), pytest.approx(d.high)]
    plt.close(figure)


def test_search_points_are_means_over_seeds(result: Result) -> None:
    trial = next(t for t in result.search if t.arm == "none" and t.point == {"optim.lr": 0.005})
    assert trial.loss is not None
    twin = dataclasses.replace(trial, seed=1002, loss=trial.loss + 0.3)  # beside that of seed 1001
    state = dataclasses.replace(result.state, search=[*result.search, twin])
    points = search_points(dataclasses.replace(result, state=state))["none"]
    assert [point[1] for point in points if point[2]] == [pytest.approx(trial.loss + 0.1)]


@pytest.mark.parametrize(
    "options",
    [
        {"missing": tuple((arm, 0) for arm in ("aux_loss", "bias", "control", "aa"))},
        {"diverged": (("bias", 0), ("aux_loss", 0)), "expected": []},
    ],
)
def test_what_is_not_there_is_not_needed(sweep_run: Any, tmp_path: Path, options: dict[str, Any]) -> None:
    sweep_run(tmp_path, seeds=1, searched=False, arms=("aux_loss", "bias", "control", "aa"), **options)
    drawn = {picture.name for picture in draw_figures(load_result(tmp_path, "moe_balance", "cpu"))}
    assert ("loss" in drawn) == ("missing" not in options)


def test_a_layout_keeps_no_digit_that_its_solver_makes_up(result: Result) -> None:
    """They differ between processes, and with them the names of clips, which are hashes of places."""
    figure = forest(result)
    lay_out(figure)
    figure.draw_without_rendering()
    sides = [side for axes in figure.axes for side in axes.get_position().bounds]
    assert sides == pytest.approx([round(side, 7) for side in sides], abs=1e-15) and len(set(sides)) > 3


def test_titles_are_short_enough_for_a_narrow_window() -> None:
    """A unit is not said twice, nor a ladder's baseline beside the arm below."""
    import matplotlib.pyplot as plt

    recall, ladder = (load_published(ROOT / "results" / name / "cpu") for name in ("recall", "v3_ladder"))
    drawn = [forest(recall), forest(ladder), length_curves(ladder)]
    titles = [figure.axes[0].get_title(loc="left") or figure.axes[0].get_title() for figure in drawn if figure]
    plt.close("all")
    assert titles == [
        "Difference in nats of an answer",
        "Difference in loss (nats)",
        "Test loss minus the arm below (nats per token)",
    ]
