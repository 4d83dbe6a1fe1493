"""What the layers have in common: a window that slides, and the product with filter banks."""

from collections.abc import Sequence

import jax
from flax import nnx
from flax.nnx.nn.dtypes import promote_dtype

from lrlc_jax.layers.ops.product import Elementwise, Precision, unchanged, window_product
from lrlc_jax.layers.ops.window import Padding, Pair, Window, as_pair, sliding_window


def check_count(name: str, value: int) -> None:
    """Refuse a number of channels or bases below 1.

    Raises:
        ValueError: naming the argument and its value.
    """
    if not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} is {value!r}; it must be a whole number of at least 1")


class PatchLayer(nnx.Module):
    """A layer that multiplies image patches with filter banks; it has no parameters of its own.

    A layer says what its filter banks and biases are (``filters`` and ``biases``).

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
        check_count("in_features", in_features)
        check_count("out_features", out_features)
        self.in_features = in_features
        self.out_features = out_features
        self.kernel_size = as_pair(kernel_size, "kernel_size")
        self.strides = as_pair(strides, "strides")
        self.padding = padding
        self.kernel_dilation = as_pair(kernel_dilation, "kernel_dilation")
        self.input_size = None if input_size is None else as_pair(input_size, "input_size")
        self.dtype = dtype
        self.precision = precision
        if self.input_size is not None:
            self.window()  # refuses a kernel that does not fit

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

    def filters(self) -> jax.Array:
        """The filter bank of each position ``(rows or 1, cols or 1, kh, kw, in, out)``."""
        raise NotImplementedError

    def biases(self) -> tuple[jax.Array, ...]:
        """What is added to the product: terms that broadcast to ``(rows, cols, out)``."""
        raise NotImplementedError

    def product(self, x: jax.Array, size: Pair, before: Elementwise) -> jax.Array:
        """Images of ``size`` (rows, columns) with the filter banks of their positions."""
        x, filters = promote_dtype((x, self.filters()), dtype=self.dtype)
        return window_product(x, filters, self.window(size), self.precision, before)

    def multiply_adds(self) -> int:
        """Multiply-adds of the product for one example; a layer for any input size has no number.

        Biases, and the folding of filters that is done once for a batch, are not among them.
        """
        rows, cols = self.positions()
        return rows * cols * len(self.window().taps) * self.in_features * self.out_features

    def __call__(self, x: jax.Array, before: Elementwise = unchanged) -> jax.Array:
        """Images ``(batch, rows, cols, in)`` to ``(batch, rows_out, cols_out, out)``.

        Args:
            x: the images.
            before: what is done to each of their numbers first, such as the normalisation and the
                ReLU of the layer before. It is the same as to call the layer with ``before(x)``,
                which need not be in memory as a whole then.

        Raises:
            ValueError: if the input has another size or other channels than the layer.
        """
        return self.add_biases(self.product(x, self.check_input(x), before))

    def add_biases(self, y: jax.Array) -> jax.Array:
        """``y`` plus the biases, in its own type."""
        for bias in self.biases():
            y = y + bias[None].astype(y.dtype)
        return y


def channel_bias(bias: nnx.Param[jax.Array] | None) -> tuple[jax.Array, ...]:
    """A bias ``(out,)``, if there is one, as a term that broadcasts over the positions."""
    return () if bias is None else (bias[...][None, None],)
