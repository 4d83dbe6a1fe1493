"""Data sets as uint8 arrays, equal for every source."""

from lrlc_jax.data.cache import load
from lrlc_jax.data.dataset import Dataset, DatasetConfig
from lrlc_jax.data.source import Split

__all__ = ["Dataset", "DatasetConfig", "Split", "load"]
