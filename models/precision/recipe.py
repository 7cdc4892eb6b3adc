"""From `model.precision` to what each operand is rounded to."""

from dataclasses import dataclass, replace

from models.precision.config import ROLES, PrecisionConfig
from models.precision.formats import E5M6, FORMATS
from models.precision.quantise import Granularity, Rounding

Granularities = tuple[Granularity, Granularity, Granularity]
DEFAULTS: dict[str, tuple[tuple[str, str, str], Granularities]] = {  # formats and granularities, by role
    "fp8_block": (("e4m3", "e4m3", "e4m3"), ("tile", "block", "tile")),
    "fp8_row": (("e4m3", "e4m3", "e4m3"), ("row", "row", "row")),
    "fp8_tensor": (("e4m3", "e4m3", "e4m3"), ("tensor", "tensor", "tensor")),
    "fp8_hybrid": (("e4m3", "e4m3", "e5m2"), ("tensor", "tensor", "tensor")),
}


@dataclass(frozen=True)
class Recipe:
    """An FP8 recipe with every part resolved."""

    config: PrecisionConfig
    activation: Rounding
    weight: Rounding
    gradient: Rounding

    @property
    def after_attention(self) -> Rounding | None:
        """How the input of the projection after attention is kept for the backward pass, where not as all others."""
        c = self.config
        return Rounding(E5M6, "tile", c.block, power_of_two=True) if c.e5m6_after_attention else None


def sent(rounding: Rounding) -> Rounding:
    """As it goes over a network: tiles with power-of-two scales, which a receiver multiplies as they are (V3 3.3.3)."""
    return replace(rounding, granularity="tile", power_of_two=True)


def resolve(config: PrecisionConfig) -> Recipe:
    """The recipe of an FP8 `config`; keys that are None take its recipe's value."""
    formats, granularities = DEFAULTS[config.recipe]
    roles: list[Rounding] = []
    for role, format_name, granularity in zip(ROLES, formats, granularities, strict=True):
        roles.append(
            Rounding(
                FORMATS[getattr(config.format, role) or format_name],
                getattr(config.granularity, role) or granularity,
                config.block,
                config.scale_rounding == "power_of_two",
                role,
            )
        )
    return Recipe(config, *roles)
