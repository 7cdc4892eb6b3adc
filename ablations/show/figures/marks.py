"""What a part of a figure shows: of which arms it is, and what it says under a pointer.

All that matplotlib hands on of an artist to its SVG is an id. A mark travels there, and `marked` makes of it what a
browser reads: `data-arm`, by which a page hides an arm, and a <title> for the whole artist or for each of its points.
"""

import re
import typing
from collections.abc import Iterable
from urllib.parse import quote, unquote

from ablations.show.markup import number

if typing.TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.container import Container


def tokens(arms: Iterable[str]) -> str:
    """The value of `data-arm`: names apart by spaces, whatever is in them."""
    return " ".join(quote(arm, safe="") for arm in arms)


def mark(artist: "Artist", arms: Iterable[str], *said: str) -> None:
    """`said`: one text for the whole, or one for each point of a line that has only markers."""
    artist.set_gid("|".join([f"mark {tokens(arms)}", *(quote(text, safe="") for text in said)]))


def mark_as(parts: "Iterable[Artist]", drawn: "Artist | Container") -> None:
    """`parts` are of the arms that what was `drawn` is of, where it is marked: they come and go with it."""
    gids = (part.get_gid() for part in (drawn.get_children() if isinstance(drawn, tuple) else [drawn]))
    gid = next((gid for gid in gids if gid and gid.startswith("mark ")), None)
    if gid is not None:
        for part in parts:
            part.set_gid(gid.partition("|")[0])


def marked(svg: str) -> str:
    """An SVG whose marks have become attributes and titles."""
    svg = re.sub(r'<g id="mark [^"]*"/>', "", svg)  # of what draws nothing
    plain, *parts = re.split(r'<g id="mark ([^"]*)">', svg)
    for inside, rest in zip(parts[::2], parts[1::2], strict=True):
        arms, *said = inside.split("|")
        titles = [f"<title>{number(unquote(text))}</title>" for text in said]
        plain += f'<g data-arm="{arms}">' + (_of_points(rest, titles) if len(titles) > 1 else "".join(titles) + rest)
    return plain


def _of_points(svg: str, titles: list[str]) -> str:
    """Each marker is a <use>. `svg` begins within the artist's group and goes on behind it."""
    own, end = iter(titles), _end(svg)
    return re.sub(r"<use ([^>]*)/>", lambda use: f"<use {use[1]}>{next(own, '')}</use>", svg[:end]) + svg[end:]


def _end(svg: str) -> int:
    """Where the group ends that is open at the beginning."""
    depth = 1
    for tag in re.finditer(r"<g\b|</g>", svg):
        depth += 1 if tag[0] == "<g" else -1
        if not depth:
            return tag.start()
    raise ValueError("the group has no end")
