"""Data sets as uint8 arrays, the same whatever source they came from."""

from lrlc_jax.data.dataset import Dataset, Split
from lrlc_jax.data.load import load

__all__ = ["Dataset", "Split", "load"]
