"""Reads the numbers of the authors' implementation, and names its weights as ours."""

import json
import pathlib
from typing import Any

import numpy as np
from flax import nnx


def load(path: pathlib.Path, field: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays of a reference file and its JSON description."""
    with np.load(path) as arrays:
        return dict(arrays), json.loads(str(arrays[field]))


def close(actual: Any, expected: np.ndarray, *, relative: float = 1e-4, absolute: float = 1e-5):
    """Within the tolerance that the reference numbers are made for."""
    actual = np.asarray(actual)
    assert actual.shape == expected.shape
    bound = relative * np.abs(expected).max(initial=0) + absolute
    np.testing.assert_array_less(np.abs(actual - expected), bound)


def pick(module: nnx.Module | nnx.State, name: str) -> Any:
    """The parameter of a layer that the reference calls ``name``, as an attribute path."""
    paths = {
        "kernel": ("kernel",),
        "kernel_bases": ("bases",),
        "combining_weights_row": ("weights", "row"),
        "combining_weights_col": ("weights", "column"),
        "combining_weights": ("weights", "full"),
        "bias_row": ("spatial_bias", "row"),
        "bias_col": ("spatial_bias", "column"),
        "spatial_bias": ("spatial_bias", "full"),
        "bias_channels": ("bias",),
        "bias": ("bias",),
        "gamma": ("scale",),
        "beta": ("bias",),
        "moving_mean": ("mean",),
        "moving_variance": ("var",),
    }
    for part in paths[name]:
        module = module[part] if isinstance(module, nnx.State) else getattr(module, part)
    return module


def ours(name: str, value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A reference weight in our layout: bases ``(kh, kw, in, K*out)`` become ``(K, kh, ...)``."""
    if name == "kernel_bases":
        rank, kh, kw, channels, features = shape
        return value.reshape(kh, kw, channels, rank, features).transpose(3, 0, 1, 2, 4)
    return value.reshape(shape)
