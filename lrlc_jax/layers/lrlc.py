"""The low-rank locally connected layer (section 3.2), and its settings."""

import dataclasses
import functools
from typing import Any, ClassVar, Unpack

import jax
import jax.numpy as jnp
from flax import nnx
from flax.nnx.nn.dtypes import promote_dtype
from jax.nn.initializers import Initializer

from lrlc_jax.errors import InputError, in_range
from lrlc_jax.layers.base import (
    LARGEST_WINDOW,
    LayerConfig,
    Options,
    PatchLayer,
    RankedLayerConfig,
    Site,
    as_count,
    as_list,
    check_word,
    he_uniform,
    zeros,
)
from lrlc_jax.layers.bases import MixedBases, Sizes, is_mixed, pairs_of, span
from lrlc_jax.layers.combining import (
    MAPS_PER_BASIS,
    NORMALIZATIONS,
    SHARINGS,
    CombiningNetwork,
    Normalization,
    PositionTable,
    Sharing,
    equal_weights,
    normalize,
)
from lrlc_jax.layers.conv import ConvConfig
from lrlc_jax.layers.ops.product import (
    Elementwise,
    Kind,
    combined_product,
    fold,
    folded_product,
    in_microbatches,
)
from lrlc_jax.layers.ops.window import Pair, Size, Window, as_pair
from lrlc_jax.layers.spatial_bias import SpatialBiasConfig
from lrlc_jax.schema import whole, word

# The fan-in of a basis is that of one convolution at any rank: the first axis of the bases
# (K, kh, kw, in, out) is neither an input nor part of the receptive field.
he_uniform_bases = nnx.initializers.he_uniform(batch_axis=(0,))


class LRLC(PatchLayer):
    """Low-rank local connectivity (section 3.2): ``K`` filter banks, combined at each position.

    The filter bank of a position is ``sum_k w[position, k] * bases[k]`` (equation 2). Combining
    weights shared by all examples are folded into the filter banks first: an image costs the
    multiply-adds of a convolution at any rank. The authors' Algorithm 1 (K convolutions and a
    weighted sum of their outputs) costs K times as many for the same result.

    With ``input_dependent`` a small network computes the weights from the input of the layer
    (section 3.2.2, :class:`.combining.CombiningNetwork`), and Algorithm 1 runs in micro-batches
    (:func:`.ops.product.in_microbatches`).

    Parameters: ``bases`` ``(K, kh, kw, in, out)``, or with mixed sizes ``bases.kernels``, a list;
    ``weights`` (a table over the output positions, or the network g) and ``spatial_bias`` (a
    table); ``bias`` ``(out,)``.

    Args:
        kernel_size: rows and columns of the filters, one number for both or two; or a sequence of
            such pairs, one for each basis. The padding aligns bases of different sizes and must
            keep the size of the image (``'SAME'``, ``'REFLECT'``, ``'CIRCULAR'``).
        kernel_dilation: distance between the entries of a filter; or a sequence of pairs, one for
            each basis.
        rank: K, the number of basis filter banks.
        input_dependent: compute the combining weights from the input of the layer.
        sharing: ``'row_column'`` (default) sums a weight per row and a weight per column (equation
            3); ``'row'`` and ``'column'`` have one of the two; ``'full'`` has a weight for each
            position, the only choice with ``input_dependent``. Also for the spatial bias.
        normalization: normalisation of the weights over the bases: ``'softmax'`` (default,
            equation 4), ``'norm'`` (l2) or ``'none'``.
        use_spatial_bias: add a bias per position (equation 5).
        kernel_init: initializer of the bases, called with the shape ``(K, kh, kw, in, out)``; with
            mixed sizes ``(1, kh, kw, in, out)`` for each.
        weights_init: initializer of the combining weights, called with ``(rows, K)``,
            ``(cols, K)`` or ``(rows, cols, K)``; by default equal weights, which start the layer
            as a convolution. With ``input_dependent``: initializer of the kernels of g, by default
            glorot_uniform.
        rngs: random keys of the initializers.

    Other arguments and errors as for :class:`.base.PatchLayer`; ``input_size`` is required.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel_size: Sizes,
        strides: Size = 1,
        *,
        input_size: Size,
        rank: int,
        input_dependent: bool = False,
        sharing: Sharing | None = None,
        normalization: Normalization = NORMALIZATIONS[0],
        kernel_dilation: Sizes = 1,
        use_spatial_bias: bool = True,
        kernel_init: Initializer = he_uniform_bases,
        weights_init: Initializer | None = None,
        rngs: nnx.Rngs,
        **options: Unpack[Options],
    ) -> None:
        sharing = sharing or ("full" if input_dependent else SHARINGS[0])
        check_word("normalization", normalization, NORMALIZATIONS)
        rank = as_count(rank, "rank")
        if input_dependent and sharing != "full":
            raise ValueError(
                f"sharing is {sharing!r} and input_dependent is True; combining weights from the "
                "input are not shared: leave sharing out, or make it 'full'"
            )
        sizes = pairs_of(kernel_size, rank, "kernel_size")
        dilations = pairs_of(kernel_dilation, rank, "kernel_dilation")
        mixed = is_mixed(kernel_size) or is_mixed(kernel_dilation)
        super().__init__(
            in_features,
            out_features,
            span(sizes, dilations) if mixed else sizes[0],
            strides,
            input_size=input_size,
            kernel_dilation=1 if mixed else dilations[0],
            **options,
        )
        self.rank = rank
        self.normalization = normalization
        self.input_dependent = input_dependent
        self.bases: MixedBases | nnx.Param[jax.Array]
        if mixed:
            self.bases = MixedBases(self, sizes, dilations, kernel_init, rngs)
        else:
            shape = (rank, *self.kernel_size, in_features, out_features)
            self.bases = nnx.Param(kernel_init(rngs.params(), shape, self.param_dtype))
        self.weights: PositionTable | CombiningNetwork
        if input_dependent:
            self.weights = CombiningNetwork(self, rank, weights_init, rngs)
        else:
            init = weights_init or equal_weights(rank, sharing)
            self.weights = PositionTable(self, rank, sharing, init, rngs)
        self.spatial_bias = (
            PositionTable(self, 1, sharing, zeros, rngs) if use_spatial_bias else None
        )

    @property
    def kind(self) -> Kind:
        """Combining weights that depend on the input cannot be folded."""
        return "combined" if self.input_dependent else "folded"

    def windows(self) -> list[Window]:
        """One window, or with input-dependent weights one for each size of the bases."""
        if self.input_dependent and isinstance(self.bases, MixedBases):
            return list(self.bases.windows)
        return [self.window() if self.input_dependent else self.folded_window()]

    def combining_weights(self, x: jax.Array | None = None) -> jax.Array:
        """Normalised combining weights.

        Args:
            x: the input of the layer, with ``input_dependent``.

        Returns:
            ``(rows or 1, cols or 1, K)``, with size 1 along a shared axis; with ``input_dependent``
            ``(batch, rows, cols, K)``.

        Raises:
            ValueError: if the weights depend on the input and ``x`` is None.
        """
        if isinstance(self.weights, PositionTable):
            weights = self.weights()
        elif x is None:
            raise ValueError("x is None; the combining weights of this layer depend on its input")
        else:
            weights = self.weights(x)
        return normalize(weights, self.normalization)

    def filters(self) -> jax.Array:
        """The filter bank of each position ``(rows or 1, cols or 1, kh, kw, in, out)``.

        Bases of mixed sizes are padded with zeros to the size of their common grid. Raises a
        ValueError if the combining weights depend on the input.
        """
        bases = self.bases_on(self.window())
        bases = bases.reshape(self.rank, *self.kernel_size, *bases.shape[-2:])
        return fold(self.combining_weights(), bases, self.precision)

    def biases(self) -> tuple[jax.Array, ...]:
        """The bias per position, and the bias per channel."""
        spatial = () if self.spatial_bias is None else (self.spatial_bias(),)
        return (*spatial, *super().biases())

    def product(self, x: jax.Array, size: Pair, preprocess: Elementwise) -> jax.Array:
        """Product with the folded filter banks, or Algorithm 1 for input-dependent weights."""
        if self.input_dependent:
            return self.algorithm_1(x, preprocess)
        window = self.folded_window(size)
        operands = x, self.combining_weights(), self.bases_on(window)
        operands = promote_dtype(operands, dtype=self.dtype)
        return folded_product(*operands, window, self.precision, self.way, preprocess)

    def bases_on(self, window: Window) -> jax.Array:
        """All bases on the taps of a window; mixed bases are zero outside of their own taps."""
        return self.bases.on(window) if isinstance(self.bases, MixedBases) else self.bases[...]

    def folded_window(self, size: Pair | None = None) -> Window:
        """The window of the folded filters: the union of the taps of all bases."""
        window = self.window(size)
        return self.bases.window(window) if isinstance(self.bases, MixedBases) else window

    def bases_with_windows(self) -> list[tuple[jax.Array, Window]]:
        """Bases ``(K, kh, kw, in, out)`` with their window; one entry for each mixed basis."""
        if isinstance(self.bases, MixedBases):
            bases = (kernel[...][None] for kernel in self.bases.kernels)
            return list(zip(bases, self.bases.windows, strict=True))
        return [(self.bases[...], self.window())]

    def algorithm_1(self, x: jax.Array, preprocess: Elementwise) -> jax.Array:
        """The products with all bases, weighted and summed, in micro-batches."""
        groups = self.bases_with_windows()

        def combined(x: jax.Array) -> jax.Array:
            weights = jnp.split(self.combining_weights(preprocess(x)), len(groups), axis=-1)
            terms = []
            for weight, (bases, window) in zip(weights, groups, strict=True):
                operands = promote_dtype((x, weight, bases), dtype=self.dtype)
                term = combined_product(*operands, window, self.precision, self.way, preprocess)
                terms.append(term)
            return functools.reduce(jnp.add, terms)

        rows, cols = self.positions()
        taps = sum(len(window.taps) for _, window in groups)
        values = taps * self.in_features + self.rank * (self.out_features + MAPS_PER_BASIS)
        kept = rows * cols * self.rank * self.out_features
        return in_microbatches(combined, x, rows * cols * values, kept=kept)

    def multiply_adds(self, *, algorithm_1: bool = False) -> int:
        """Multiply-adds of the product for one example, without the network g.

        With ``algorithm_1``, and for input-dependent weights, those of the products with all bases,
        without their weighted sum.
        """
        if algorithm_1 or self.input_dependent:
            mixed = isinstance(self.bases, MixedBases)
            windows = self.bases.windows if mixed else [self.window()] * self.rank
            taps = sum(len(window.taps) for window in windows)
        else:
            taps = len(self.folded_window().taps)
        rows, cols = self.positions()
        return rows * cols * taps * self.in_features * self.out_features


def build_lrlc(config: Any, site: Site, rngs: nnx.Rngs, **options: Any) -> LRLC:
    """LRLC at a site, from the settings that all configs of LRLC share and further ``options``."""
    common = ("rank", "normalization", "use_spatial_bias")
    options |= {name: getattr(config, name) for name in common}
    return LRLC(**site.arguments(**options), rngs=rngs)


def simplest_lrlc(layer: Any, sharing: str) -> LayerConfig:
    """LRLC of rank 1 as a simpler layer.

    A softmax over one weight is 1, which leaves a convolution with the spatial bias. With another
    normalisation the weight has an effect, and the layer stays.

    >>> LRLCConfig(at=3, rank=1, sharing="full").simplest()
    SpatialBiasConfig(name='spatial_bias', at=3, sharing='full')
    """
    if layer.rank > 1 or layer.normalization != "softmax":
        return layer  # type: ignore[no-any-return]
    if not layer.use_spatial_bias:
        return ConvConfig()
    return SpatialBiasConfig(at=layer.at, sharing=sharing)


@dataclasses.dataclass
class LRLCConfig(RankedLayerConfig):
    """Low-rank local connectivity with combining weights shared by all examples.

    >>> LRLCConfig(at=3, rank=4, normalization="none").row
    'LRLC (third layer), normalization none'
    >>> LRLCConfig(at=3, rank=4).label
    'LRLC (third layer), rank 4'
    """

    TITLE: ClassVar[str] = "LRLC"

    name: str = "lrlc"
    sharing: str = word(*SHARINGS)
    normalization: str = word(*NORMALIZATIONS)
    weights_init: str = word("constant", "random")
    use_spatial_bias: bool = True

    def simplest(self) -> LayerConfig:
        """At rank 1 a convolution with spatial bias (:func:`simplest_lrlc`)."""
        return simplest_lrlc(self, self.sharing)

    def build(self, site: Site, rngs: nnx.Rngs) -> LRLC:
        """The layer at a site."""
        init = he_uniform if self.weights_init == "random" else None
        return build_lrlc(self, site, rngs, sharing=self.sharing, weights_init=init)


@dataclasses.dataclass
class InputDependentLRLCConfig(RankedLayerConfig):
    """Low-rank local connectivity with combining weights computed from the input of the layer."""

    TITLE: ClassVar[str] = "Input-dependent LRLC"

    name: str = "lrlc_input_dependent"
    normalization: str = word(*NORMALIZATIONS)
    use_spatial_bias: bool = True

    def simplest(self) -> LayerConfig:
        """At rank 1 a convolution with a bias per position (:func:`simplest_lrlc`)."""
        return simplest_lrlc(self, "full")

    def build(self, site: Site, rngs: nnx.Rngs) -> LRLC:
        """The layer at a site."""
        return build_lrlc(self, site, rngs, input_dependent=True)


@dataclasses.dataclass
class MixedLRLCConfig(RankedLayerConfig):
    """Low-rank local connectivity with bases of different kernel sizes or dilations.

    ``kernel_sizes`` and ``dilations`` are one number for all bases, or a list with one entry per
    basis: a number, or rows and columns.
    """

    TITLE: ClassVar[str] = "LRLC of mixed bases"
    STRUCTURE = (*LayerConfig.STRUCTURE, "kernel_sizes", "dilations", "input_dependent")

    name: str = "lrlc_mixed"
    rank: int = whole(2, high=2**8)
    kernel_sizes: Any = 3
    dilations: Any = dataclasses.field(default_factory=lambda: [1, 2])
    input_dependent: bool = False
    sharing: str = word(*SHARINGS)
    normalization: str = word(*NORMALIZATIONS)
    use_spatial_bias: bool = True

    def check(self) -> None:
        """Also check the kernel sizes and dilations against the rank, and ``sharing``."""
        super().check()
        for name in ("kernel_sizes", "dilations"):
            value = getattr(self, name)
            if isinstance(value, list) and len(value) != self.rank:
                raise InputError(
                    f"layer.{name} is {value}, for {len(value)} bases, and layer.rank is "
                    f"{self.rank}; give a number for all, or one for each basis."
                )
            for size in as_list(value):
                for number in size if isinstance(size, list) and len(size) == 2 else [size]:
                    in_range(f"layer.{name}", number, 1, LARGEST_WINDOW)
        if self.input_dependent and self.sharing != "full":
            raise InputError(
                f"layer.sharing is {self.sharing!r} and layer.input_dependent is true; combining "
                "weights from the input are not shared: set layer.sharing=full."
            )

    def pairs(self, name: str) -> list[Pair]:
        """``kernel_sizes`` or ``dilations``: rows and columns of each basis."""
        value = getattr(self, name)
        values = list(value) if isinstance(value, list | tuple) else [value] * self.rank
        return [as_pair(each, name) for each in values]

    def canonical(self) -> dict[str, Any]:
        """Settings in canonical form, with a pair of sizes and dilations for each basis."""
        pairs = {n: [list(pair) for pair in self.pairs(n)] for n in ("kernel_sizes", "dilations")}
        return super().canonical() | pairs

    def build(self, site: Site, rngs: nnx.Rngs) -> LRLC:
        """The layer at a site, with padding that keeps the size of the image."""
        return build_lrlc(
            self,
            site,
            rngs,
            kernel_size=self.pairs("kernel_sizes"),
            kernel_dilation=self.pairs("dilations"),
            padding="SAME" if site.padding == "VALID" else site.padding,
            input_dependent=self.input_dependent,
            sharing=self.sharing,
        )
