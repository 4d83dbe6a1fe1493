"""The low-rank locally connected layer."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from flax.nnx.nn.dtypes import promote_dtype
from jax.nn.initializers import Initializer

from lrlc_jax.layers.base import PatchLayer, channel_bias, check_count
from lrlc_jax.layers.bases import MixedBases, Sizes, is_mixed, pairs_of, span
from lrlc_jax.layers.combining import (
    NORMALIZATIONS,
    SHARINGS,
    Normalization,
    PositionTable,
    Sharing,
    check_choice,
    constant_start,
    normalize,
)
from lrlc_jax.layers.combining_network import MAPS_PER_BASIS, CombiningNetwork
from lrlc_jax.layers.initializers import zeros
from lrlc_jax.layers.ops.microbatch import in_chunks
from lrlc_jax.layers.ops.product import (
    Elementwise,
    Precision,
    combined_product,
    fold,
    folded_product,
)
from lrlc_jax.layers.ops.window import Padding, Pair, Window, sliding_window

# The fan-in of a basis filter bank is that of one convolution, whatever the rank: the first axis
# of the bases (K, kh, kw, in, out) counts neither as an input nor as part of the receptive field.
he_uniform_bases = nnx.initializers.he_uniform(batch_axis=(0,))


class LRLC(PatchLayer):
    """Low-rank local connectivity (section 3.2): ``K`` filter banks, combined at each position.

    The filter bank of a position is ``sum_k w[position, k] * bases[k]`` (equation 2). Where the
    combining weights do not depend on the example, the filter banks are folded first and then
    applied once, so that the arithmetic per image is that of a convolution at any rank. The
    authors' Algorithm 1, K convolutions and a weighted sum of their outputs, gives the same
    numbers at K times the cost.

    With ``input_dependent`` the weights come from the layer's input by a small network
    (section 3.2.2, :class:`lrlc_jax.layers.combining_network.CombiningNetwork`), and Algorithm 1
    it is, for a few examples at a time: the patches and the maps inside of the network are held for
    those few examples only, and computed again for the gradients. The K products are kept for the
    backward pass where they are few, and otherwise computed again too, so that the memory of a
    training step does not grow with K without end (:func:`lrlc_jax.layers.ops.microbatch.in_chunks`).

    Parameters: ``bases`` ``(K, kh, kw, in, out)``, or with mixed sizes ``bases.kernels``, a list;
    ``weights`` (a table over the output positions, or the network g) and ``spatial_bias`` (a
    table); ``bias`` ``(out,)``.

    Args:
        in_features: channels of the input.
        out_features: channels of the output.
        kernel_size: rows and columns of the filters, one number for both or two; or a sequence of
            such pairs, one for each basis. Bases of different size are aligned by their padding,
            which must keep the size (``'SAME'``, ``'REFLECT'``, ``'CIRCULAR'``).
        strides: steps between positions, one number for both or two.
        input_size: rows and columns of the input.
        rank: K, the number of basis filter banks.
        input_dependent: compute the combining weights from the input of the layer.
        sharing: ``'row_column'`` sums a weight per row and one per column (equation 3); ``'row'``
            and ``'column'`` keep one of the two; ``'full'`` has a weight for each position. The
            spatial bias is shared in the same way. By default ``'row_column'``; with
            ``input_dependent`` ``'full'``, and no other.
        normalization: of the weights over the basis: ``'softmax'`` (equation 4), ``'norm'`` (l2)
            or ``'none'``.
        padding: ``'VALID'``, ``'SAME'``, ``'REFLECT'``, ``'CIRCULAR'``, or zeros before and after
            rows and columns.
        kernel_dilation: distance between the filters' entries; or a sequence of pairs, one for
            each basis.
        use_bias: add a bias per channel.
        use_spatial_bias: add a bias per position (equation 5).
        dtype: type of the computation; by default that of input and parameters together.
        param_dtype: type of the parameters.
        precision: of the products, as in :func:`jax.lax.dot`.
        kernel_init: start of the bases, given the shape ``(K, kh, kw, in, out)``; with mixed sizes
            ``(1, kh, kw, in, out)`` for each.
        weights_init: start of the combining weights, given ``(rows, K)``, ``(cols, K)`` or
            ``(rows, cols, K)``; by default the constant with which the layer starts as a
            convolution. With ``input_dependent``: start of the kernels of g, by default
            glorot_uniform.
        rngs: source of the start values.

    Raises:
        ValueError: for an argument out of its range, or an input of another size.

    >>> layer = LRLC(3, 8, 3, input_size=32, rank=4, rngs=nnx.Rngs(0))
    >>> layer(jnp.ones((2, 32, 32, 3))).shape
    (2, 30, 30, 8)
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel_size: Sizes,
        strides: int | Sequence[int] = 1,
        *,
        input_size: int | Sequence[int],
        rank: int,
        input_dependent: bool = False,
        sharing: Sharing | None = None,
        normalization: Normalization = "softmax",
        padding: Padding = "VALID",
        kernel_dilation: Sizes = 1,
        use_bias: bool = True,
        use_spatial_bias: bool = True,
        dtype: jax.typing.DTypeLike | None = None,
        param_dtype: jax.typing.DTypeLike = jnp.float32,
        precision: Precision = None,
        kernel_init: Initializer = he_uniform_bases,
        weights_init: Initializer | None = None,
        rngs: nnx.Rngs,
    ) -> None:
        sharing = sharing or ("full" if input_dependent else "row_column")
        check_choice("sharing", sharing, SHARINGS)
        check_choice("normalization", normalization, NORMALIZATIONS)
        check_count("rank", rank)
        if input_dependent and sharing != "full":
            raise ValueError(
                f"sharing is {sharing!r} and input_dependent is True; weights that depend on the "
                "input are not shared: leave sharing out, or make it 'full'"
            )
        sizes = pairs_of(kernel_size, rank, "kernel_size")
        dilations = pairs_of(kernel_dilation, rank, "kernel_dilation")
        mixed = is_mixed(kernel_size) or is_mixed(kernel_dilation)
        if mixed and not (isinstance(padding, str) and padding.upper() != "VALID"):
            raise ValueError(
                f"padding is {padding!r}; with a kernel_size or kernel_dilation for each basis it "
                "must be 'SAME', 'REFLECT' or 'CIRCULAR'"
            )
        super().__init__(
            in_features,
            out_features,
            span(sizes, dilations) if mixed else sizes[0],
            strides,
            input_size=input_size,
            padding=padding,
            kernel_dilation=1 if mixed else dilations[0],
            dtype=dtype,
            precision=precision,
        )
        self.rank = rank
        self.normalization = normalization
        self.input_dependent = input_dependent
        assert self.input_size is not None
        size = self.positions()
        self.bases: MixedBases | nnx.Param[jax.Array]
        if mixed:
            windows = [
                sliding_window(self.input_size, kernel, self.strides, padding, dilation)
                for kernel, dilation in zip(sizes, dilations, strict=True)
            ]
            self.bases = MixedBases(
                in_features,
                out_features,
                sizes,
                windows,
                kernel_init,
                param_dtype=param_dtype,
                rngs=rngs,
            )
        else:
            shape = (rank, *self.kernel_size, in_features, out_features)
            self.bases = nnx.Param(kernel_init(rngs.params(), shape, param_dtype))
        self.weights: PositionTable | CombiningNetwork
        if input_dependent:
            self.weights = CombiningNetwork(
                in_features,
                rank,
                self.input_size,
                size,
                init=weights_init,
                dtype=dtype,
                param_dtype=param_dtype,
                precision=precision,
                rngs=rngs,
            )
        else:
            self.weights = PositionTable(
                size,
                rank,
                sharing,
                weights_init or constant_start(rank, sharing),
                param_dtype=param_dtype,
                rngs=rngs,
            )
        self.spatial_bias = (
            PositionTable(size, 1, sharing, zeros, param_dtype=param_dtype, rngs=rngs)
            if use_spatial_bias
            else None
        )
        self.bias = nnx.Param(jnp.zeros((out_features,), param_dtype)) if use_bias else None

    def combining_weights(self, x: jax.Array | None = None) -> jax.Array:
        """Normalised combining weights.

        Args:
            x: the layer's input, if they depend on it.

        Returns:
            ``(rows or 1, cols or 1, K)``; 1 where they do not vary. With ``input_dependent``
            ``(batch, rows, cols, K)``.

        Raises:
            ValueError: if the weights depend on the input and there is none.
        """
        if isinstance(self.weights, PositionTable):
            return normalize(self.weights(), self.normalization)
        if x is None:
            raise ValueError("x is None; the combining weights of this layer depend on its input")
        return normalize(self.weights(x), self.normalization)

    def filters(self) -> jax.Array:
        """The filter bank of each position ``(rows or 1, cols or 1, kh, kw, in, out)``.

        Bases of mixed sizes are set into the ``kh x kw`` of the largest, among zeros.

        Raises:
            ValueError: if the combining weights depend on the input.
        """
        weights = self.combining_weights()
        if isinstance(self.bases, MixedBases):
            bases = self.bases.on(self.window())
            bases = bases.reshape(self.rank, *self.kernel_size, *bases.shape[2:])
        else:
            bases = self.bases[...]
        return fold(weights, bases, self.precision)

    def basis(self, size: Pair) -> tuple[jax.Array, Window]:
        """The bases, and their window; of mixed bases only those taps that any of them has."""
        if isinstance(self.bases, MixedBases):
            window = self.bases.window(self.window(size))
            return self.bases.on(window), window
        return self.bases[...], self.window(size)

    def product(self, x: jax.Array, size: Pair, before: Elementwise) -> jax.Array:
        """Images with the filter banks of their positions, or with all bases and then combined."""
        if self.input_dependent:
            return self.combined(x, before)
        bases, window = self.basis(size)
        operands = promote_dtype((before(x), self.combining_weights(), bases), dtype=self.dtype)
        return folded_product(*operands, window, self.precision)

    def combined(self, x: jax.Array, before: Elementwise) -> jax.Array:
        """Algorithm 1, for a few examples at a time."""
        parts = self.parts()

        def of_few(x: jax.Array) -> jax.Array:
            x = before(x)
            weights = jnp.split(self.combining_weights(x), len(parts), axis=-1)
            products = []
            for weight, (bases, window) in zip(weights, parts, strict=True):
                operands = promote_dtype((x, weight, bases), dtype=self.dtype)
                products.append(combined_product(*operands, window, self.precision))
            return functools.reduce(jnp.add, products)

        rows, cols = self.positions()
        taps = sum(len(window.taps) for _, window in parts)
        numbers = taps * self.in_features + self.rank * (self.out_features + MAPS_PER_BASIS)
        kept = rows * cols * self.rank * self.out_features
        return in_chunks(of_few, x, rows * cols * numbers, kept=kept)

    def biases(self) -> tuple[jax.Array, ...]:
        """The bias per position, and that per channel."""
        spatial = () if self.spatial_bias is None else (self.spatial_bias(),)
        return (*spatial, *channel_bias(self.bias))

    def parts(self) -> list[tuple[jax.Array, Window]]:
        """The bases ``(K, kh, kw, in, out)`` with their window; of mixed sizes, one by one."""
        if isinstance(self.bases, MixedBases):
            return self.bases.parts()
        return [(self.bases[...], self.window())]

    def multiply_adds(self) -> int:
        """Multiply-adds of the product for one example; input dependent, those with every basis.

        The network g is not counted.
        """
        window = self.window()
        if self.input_dependent:
            taps = sum(len(bases) * len(own.taps) for bases, own in self.parts())
        else:
            mixed = isinstance(self.bases, MixedBases)
            taps = len((self.bases.window(window) if mixed else window).taps)
        rows, cols = window.positions
        return rows * cols * taps * self.in_features * self.out_features
