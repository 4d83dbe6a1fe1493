"""Base of all layers and of their settings.

A :class:`PatchLayer` multiplies the patches of a sliding window with filter banks. A
:class:`LayerConfig` has the settings of a layer and builds it at a :class:`Site` of a network.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar, TypedDict

import jax
import jax.numpy as jnp
from flax import nnx
from flax.nnx.nn.dtypes import promote_dtype

from lrlc_jax.errors import InputError
from lrlc_jax.layers.ops.precision import BFLOAT16_PRODUCTS, Precision, floating
from lrlc_jax.layers.ops.product import (
    WAYS,
    Elementwise,
    Kind,
    Way,
    choose_way,
    identity,
    window_product,
)
from lrlc_jax.layers.ops.target import target
from lrlc_jax.layers.ops.window import (
    Padding,
    Pair,
    Size,
    Window,
    as_pair,
    is_whole,
    sliding_window,
)
from lrlc_jax.schema import Schema, whole

DEPTH = 3  # layers of the paper's network
LARGEST_WINDOW = 2**10  # kernel size, dilation or stride of a setting
ORDINALS = ("first", "second", "third")

he_uniform = nnx.initializers.he_uniform()  # filters of a convolution
glorot_uniform = nnx.initializers.glorot_uniform()  # the classifier, and the network g
zeros = nnx.initializers.zeros_init()  # biases


def as_count(value: int, name: str) -> int:
    """``value`` as an int; a ValueError unless it is a whole number of at least 1."""
    if not is_whole(value) or value < 1:
        raise ValueError(f"{name} is {value!r}; it must be a whole number of at least 1")
    return int(value)


def check_word(name: str, value: str, allowed: Sequence[str]) -> None:
    """Raise a ValueError unless ``value`` is an allowed word."""
    if value not in allowed:
        raise ValueError(f"{name} is {value!r}; it must be one of {', '.join(map(repr, allowed))}")


class Options(TypedDict, total=False):
    """Optional arguments of every layer; :class:`PatchLayer` has the defaults."""

    padding: Padding
    use_bias: bool
    dtype: jax.typing.DTypeLike | None
    param_dtype: jax.typing.DTypeLike
    precision: Precision
    way: Way | None


class PatchLayer(nnx.Module):
    """The product of image patches with filter banks, plus a bias. A subclass defines ``filters``.

    Args:
        in_features: channels of the input.
        out_features: channels of the output.
        kernel_size: rows and columns of the filters, one number for both or two.
        strides: rows and columns between positions, likewise.
        input_size: rows and columns of the input; None: any.
        kernel_dilation: distance between the entries of a filter.
        padding: ``'VALID'``, ``'SAME'``, ``'REFLECT'``, ``'CIRCULAR'``, or widths of zero padding
            before and after rows and columns.
        use_bias: add a bias per channel.
        dtype: type of the computation; by default the promoted type of input and parameters.
        param_dtype: type of the parameters.
        precision: of the products, as in :func:`jax.lax.dot`; or ``'bfloat16_products'``
            (:mod:`.ops.precision`), with float32 results.
        way: how to compute the product (:data:`lrlc_jax.layers.WAYS`); by default
            :func:`.ops.product.default_way`.

    Raises:
        ValueError: for an argument out of its range, or a kernel that does not fit.
    """

    EXTRA_CHANNELS: ClassVar[int] = 0  # channels appended to the input
    BIAS_PER_POSITION: ClassVar[bool] = False
    KIND: ClassVar[Kind] = "by_position"  # of the product

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel_size: Size,
        strides: Size = 1,
        *,
        input_size: Size | None = None,
        kernel_dilation: Size = 1,
        padding: Padding = "VALID",
        use_bias: bool = True,
        dtype: jax.typing.DTypeLike | None = None,
        param_dtype: jax.typing.DTypeLike = jnp.float32,
        precision: Precision = None,
        way: Way | None = None,
    ) -> None:
        if way is not None:
            check_word("way", way, WAYS)
        if precision == BFLOAT16_PRODUCTS and dtype not in (None, jnp.float32):
            raise ValueError(f"precision is {precision!r} and dtype {dtype}; it must be float32")
        self.in_features = as_count(in_features, "in_features")
        self.out_features = as_count(out_features, "out_features")
        self.kernel_size = as_pair(kernel_size, "kernel_size")
        self.strides = as_pair(strides, "strides")
        self.padding = padding
        self.kernel_dilation = as_pair(kernel_dilation, "kernel_dilation")
        self.input_size = None if input_size is None else as_pair(input_size, "input_size")
        self.dtype = dtype
        self.param_dtype = param_dtype
        self.precision = precision
        self.way = way
        if self.input_size is not None:
            self.window()  # refuses a kernel that does not fit
        shape = (*(self.positions() if self.BIAS_PER_POSITION else ()), out_features)
        self.bias = nnx.Param(jnp.zeros(shape, param_dtype)) if use_bias else None

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
        """Rows and columns of an input; a ValueError if size or channels are not the layer's."""
        size = x.shape[1:3] if self.input_size is None else self.input_size
        if x.ndim != 4 or x.shape[1:] != (*size, self.in_features):
            rows, cols = ("rows", "cols") if self.input_size is None else self.input_size
            raise ValueError(
                f"the input has shape {x.shape}; this layer was made for "
                f"(batch, {rows}, {cols}, {self.in_features} channels)"
            )
        return size[0], size[1]

    @property
    def kind(self) -> Kind:
        """Kind of the product (:data:`.ops.product.Kind`)."""
        return self.KIND

    def windows(self) -> list[Window]:
        """The windows of the products; the layer must have an input size."""
        return [self.window()]

    def ways(self, batch: int) -> list[Way]:
        """Ways that compute the product of a batch on this device, the default first.

        ``pallas`` needs a GPU: elsewhere its kernels are interpreted.
        """
        assert self.input_size is not None
        shape = (batch, *self.input_size, self.in_features + self.EXTRA_CHANNELS)

        def chosen(asked: Way | None) -> list[Way]:
            arguments = self.kind, shape, self.out_features
            how = self.precision, getattr(self, "rank", 1)
            return [choose_way(asked, *arguments, each, *how) for each in self.windows()]

        possible = [way for way in WAYS if way != "pallas" or target().platform == "gpu"]
        applicable = [way for way in possible if set(chosen(way)) == {way}]
        return list(dict.fromkeys([*chosen(None)[:1], *applicable]))

    def filters(self) -> jax.Array:
        """The filter bank of each position ``(rows or 1, cols or 1, kh, kw, in, out)``."""
        raise NotImplementedError

    def biases(self) -> tuple[jax.Array, ...]:
        """Terms added to the product, which broadcast to ``(rows, cols, out)``."""
        if self.bias is None:
            return ()
        return (jnp.expand_dims(self.bias[...], range(3 - self.bias.ndim)),)

    def product(self, x: jax.Array, size: Pair, preprocess: Elementwise) -> jax.Array:
        """The product of images of ``size`` (rows, columns) with the filter banks."""
        x, filters = promote_dtype((x, self.filters()), dtype=self.dtype)
        return window_product(x, filters, self.window(size), self.precision, self.way, preprocess)

    def multiply_adds(self) -> int:
        """Multiply-adds of the product for one example; the layer must have an input size.

        Biases, and the folding of filters (once per batch), are not counted.
        """
        rows, cols = self.positions()
        channels = self.in_features + self.EXTRA_CHANNELS
        return rows * cols * len(self.window().taps) * channels * self.out_features

    def __call__(self, x: jax.Array, preprocess: Elementwise = identity) -> jax.Array:
        """Images ``(batch, rows, cols, in)`` to ``(batch, rows_out, cols_out, out)``.

        Args:
            x: the images; integers and booleans become float32.
            preprocess: elementwise function applied to the input first, such as the normalisation
                and ReLU of the previous layer. The result equals a call with ``preprocess(x)``, but
                it is computed per micro-batch.

        Raises:
            ValueError: if the input does not have the size and channels of the layer.
        """
        return self.add_biases(self.product(floating(x), self.check_input(x), preprocess))

    def add_biases(self, y: jax.Array) -> jax.Array:
        """``y`` plus the biases, in the type of ``y``."""
        for bias in self.biases():
            y = y + bias[None].astype(y.dtype)
        return y


# Settings classes by layer name. Every subclass of LayerConfig with a name registers itself.
LAYERS: "dict[str, type[LayerConfig]]" = {}


@dataclasses.dataclass(frozen=True)
class Site:
    """Place of a layer in a network: the arguments that do not depend on the kind of layer.

    ``last`` marks the last layer; the others are arguments of :class:`PatchLayer`.
    """

    in_features: int
    out_features: int
    kernel_size: Pair
    strides: Pair
    padding: Padding
    use_bias: bool
    input_size: Pair
    dtype: jax.typing.DTypeLike | None = None
    precision: Precision = None
    way: Way | None = None
    last: bool = False

    def arguments(self, **changes: Any) -> dict[str, Any]:
        """Arguments of a layer's constructor, with ``changes``."""
        values = vars(self) | changes
        del values["last"]
        return values


@dataclasses.dataclass
class LayerConfig(Schema):
    """The layer under study. ``name`` selects the subclass with its other settings.

    Attributes:
        TITLE: name of the layer in tables.
        STRUCTURE: settings that identify a layer within a study. All others are options, shared by
            the layers of a table.
    """

    SECTION: ClassVar[str] = "layer"
    TITLE: ClassVar[str] = ""
    STRUCTURE: ClassVar[tuple[str, ...]] = ("name", "at", "rank")

    name: str = ""

    def __init_subclass__(cls) -> None:
        if "name" in vars(cls):
            LAYERS[cls.name] = cls

    @property
    def positions(self) -> tuple[int, ...]:
        """Positions of the layer, from 1, ascending; other positions have a plain convolution."""
        return ()

    @property
    def row(self) -> str:
        """Name of the table row: everything but the rank."""
        return self.TITLE

    @property
    def label(self) -> str:
        """Name of the layer in text: the row, and the rank if it has one."""
        return self.row

    def simplest(self) -> "LayerConfig":
        """An equivalent simpler layer if there is one (at rank 1); otherwise this layer."""
        return self

    def counterpart(self) -> "LayerConfig | None":
        """The layer whose parameter count this layer matches, if any."""
        return None

    def build(self, site: Site, rngs: nnx.Rngs) -> PatchLayer:
        """The layer at a site. Raises the errors of the layer's constructor."""
        raise NotImplementedError


def as_list(value: Any) -> list[Any]:
    """A list or tuple as a list; any other value as a list of one."""
    return list(value) if isinstance(value, list | tuple) else [value]


@dataclasses.dataclass
class SpecialLayerConfig(LayerConfig):
    """A layer that replaces the convolution at some positions of the network."""

    at: Any = "all"

    @property
    def positions(self) -> tuple[int, ...]:
        """The positions in ``at``."""
        return tuple(range(1, DEPTH + 1) if self.at == "all" else sorted(set(as_list(self.at))))

    @property
    def row(self) -> str:
        """Title, positions, and options that differ from the defaults."""
        names = [ORDINALS[position - 1] for position in self.positions]
        where = f"{' and '.join(names)} layer{'s' * (len(names) > 1)}"
        where = "all layers" if len(names) == DEPTH else where
        changed = [
            f", {name} {value}"
            for name, value in self.changed().items()
            if name not in LayerConfig.STRUCTURE
        ]
        return f"{self.TITLE} ({where}){''.join(changed)}"

    def canonical(self) -> dict[str, Any]:
        """Settings in canonical form, with the positions as a list."""
        return super().canonical() | {"at": list(self.positions)}

    def check(self) -> None:
        """Also refuse a position outside of the network."""
        super().check()
        at = as_list(self.at)
        valid = all(isinstance(a, int) and not isinstance(a, bool) and 1 <= a <= DEPTH for a in at)
        if self.at != "all" and not (at and valid):
            positions = ", ".join(map(str, range(1, DEPTH + 1)))
            raise InputError(
                f"layer.at is {self.at!r}; the network has the positions {positions}: "
                "give one of them, a list, or 'all'."
            )


@dataclasses.dataclass
class RankedLayerConfig(SpecialLayerConfig):
    """A layer with a rank, which tables choose by validation accuracy."""

    at: Any = 3
    rank: int = whole(4, high=2**16)

    @property
    def label(self) -> str:
        """Row and rank."""
        return f"{self.row}, rank {self.rank}"
