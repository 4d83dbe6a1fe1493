"""The low-rank locally connected layer with combining weights that all examples share."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn.initializers import Initializer

from lrlc_jax.layers.base import PatchLayer
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
from lrlc_jax.layers.conv import zeros
from lrlc_jax.layers.product import Padding, Precision, fold

# The fan-in of a basis filter bank is that of one convolution, whatever the rank: the first axis
# of the bases (K, kh, kw, in, out) counts neither as an input nor as part of the receptive field.
he_uniform_bases = nnx.initializers.he_uniform(batch_axis=(0,))


class LRLC(PatchLayer):
    """Low-rank local connectivity (section 3.2): ``K`` filter banks, combined at each position.

    The filter bank of a position is ``sum_k w[position, k] * bases[k]`` (equation 2). Because the
    combining weights do not depend on the example, the filter banks are folded first and then
    applied once, so that the arithmetic per image is that of a convolution at any rank. The
    authors' Algorithm 1, K convolutions and a weighted sum of their outputs, gives the same
    numbers at K times the cost.

    Parameters: ``bases`` ``(K, kh, kw, in, out)``, ``weights`` and ``spatial_bias`` (tables over
    the output positions, shared as ``sharing`` says), ``bias`` ``(out,)``.

    Args:
        in_features: channels of the input.
        out_features: channels of the output.
        kernel_size: rows and columns of the filters, one number for both or two.
        strides: steps between positions, likewise.
        input_size: rows and columns of the input.
        rank: K, the number of basis filter banks.
        sharing: ``'row_column'`` sums a weight per row and one per column (equation 3); ``'row'``
            and ``'column'`` keep one of the two; ``'full'`` has a weight for each position. The
            spatial bias is shared in the same way.
        normalization: of the weights over the basis: ``'softmax'`` (equation 4), ``'norm'`` (l2)
            or ``'none'``.
        padding: ``'VALID'``, ``'SAME'``, or zeros before and after rows and columns.
        kernel_dilation: distance between the filters' entries.
        use_bias: add a bias per channel.
        use_spatial_bias: add a bias per position (equation 5).
        dtype: type of the computation; by default that of input and parameters together.
        param_dtype: type of the parameters.
        precision: of the products, as in :func:`jax.lax.dot`.
        kernel_init: start of the bases, given the shape ``(K, kh, kw, in, out)``.
        weights_init: start of the combining weights, given ``(rows, K)``, ``(cols, K)`` or
            ``(rows, cols, K)``; by default the constant with which the layer starts as a
            convolution.
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
        kernel_size: int | Sequence[int],
        strides: int | Sequence[int] = 1,
        *,
        input_size: int | Sequence[int],
        rank: int,
        sharing: Sharing = "row_column",
        normalization: Normalization = "softmax",
        padding: Padding = "VALID",
        kernel_dilation: int | Sequence[int] = 1,
        use_bias: bool = True,
        use_spatial_bias: bool = True,
        dtype: jax.typing.DTypeLike | None = None,
        param_dtype: jax.typing.DTypeLike = jnp.float32,
        precision: Precision = None,
        kernel_init: Initializer = he_uniform_bases,
        weights_init: Initializer | None = None,
        rngs: nnx.Rngs,
    ) -> None:
        check_choice("sharing", sharing, SHARINGS)
        check_choice("normalization", normalization, NORMALIZATIONS)
        if not isinstance(rank, int) or rank < 1:
            raise ValueError(f"rank is {rank!r}; it must be a whole number of at least 1")
        super().__init__(
            in_features,
            out_features,
            kernel_size,
            strides,
            input_size=input_size,
            padding=padding,
            kernel_dilation=kernel_dilation,
            dtype=dtype,
            precision=precision,
        )
        self.rank = rank
        self.normalization = normalization
        size = self.positions()
        shape = (rank, *self.kernel_size, in_features, out_features)
        self.bases = nnx.Param(kernel_init(rngs.params(), shape, param_dtype))
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

    def combining_weights(self) -> jax.Array:
        """Normalised combining weights ``(rows or 1, cols or 1, K)``; 1 where they do not vary."""
        return normalize(self.weights(), self.normalization)

    def filters(self) -> jax.Array:
        """The filter bank of each position ``(rows or 1, cols or 1, kh, kw, in, out)``."""
        return fold(self.combining_weights(), self.bases[...])

    def __call__(self, x: jax.Array) -> jax.Array:
        """Images ``(batch, *input_size, in)`` to ``(batch, rows_out, cols_out, out)``."""
        bias = None if self.bias is None else self.bias[...][None, None, None, :]
        spatial = None if self.spatial_bias is None else self.spatial_bias()[None]
        return self.product(x, self.filters(), spatial, bias)
