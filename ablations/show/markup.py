"""Text in a page: escaped, with numbers as they are set in print."""

import html
import re


def text(value: object) -> str:
    return html.escape(str(value))


def number(value: str) -> str:
    """Escaped, with a true minus before digits: a hyphen is narrower than the plus beside it."""
    return re.sub(r"(?<![\w.-])-(?=\d)", "\N{MINUS SIGN}", text(value))
