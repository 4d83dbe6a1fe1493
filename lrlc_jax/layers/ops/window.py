"""The pixels of each output position: a window that slides over the padded image."""

import contextlib
import dataclasses
import itertools
import numbers
from collections.abc import Iterable, Sequence
from typing import TypeAlias

import jax
import jax.numpy as jnp

Padding: TypeAlias = str | int | Sequence[int | tuple[int, int]]
Pair: TypeAlias = tuple[int, int]
Size: TypeAlias = int | Sequence[int]  # rows and columns, one number for both or two

PADDINGS = ("VALID", "SAME", "REFLECT", "CIRCULAR")
MODES = {"REFLECT": "reflect", "CIRCULAR": "wrap"}  # of jnp.pad; zeros for all others


def is_whole(value: object) -> bool:
    """Whether a value is a whole number, of Python or of NumPy."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def as_pair(value: Size, name: str, low: int = 1) -> Pair:
    """``value`` as (rows, columns); a ValueError unless it is one or two numbers from ``low``.

    >>> as_pair(3, "kernel_size")
    (3, 3)
    """
    pair = tuple(value) if isinstance(value, Iterable) else (value, value)
    if len(pair) != 2 or not all(is_whole(v) and v >= low for v in pair):
        raise ValueError(
            f"{name} is {value!r}; it must be a whole number of at least {low}, or two of them"
        )
    return int(pair[0]), int(pair[1])


def pad_amounts(
    size: Pair, spans: Sequence[int], strides: Pair, padding: Padding
) -> tuple[Pair, Pair]:
    """Pixels before and after the rows and the columns; a ValueError for an unknown padding.

    ``'SAME'`` follows TensorFlow: the output has ``ceil(size / stride)`` positions, and the smaller
    half comes first. ``'REFLECT'`` and ``'CIRCULAR'`` follow :class:`flax.nnx.Conv`: the span of
    the kernel less one, at any stride.
    """
    if isinstance(padding, str):
        if padding.upper() == "VALID":
            return (0, 0), (0, 0)
        if padding.upper() == "SAME":
            rows, cols = (
                max((-(-n // s) - 1) * s + span - n, 0)
                for n, s, span in zip(size, strides, spans, strict=True)
            )
            return (rows // 2, rows - rows // 2), (cols // 2, cols - cols // 2)
        if padding.upper() in MODES:
            rows, cols = spans
            return ((rows - 1) // 2, rows // 2), ((cols - 1) // 2, cols // 2)
    else:
        with contextlib.suppress(TypeError, ValueError):
            of_rows, of_cols = padding if isinstance(padding, Iterable) else (padding, padding)
            return as_pair(of_rows, "padding", 0), as_pair(of_cols, "padding", 0)
    raise ValueError(
        f"padding is {padding!r}; it must be one of {', '.join(map(repr, PADDINGS))}, a whole "
        "number of at least 0, or two numbers or (before, after) pairs for rows and columns"
    )


@dataclasses.dataclass(frozen=True)
class Window:
    """The pixels of each output position.

    Attributes:
        taps: row and column of each pixel, relative to the corner of the position.
        strides: rows and columns from one position to the next.
        padding: pixels before and after the rows and the columns.
        mode: of the padding, as in :func:`jax.numpy.pad`.
        positions: rows and columns of the output.
    """

    taps: tuple[Pair, ...]
    strides: Pair
    padding: tuple[Pair, Pair]
    mode: str
    positions: Pair

    @property
    def grid(self) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
        """Rows and columns of the taps, if the taps are their Cartesian product in C order."""
        rows = tuple(sorted({row for row, _ in self.taps}))
        cols = tuple(sorted({col for _, col in self.taps}))
        return (rows, cols) if tuple(itertools.product(rows, cols)) == self.taps else None

    @property
    def dilation(self) -> Pair | None:
        """Distance between the taps along rows and columns, if they are a regular grid."""
        if self.grid is None:
            return None
        down, right = ({b - a for a, b in itertools.pairwise(taps)} or {1} for taps in self.grid)
        return (down.pop(), right.pop()) if len(down) == len(right) == 1 else None

    @property
    def height_and_width(self) -> Pair:
        """Numbers of rows and columns with taps; gaps do not count."""
        return len({row for row, _ in self.taps}), len({col for _, col in self.taps})

    def pad(self, x: jax.Array, spatial_axes: Pair = (1, 2)) -> jax.Array:
        """Padded ``x``."""
        widths = [(0, 0)] * x.ndim
        for axis, amount in zip(spatial_axes, self.padding, strict=True):
            widths[axis] = amount
        return jnp.pad(x, widths, mode=self.mode) if any(map(any, widths)) else x

    @property
    def extent(self) -> Pair:
        """Rows and columns of the padded images, up to the last pixel of any position."""
        ends = map(max, zip(*self.taps, strict=True))
        sizes = zip(self.positions, self.strides, ends, strict=True)
        rows, cols = ((n - 1) * stride + end + 1 for n, stride, end in sizes)
        return rows, cols

    def seen(self, x: jax.Array) -> jax.Array:
        """Padded images ``(batch, rows, cols, channels)``, up to the last pixel of any position."""
        rows, cols = self.extent
        return self.pad(x)[:, :rows, :cols]

    def views(self, x: jax.Array, spatial_axes: Pair = (1, 2)) -> list[jax.Array]:
        """For each tap, its pixels at all positions: a strided slice of padded ``x``."""
        x = self.pad(x, spatial_axes)

        def view(tap: Pair) -> jax.Array:
            index = [slice(None)] * x.ndim
            for axis, i, s, n in zip(spatial_axes, tap, self.strides, self.positions, strict=True):
                index[axis] = slice(i, i + (n - 1) * s + 1, s)
            return x[tuple(index)]

        return [view(tap) for tap in self.taps]

    def patches(self, x: jax.Array, spatial_axes: Pair = (1, 2)) -> jax.Array:
        """The patch of each position in place of the channels, in the order (tap, channel)."""
        views = self.views(x, spatial_axes)
        return views[0] if len(views) == 1 else jnp.concatenate(views, axis=-1)


def sliding_window(
    size: Pair,
    kernel_size: Pair,
    strides: Pair = (1, 1),
    padding: Padding = "VALID",
    dilation: Pair = (1, 1),
) -> Window:
    """The window of a convolution over an image of ``size`` (rows, columns).

    Raises:
        ValueError: for an unknown padding, or an image smaller than the kernel or the border.

    >>> sliding_window((7, 7), (3, 3), strides=(2, 2), padding="SAME").positions
    (4, 4)
    """
    spans = [(k - 1) * d + 1 for k, d in zip(kernel_size, dilation, strict=True)]
    amounts = pad_amounts(size, spans, strides, padding)
    mode = MODES.get(padding.upper(), "constant") if isinstance(padding, str) else "constant"
    padded = [n + sum(amount) for n, amount in zip(size, amounts, strict=True)]
    kernel = f"the kernel, which spans {spans[0]}x{spans[1]} (kernel_size {kernel_size}, dilation"
    kernel += f" {dilation}, padding {padding!r})"
    help_ = "use a larger input, a smaller kernel or padding='SAME'"
    if any(span > n for span, n in zip(spans, padded, strict=True)):
        raise ValueError(f"an input of {size[0]}x{size[1]} is smaller than {kernel}; {help_}")
    # Reflection leaves out the border pixel; wrapping can repeat the image once.
    available = [n - 1 for n in size] if mode == "reflect" else size
    pairs = zip(amounts, available, strict=True)
    if mode != "constant" and any(max(amount) > n for amount, n in pairs):
        raise ValueError(f"an input of {size[0]}x{size[1]} is too small for {kernel}; {help_}")
    rows, cols = ((n - span) // s + 1 for n, span, s in zip(padded, spans, strides, strict=True))
    down, right = (range(0, span, d) for span, d in zip(spans, dilation, strict=True))
    return Window(tuple(itertools.product(down, right)), strides, amounts, mode, (rows, cols))
