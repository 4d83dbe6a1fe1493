"""Base of all layers: a sliding window, and the product of its patches with filter banks."""

from collections.abc import Sequence
from typing import ClassVar

import jax
from flax import nnx
from flax.nnx.nn.dtypes import promote_dtype

from lrlc_jax.layers.ops.product import (
    WAYS,
    Elementwise,
    Precision,
    Way,
    identity,
    window_product,
)
from lrlc_jax.layers.ops.window import Padding, Pair, Window, as_pair, sliding_window

he_uniform = nnx.initializers.he_uniform()  # filters of a convolution
glorot_uniform = nnx.initializers.glorot_uniform()  # the classifier, and the network g
zeros = nnx.initializers.zeros_init()  # biases


def check_count(name: str, value: int) -> None:
    """Refuse a number of channels or bases below 1.

    Raises:
        ValueError: naming the argument and its value.
    """
    if not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} is {value!r}; it must be a whole number of at least 1")


def check_word(name: str, value: str, allowed: Sequence[str]) -> None:
    """Refuse a word that is not allowed.

    Raises:
        ValueError: naming the argument, its value and the allowed words.
    """
    if value not in allowed:
        raise ValueError(f"{name} is {value!r}; it must be one of {', '.join(map(repr, allowed))}")


class PatchLayer(nnx.Module):
    """A layer that multiplies image patches with filter banks, without parameters of its own.

    A subclass defines ``filters`` and ``biases``. Its arguments are those of
    :class:`lrlc_jax.layers.Conv`; ``input_size`` is None if the layer takes images of any size.

    Raises:
        ValueError: for an argument out of its range, or a kernel that does not fit.
    """

    EXTRA_CHANNELS: ClassVar[int] = 0  # that the layer appends to its input

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
        way: Way | None,
    ) -> None:
        check_count("in_features", in_features)
        check_count("out_features", out_features)
        if way is not None:
            check_word("way", way, WAYS)
        self.in_features = in_features
        self.out_features = out_features
        self.kernel_size = as_pair(kernel_size, "kernel_size")
        self.strides = as_pair(strides, "strides")
        self.padding = padding
        self.kernel_dilation = as_pair(kernel_dilation, "kernel_dilation")
        self.input_size = None if input_size is None else as_pair(input_size, "input_size")
        self.dtype = dtype
        self.precision = precision
        self.way = way
        if self.input_size is not None:
            self.window()  # refuses a kernel that does not fit

    def window(self, size: Pair | None = None) -> Window:
        """The window over an input of ``size``, by default the input size of the layer."""
        size = size or self.input_size
        assert size is not None
        return sliding_window(
            size, self.kernel_size, self.strides, self.padding, self.kernel_dilation
        )

    def positions(self) -> Pair:
        """Rows and columns of the output; the layer must have an input size."""
        return self.window().positions

    def check_input(self, x: jax.Array) -> Pair:
        """Rows and columns of an input.

        Raises:
            ValueError: if the input has another size or number of channels than the layer.
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
        """Terms added to the product, which broadcast to ``(rows, cols, out)``."""
        raise NotImplementedError

    def product(self, x: jax.Array, size: Pair, preprocess: Elementwise) -> jax.Array:
        """The product of images of ``size`` (rows, columns) with the filter banks."""
        x, filters = promote_dtype((x, self.filters()), dtype=self.dtype)
        return window_product(x, filters, self.window(size), self.precision, self.way, preprocess)

    def multiply_adds(self) -> int:
        """Multiply-adds of the product for one example; the layer must have an input size.

        Biases and the folding of filters, once per batch, do not count.
        """
        rows, cols = self.positions()
        channels = self.in_features + self.EXTRA_CHANNELS
        return rows * cols * len(self.window().taps) * channels * self.out_features

    def __call__(self, x: jax.Array, preprocess: Elementwise = identity) -> jax.Array:
        """Images ``(batch, rows, cols, in)`` to ``(batch, rows_out, cols_out, out)``.

        Args:
            x: the images.
            preprocess: elementwise function applied to the input first, such as the normalisation
                and ReLU of the previous layer. Equals a call with ``preprocess(x)``, which is
                computed per micro-batch instead of as a whole.

        Raises:
            ValueError: if the input has another size or number of channels than the layer.
        """
        return self.add_biases(self.product(x, self.check_input(x), preprocess))

    def add_biases(self, y: jax.Array) -> jax.Array:
        """``y`` plus the biases, in the type of ``y``."""
        for bias in self.biases():
            y = y + bias[None].astype(y.dtype)
        return y


def channel_bias(bias: nnx.Param[jax.Array] | None) -> tuple[jax.Array, ...]:
    """An optional bias ``(out,)`` as a term that broadcasts over the positions."""
    return () if bias is None else (bias[...][None, None],)
