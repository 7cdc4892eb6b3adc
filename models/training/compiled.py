"""`train.compile`: the blocks of a Transformer through torch.compile, in training alone.

Blocks, and not the whole model: those of one kind and shape share one graph, so that the time to compile does not grow
with the depth, and evaluation and decoding, whose shapes change, stay as they are. Parameters keep their names, and
blocks are called as before. Losses and the head are not compiled; the loss works in blocks of rows by itself.
"""

import functools
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import warnings

import torch

from models.layers import Weights
from models.moe import Experts, Product
from models.transformer import Block, Transformer

MOST_GRAPHS = 64
"""Of one block: kinds and shapes, with a gradient and without. torch's own limit, 8, would leave what comes after it
uncompiled."""


def compile_blocks(model: Transformer, backend: str = "inductor") -> None:
    """From now on, blocks run compiled in training. What was not run yet is compiled when it first is.

    `backend`: torch's; `aot_eager` traces alike and runs what it has traced as it is, which takes seconds."""
    import torch._dynamo

    torch._dynamo.config.recompile_limit = MOST_GRAPHS
    warnings.filterwarnings("ignore", "Dynamo detected a call to a `functools.lru_cache`")  # a mask, made anew
    warnings.filterwarnings("ignore", "Torchinductor does not support code generation for complex")  # RoPE's turns
    run = torch.compile(Block.run, dynamic=False, backend=backend)
    for block in model.modules():
        if not isinstance(block, Block):
            continue
        block.compiled = run
        for module in block.modules():
            if isinstance(module, Weights):
                module.compiled = True
            if isinstance(module, Experts) and model.config.dtype != "bfloat16":
                module.product = _left_alone(module.product)  # torch traces grouped_mm in BF16 alone


@functools.cache
def _left_alone(function: Product) -> Product:
    """The same one for all layers, or each would have a graph of its own."""
    alone: Product = torch.compiler.disable(function)
    return alone


def missing_compiler(device: str) -> str | None:
    """What torch.compile would not find on this machine; None where all is there."""
    named = "CC" if device == "cuda" else "CXX"
    usual = ("gcc", "clang", "cc") if device == "cuda" else ("g++", "clang++", "c++")
    wanted = [os.environ[named]] if os.environ.get(named) else list(usual)
    found = next((name for name in wanted if shutil.which(name.split()[0])), None)
    if found is None:
        kind = "C compiler" if device == "cuda" else "C++ compiler"
        return f"a {kind} ({' or '.join(wanted)}; {named} names another)"
    if device == "cuda":
        from importlib.util import find_spec

        return None if find_spec("triton") else "triton"
    return (
        None
        if sys.platform != "linux" or _builds(found)
        else f"OpenMP or Python's headers, which {found} cannot build with"
    )


@functools.cache
def _builds(compiler: str) -> bool:
    """Whether it makes what torch's kernels need: a library for Python, with OpenMP. Takes a fifth of a second."""
    with tempfile.TemporaryDirectory() as folder:
        source = "#include <Python.h>\n#include <omp.h>\nint threads() { return omp_get_max_threads(); }\n"
        options = ["-shared", "-fPIC", "-fopenmp", f"-I{sysconfig.get_path('include')}", "-x", "c++", "-"]
        command = [*compiler.split(), *options, "-o", f"{folder}/probe.so"]
        return subprocess.run(command, input=source, text=True, capture_output=True).returncode == 0
