"""How numbers are written, everywhere alike: fixed digits, a sign on differences, `-` for what is not there."""

import math
from typing import Any

ABSENT = "-"

_SHORT = {"optim.lr": "lr", "model.moe.balance.alpha": "alpha", "model.moe.balance.update_speed": "u"}
"""Searched keys by the letter that the papers use."""


def present(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def fixed(value: float | None, decimals: int) -> str:
    if value is None or not math.isfinite(value):
        return ABSENT
    text = f"{value:.{decimals}f}"
    return text.lstrip("-") if float(text) == 0 else text


def signed(value: float | None, decimals: int) -> str:
    """`+0.0041`, `-0.0041`; a difference too small for the decimals is no zero: `+8e-7`."""
    if value is None or not math.isfinite(value):
        return ABSENT
    if value and not float(f"{value:.{decimals}f}"):
        mantissa, exponent = f"{value:+.0e}".split("e")
        return f"{mantissa}e{int(exponent)}"
    text = fixed(value, decimals)
    return text if text.startswith("-") or float(text) == 0 else f"+{text}"


def size(value: float | None, decimals: int) -> str:
    """Of what has no sign: `0.0041`, and `8e-7` where the decimals would say 0."""
    return signed(None if value is None else abs(value), decimals).lstrip("+")


def interval(low: float | None, high: float | None, decimals: int) -> str:
    if not present(low) or not present(high):
        return ABSENT
    return f"[{signed(low, decimals)}, {signed(high, decimals)}]"


def p_value(value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return ABSENT
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def percent(value: float | None, decimals: int = 0, sign: bool = False) -> str:
    """A share as percent: 0.034 -> `3 %`."""
    scaled = None if value is None else 100 * value
    text = fixed(scaled, decimals)
    sign = sign and text != ABSENT and not text.startswith("-") and float(text) != 0
    return text if text == ABSENT else f"{'+' * sign}{text} %"


def count(value: float | None) -> str:
    """`614k`, `1.43M`, `671B`: three figures are enough for a size."""
    if value is None or not math.isfinite(value):
        return ABSENT
    for limit, suffix in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= 0.9995 * limit:
            return f"{value / limit:.3g}{suffix}"
    return f"{value:.3g}"


def setting(key: str, value: Any) -> str:
    """A searched or set key as `lr 0.005`, `kind=bias`."""
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return f"{_SHORT[key]} {text}" if key in _SHORT else f"{key.rsplit('.', 1)[-1]}={text}"


def settings(values: dict[str, Any]) -> str:
    """Learning rate first, then the rest by key."""
    ordered = sorted(values, key=lambda key: (key != "optim.lr", key))
    return ", ".join(setting(key, values[key]) for key in ordered) or ABSENT
