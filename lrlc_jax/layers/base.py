"""What the layers have in common: a window that slides, and the product with filter banks."""

from collections.abc import Sequence
from typing import Any

import jax
from flax import nnx
from flax.nnx.nn.dtypes import promote_dtype

from lrlc_jax.layers.product import Precision, window_product
from lrlc_jax.layers.window import Padding, Pair, Window, as_pair, sliding_window


def check_features(name: str, value: int) -> None:
    """Refuse a number of channels below 1.

    Raises:
        ValueError: naming the argument and its value.
    """
    if not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} is {value!r}; it must be a whole number of at least 1")


class PatchLayer(nnx.Module):
    """A layer that multiplies image patches with filter banks; it has no parameters of its own.

    Args:
        input_size: rows and columns of the input, or None for a layer that takes any size.

    The other arguments are those of the layers.

    Raises:
        ValueError: for an argument out of its range, or a kernel that does not fit.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel_size: int | Sequence[int],
        strides: int | Sequence[int],
        *,
        input_size: int | Sequence[int] | None,
        padding: Padding,
        kernel_dilation: int | Sequence[int],
        dtype: jax.typing.DTypeLike | None,
        precision: Precision,
    ) -> None:
        check_features("in_features", in_features)
        check_features("out_features", out_features)
        self.in_features = in_features
        self.out_features = out_features
        self.kernel_size = as_pair(kernel_size, "kernel_size")
        self.strides = as_pair(strides, "strides")
        self.padding = padding
        self.kernel_dilation = as_pair(kernel_dilation, "kernel_dilation")
        self.input_size = None if input_size is None else as_pair(input_size, "input_size")
        self.dtype = dtype
        self.precision = precision

    def window(self, size: Pair | None = None) -> Window:
        """The window over an input of ``size``, by default of the layer's own input size."""
        size = size or self.input_size
        assert size is not None
        return sliding_window(
            size, self.kernel_size, self.strides, self.padding, self.kernel_dilation
        )

    def positions(self) -> Pair:
        """Rows and columns of the output, of a layer that was made for one input size."""
        return self.window().positions

    def check_input(self, x: jax.Array) -> Pair:
        """The rows and columns of an input that the layer was made for.

        Raises:
            ValueError: if the input has another size or other channels than the layer.
        """
        size = x.shape[1:3] if self.input_size is None else self.input_size
        if x.ndim != 4 or x.shape[1:] != (*size, self.in_features):
            rows, cols = ("rows", "cols") if self.input_size is None else self.input_size
            raise ValueError(
                f"the input has shape {x.shape}; this layer was made for "
                f"(batch, {rows}, {cols}, {self.in_features} channels)"
            )
        return size[0], size[1]

    def product(
        self,
        x: jax.Array,
        filters: jax.Array,
        *biases: jax.Array | None,
        window: Window | None = None,
    ) -> jax.Array:
        """The product of each patch with its filter bank, plus the biases that there are.

        Args:
            filters: ``(rows_out or 1, cols_out or 1, ..., out)``; between them the taps of the
                window and the channels.
            window: by default that of the layer.

        Raises:
            ValueError: if the input has another size or other channels than the layer.
        """
        window = window or self.window(self.check_input(x))
        operands: tuple[Any, ...] = promote_dtype((x, filters, *biases), dtype=self.dtype)
        y = window_product(operands[0], operands[1], window, self.precision)
        return add_biases(y, *operands[2:])


def add_biases(y: jax.Array, *biases: jax.Array | None) -> jax.Array:
    """``y`` plus the biases that there are."""
    for bias in biases:
        y = y if bias is None else y + bias
    return y
