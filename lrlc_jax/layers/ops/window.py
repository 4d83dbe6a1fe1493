"""Which pixels an output position sees: a window that slides over the padded image."""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import TypeAlias

import jax
import jax.numpy as jnp

Padding: TypeAlias = str | int | Sequence[int | tuple[int, int]]
Pair: TypeAlias = tuple[int, int]

# What stands beyond the border, in the words of jnp.pad.
MODES = {"REFLECT": "reflect", "CIRCULAR": "wrap"}


def as_pair(value: int | Sequence[int], name: str) -> Pair:
    """``value`` as (rows, columns).

    Raises:
        ValueError: if it is not one or two whole numbers of at least 1.
    """
    pair = (value, value) if isinstance(value, int) else tuple(value)
    if len(pair) != 2 or not all(isinstance(v, int) and v >= 1 for v in pair):
        raise ValueError(
            f"{name} is {value!r}; it must be a whole number of at least 1, or two of them"
        )
    return pair[0], pair[1]


def pad_amounts(
    size: Pair, kernel_size: Pair, strides: Pair, padding: Padding, dilation: Pair
) -> tuple[Pair, Pair]:
    """Pixels before and after the rows and the columns.

    ``'SAME'`` follows TensorFlow: as many as make the output ``ceil(size / stride)``, the smaller
    half first. ``'REFLECT'`` and ``'CIRCULAR'`` follow :class:`flax.nnx.Conv`: as many as the
    kernel spans less one, whatever the stride.

    Raises:
        ValueError: for an unknown padding.
    """
    spans = [(k - 1) * d + 1 for k, d in zip(kernel_size, dilation, strict=True)]
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
    elif isinstance(padding, int):
        if padding >= 0:
            return (padding, padding), (padding, padding)
    elif len(padding) == 2:
        rows_cols = [(p, p) if isinstance(p, int) else (p[0], p[1]) for p in padding]
        if all(p >= 0 for pair in rows_cols for p in pair):
            return rows_cols[0], rows_cols[1]
    raise ValueError(
        f"padding is {padding!r}; it must be 'VALID', 'SAME', 'REFLECT', 'CIRCULAR', a whole "
        "number of at least 0, or two of them or of (before, after) pairs, for rows and columns"
    )


@dataclasses.dataclass(frozen=True)
class Window:
    """The pixels that each output position sees.

    Attributes:
        taps: row and column of each pixel, counted from the position's corner.
        strides: rows and columns from one position to the next.
        padding: pixels before and after the rows and the columns.
        mode: what stands there, in the words of :func:`jax.numpy.pad`.
        positions: rows and columns of the output.
    """

    taps: tuple[Pair, ...]
    strides: Pair
    padding: tuple[Pair, Pair]
    mode: str
    positions: Pair

    @property
    def grid(self) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
        """The rows and the columns whose crossings are the taps, in this order, if they are."""
        rows = tuple(sorted({row for row, _ in self.taps}))
        cols = tuple(sorted({col for _, col in self.taps}))
        crossings = tuple((row, col) for row in rows for col in cols)
        return (rows, cols) if crossings == self.taps else None

    @property
    def dilation(self) -> Pair | None:
        """Distance between the taps along rows and columns, if they are a grid of equal ones."""
        if self.grid is None:
            return None
        down, right = ({b - a for a, b in itertools.pairwise(taps)} or {1} for taps in self.grid)
        return (down.pop(), right.pop()) if len(down) == len(right) == 1 else None

    @property
    def height_and_width(self) -> Pair:
        """Rows and columns of the taps, whatever lies between them."""
        return len({row for row, _ in self.taps}), len({col for _, col in self.taps})

    def pad(self, x: jax.Array, spatial_axes: Pair = (1, 2)) -> jax.Array:
        """``x`` with what stands beyond its border."""
        widths = [(0, 0)] * x.ndim
        for axis, amount in zip(spatial_axes, self.padding, strict=True):
            widths[axis] = amount
        return jnp.pad(x, widths, mode=self.mode) if any(map(any, widths)) else x

    def views(self, x: jax.Array, spatial_axes: Pair = (1, 2)) -> list[jax.Array]:
        """For each tap the image as the positions see it there, a strided slice of ``x``."""
        x = self.pad(x, spatial_axes)

        def view(tap: Pair) -> jax.Array:
            index = [slice(None)] * x.ndim
            for axis, start, s, n in zip(
                spatial_axes, tap, self.strides, self.positions, strict=True
            ):
                index[axis] = slice(start, start + (n - 1) * s + 1, s)
            return x[tuple(index)]

        return [view(tap) for tap in self.taps]

    def patches(self, x: jax.Array, spatial_axes: Pair = (1, 2)) -> jax.Array:
        """Each position's patch in place of the channels, in the order (tap, channel)."""
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
        ValueError: for an unknown padding, a kernel that does not fit into the padded image, or
            more reflected pixels than the image has.
    """
    amounts = pad_amounts(size, kernel_size, strides, padding, dilation)
    mode = MODES.get(padding.upper(), "constant") if isinstance(padding, str) else "constant"
    spans = [(k - 1) * d + 1 for k, d in zip(kernel_size, dilation, strict=True)]
    padded = [n + sum(amount) for n, amount in zip(size, amounts, strict=True)]
    kernel = f"the kernel, which spans {spans[0]}x{spans[1]} (kernel_size {kernel_size}, dilation"
    kernel += f" {dilation}, padding {padding!r})"
    help_ = "use a larger input, a smaller kernel or padding='SAME'"
    if any(span > n for span, n in zip(spans, padded, strict=True)):
        raise ValueError(f"an input of {size[0]}x{size[1]} is smaller than {kernel}; {help_}")
    # A border is reflected without its own pixel; around goes the image once.
    available = [n - 1 for n in size] if mode == "reflect" else size
    if mode != "constant" and any(
        max(amount) > n for amount, n in zip(amounts, available, strict=True)
    ):
        raise ValueError(f"an input of {size[0]}x{size[1]} is too small for {kernel}; {help_}")
    rows, cols = ((n - span) // s + 1 for n, span, s in zip(padded, spans, strides, strict=True))
    taps = tuple(
        (i * dilation[0], j * dilation[1])
        for i in range(kernel_size[0])
        for j in range(kernel_size[1])
    )
    return Window(taps, strides, amounts, mode, (rows, cols))


def output_size(
    size: Pair,
    kernel_size: Pair,
    strides: Pair = (1, 1),
    padding: Padding = "VALID",
    dilation: Pair = (1, 1),
) -> Pair:
    """Rows and columns of the output for an input of ``size`` (rows, columns).

    Raises:
        ValueError: if the kernel does not fit into the padded input.

    >>> output_size((32, 32), (3, 3))
    (30, 30)
    >>> output_size((7, 7), (3, 3), strides=(2, 2), padding="SAME")
    (4, 4)
    """
    return sliding_window(size, kernel_size, strides, padding, dilation).positions


def extract_patches(
    x: jax.Array,
    kernel_size: Pair,
    strides: Pair = (1, 1),
    padding: Padding = "VALID",
    dilation: Pair = (1, 1),
) -> jax.Array:
    """Image patches, the operands I_ij of equation 1.

    Args:
        x: images ``(batch, rows, cols, in)``.

    Returns:
        ``(batch, rows_out, cols_out, kh * kw * in)``, the entries of each patch in the order
        (kernel row, kernel column, channel).

    Raises:
        ValueError: if the kernel does not fit.

    >>> x = jnp.arange(12.0).reshape(1, 3, 4, 1)
    >>> extract_patches(x, (2, 2)).shape
    (1, 2, 3, 4)
    >>> extract_patches(x, (2, 2))[0, 1, 2].tolist()
    [6.0, 7.0, 10.0, 11.0]
    """
    size = x.shape[1], x.shape[2]
    return sliding_window(size, kernel_size, strides, padding, dilation).patches(x)
