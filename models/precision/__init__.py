"""FP8 training (DeepSeek-V3 3.3): number formats, quantisation, the products of quantised operands, and recipes.

formats.py      E4M3, E5M2, E5M6: rounding to each
quantise.py     which elements share a scale; rounding a matrix with its scales
recipe.py       from `model.precision` to what each operand is rounded to; where a model multiplies in FP8
linear.py       a linear layer, and grouped experts, whose three products have quantised operands
outliers.py     channels made large before they are rounded, without changing what is computed
products.py     those products: emulated, torch's, Triton's
accumulate.py   the tensor core's short accumulator
probe.py        what quantisation does to a trained model: errors, underflow, gradients, memory
"""
