"""Tokens out of a trained model.

generate.py      greedily, with a cache
sampling.py      drawn, many answers at once
speculative.py   drafted by MTP modules, several per forward
trees.py         not written but scored: texts that begin alike, read together
"""
