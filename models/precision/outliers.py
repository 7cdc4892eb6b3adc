"""Channel outliers that leave the function as it is: x W^T = (x V) (W V^-1)^T with a diagonal V.

Where a norm's gain is large in one channel, so is that channel in all tokens, and what shares a scale with it loses its
small numbers (V3 3.3.2). A gain times s, with the next matrix's column over s, computes the same; 2211.10438 (eq. 3)
uses that to take outliers away, and here it puts them in. V stands in the forward pass alone, so that parameters, their
gradients and the optimizer are those of the model without outliers; s is a power of two, so that nothing but the
rounding sees it, to the bit.
"""

from torch import Tensor, nn

from models.moe import Layout
from models.precision.linear import Site
from models.precision.products import Products
from models.precision.quantise import Rounding
from models.precision.recipe import Recipe

CHANNEL = 0
"""The one that is an outlier, of every input."""


def site_after_norm(recipe: Recipe, products: Products, **roundings: Rounding | None) -> Site:
    """A site whose inputs come from a norm: with the recipe's outliers, where it has some."""
    if recipe.config.outliers == 1:
        return Site(recipe, products, **roundings)
    return OutlierSite(recipe, products, **roundings)


class OutlierSite(Site):
    """The first channel of its inputs times s, the first column of its matrices over s."""

    def dense(self, x: Tensor, *owners: nn.Module) -> Tensor:
        return super().dense(scaled(x, self.recipe.config.outliers), *owners)

    def dispatched(self, x_ND: Tensor, owner: nn.Module, name: str, layout: Layout) -> Tensor:
        return super().dispatched(scaled(x_ND, self.recipe.config.outliers), owner, name, layout)

    def master(self, owner: nn.Module, name: str) -> Tensor:
        return scaled(super().master(owner, name), 1 / self.recipe.config.outliers)


def scaled(x: Tensor, by: float) -> Tensor:
    """`x` (..., K) with one channel multiplied."""
    factors = x.new_ones(x.shape[-1])
    factors[CHANNEL] = by
    return x * factors
