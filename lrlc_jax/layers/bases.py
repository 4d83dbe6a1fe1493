"""Basis filter banks of different kernel sizes and dilations (an extension named in the paper).

All bases lie on one grid, which spans the largest rows and columns. Taps of the grid that no basis
uses cost nothing.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn.initializers import Initializer

from lrlc_jax.layers.base import PatchLayer
from lrlc_jax.layers.ops.window import Pair, Size, Window, as_pair, is_whole, sliding_window

Sizes: TypeAlias = Size | Sequence[Sequence[int]]  # for all bases, or a pair for each basis


def is_mixed(value: Any) -> bool:
    """Whether a kernel size or dilation is a sequence of pairs, one for each basis."""
    return isinstance(value, Iterable) and not all(map(is_whole, value))


def pairs_of(value: Any, rank: int, name: str) -> tuple[Pair, ...]:
    """A pair for each basis; a ValueError if their number differs from the rank."""
    if not is_mixed(value):
        return (as_pair(value, name),) * rank
    if len(value) != rank:
        raise ValueError(
            f"{name} is {value!r}, for {len(value)} bases, and rank is {rank}; it must be a whole "
            f"number, two of them for rows and columns, or {rank} such pairs"
        )
    return tuple(as_pair(pair, name) for pair in value)


def span(kernel_sizes: Sequence[Pair], dilations: Sequence[Pair]) -> Pair:
    """Rows and columns of the grid that contains all bases, with the gaps of dilation.

    >>> span([(3, 3), (2, 2)], [(1, 1), (3, 1)])
    (4, 3)
    """
    pairs = list(zip(kernel_sizes, dilations, strict=True))
    rows, cols = (max((k[axis] - 1) * d[axis] + 1 for k, d in pairs) for axis in (0, 1))
    return rows, cols


class MixedBases(nnx.Module):
    """K basis filter banks, each with its own kernel size and dilation.

    Parameters: ``kernels``, a list of K arrays ``(kh, kw, in, out)``.

    Args:
        layer: the layer of the bases.
        kernel_sizes: rows and columns of each basis.
        dilations: distance between the entries of each basis.
        init: initializer of a basis, called with the shape ``(1, kh, kw, in, out)``.

    Raises:
        ValueError: if the padding of the layer does not keep the size of the image.
    """

    def __init__(
        self,
        layer: PatchLayer,
        kernel_sizes: Sequence[Pair],
        dilations: Sequence[Pair],
        init: Initializer,
        rngs: nnx.Rngs,
    ) -> None:
        padding = layer.padding
        if not (isinstance(padding, str) and padding.upper() != "VALID"):
            raise ValueError(
                f"padding is {padding!r}; with a kernel_size or kernel_dilation for each basis it "
                "must be 'SAME', 'REFLECT' or 'CIRCULAR'"
            )
        assert layer.input_size is not None
        self.windows = tuple(
            sliding_window(layer.input_size, kernel_size, layer.strides, padding, dilation)
            for kernel_size, dilation in zip(kernel_sizes, dilations, strict=True)
        )
        shapes = [(1, *size, layer.in_features, layer.out_features) for size in kernel_sizes]
        self.kernels = nnx.List(
            nnx.Param(init(rngs.params(), shape, layer.param_dtype)[0]) for shape in shapes
        )

    def window(self, grid: Window) -> Window:
        """The window of the grid, without the taps that no basis uses."""
        own = (taps_on_grid(grid, window) for window in self.windows)
        return dataclasses.replace(grid, taps=tuple(sorted(set().union(*own))))

    def on(self, window: Window) -> jax.Array:
        """All bases on the taps of ``window``, zero elsewhere: ``(K, taps, in, out)``."""
        stacked = []
        for kernel, own in zip(self.kernels, self.windows, strict=True):
            values = kernel[...].reshape(-1, *kernel.shape[2:])
            places = jnp.array([window.taps.index(tap) for tap in taps_on_grid(window, own)])
            empty = jnp.zeros((len(window.taps), *values.shape[1:]), values.dtype)
            stacked.append(empty.at[places].set(values))
        return jnp.stack(stacked)


def taps_on_grid(grid: Window, window: Window) -> list[Pair]:
    """The taps of a basis relative to the corner of the grid, which has more padding."""
    (top, _), (left, _) = grid.padding
    (own_top, _), (own_left, _) = window.padding
    return [(row + top - own_top, col + left - own_left) for row, col in window.taps]
