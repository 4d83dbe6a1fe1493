"""Measures of the filter banks: how much they vary over positions, and in how many dimensions.

The filter banks of a layer, unfolded, are the rows of a matrix ``A``: one row for each output
position, with the ``kh * kw * in * out`` entries of its bank. A convolution has equal rows; LRLC of
rank K has ``A = W B``, combining weights times bases. Each measure is a function of ``A``.
"""

import functools
from collections.abc import Iterator
from typing import Any, ClassVar, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from numpy.typing import NDArray

from lrlc_jax.analysis.measures import Options, Value, measure
from lrlc_jax.analysis.steps import Part, layer_maps
from lrlc_jax.layers import LRLC, LocallyConnected, to_locally_connected
from lrlc_jax.layers.base import PatchLayer, zeros
from lrlc_jax.networks import Network

Floats: TypeAlias = NDArray[np.float64]

SHOWN_IMAGES = 6  # with their combining weights, for pictures
ROUNDING = 1e-12  # singular values below this share of the largest are rounding errors of float64


# ---- the filter banks of positions ----


def banks(layer: PatchLayer, x: jax.Array | None = None) -> tuple[Floats, Floats]:
    """The filter banks of a layer as weighted sums of bases, in float64.

    Args:
        layer: with an input size.
        x: the layer's input, for combining weights that depend on it.

    Returns:
        ``weights`` ``(images or 1, positions, K)`` and ``bases`` ``(K, kh * kw * in * out)``. Their
        product is ``A``, for each image. A locally connected layer has a base for each position,
        and a convolution has one.
    """
    if not isinstance(layer, LRLC):
        filters = np.asarray(layer.filters(), np.float64)
        bases = filters.reshape(filters.shape[0] * filters.shape[1], -1)
        weights = np.eye(len(bases)) if len(bases) > 1 else np.ones((np.prod(layer.positions()), 1))
        return weights[None], bases
    bases = np.asarray(layer.bases_on(layer.window()), np.float64).reshape(layer.rank, -1)
    weights = np.asarray(combining_weights_of(*nnx.split(layer), x), np.float64)
    weights = weights if layer.input_dependent else weights[None]
    shape = (len(weights), *layer.positions(), layer.rank)
    return np.broadcast_to(weights, shape).reshape(len(weights), -1, layer.rank), bases


@functools.partial(jax.jit, static_argnums=0)
def combining_weights_of(
    graphdef: nnx.GraphDef[LRLC], state: Any, x: jax.Array | None
) -> jax.Array:
    """The combining weights of a layer, compiled once for layers of the same structure."""
    return nnx.merge(graphdef, state).combining_weights(x)


def coordinates(layer: PatchLayer, x: jax.Array | None = None) -> Floats:
    """The filter banks of positions in an orthonormal basis of the space that the bases span.

    Norms, inner products and singular values are those of ``A``, with at most K columns instead of
    ``kh * kw * in * out``: ``B^T = Q R`` gives ``A = (W R^T) Q^T``.

    Returns:
        ``(images or 1, positions, at most K)``.
    """
    weights, bases = banks(layer, x)
    triangle = np.asarray(np.linalg.qr(bases.T, mode="r"))
    return np.asarray(weights @ triangle.T)


@jax.jit
def applied(part: Part, images: jax.Array) -> jax.Array:
    """The output of a part of a network, compiled once for networks of the same structure."""
    return part(images)


def named_layers(
    network: Network, images: jax.Array
) -> Iterator[tuple[str, PatchLayer, jax.Array | None]]:
    """``layerN``, the layer, and its input if its combining weights depend on that."""
    maps = layer_maps(network)
    for number, layer in enumerate(network.layers, start=1):
        x = None
        if depends_on_input(layer):
            x = images if number == 1 else applied(maps[f"layer{number - 1}"], images)
        yield f"layer{number}", layer, x


def depends_on_input(layer: PatchLayer) -> bool:
    """Whether the filter banks of a layer depend on its input."""
    return isinstance(layer, LRLC) and layer.input_dependent


def singular_values(rows: Floats) -> Floats:
    """Singular values of ``A``, with a row for each position of each image, descending."""
    matrix = rows.reshape(-1, rows.shape[-1])
    return np.asarray(np.linalg.svd(matrix, compute_uv=False), np.float64)


# ---- effective rank ----


def entropy_rank(values: Floats) -> float:
    """Effective rank by entropy: ``exp(-sum_i p_i log p_i)`` with ``p_i = s_i / sum_j s_j``.

    Roy and Vetterli, "The effective rank: a measure of effective dimensionality" (2007), with the
    singular values ``s`` themselves, not their squares. From 1 to the rank; equal singular values
    give the rank. 0 for a matrix of zeros.

    >>> entropy_rank(np.array([2.0, 2.0, 2.0, 0.0])), entropy_rank(np.array([5.0, 0.0]))
    (3.0, 1.0)
    """
    if not values.any():
        return 0.0
    shares = values[values > ROUNDING * values.max()]
    shares = shares / shares.sum()
    return round(float(np.exp(-np.sum(shares * np.log(shares)))), 12)


def stable_rank(values: Floats) -> float:
    """Stable rank ``|A|_F^2 / |A|_2^2 = sum_i s_i^2 / max_i s_i^2`` of the singular values ``s``.

    Rudelson and Vershynin, "Sampling from large matrices" (2007). From 1 to the rank; small
    singular values count little. 0 for a matrix of zeros.

    >>> stable_rank(np.array([2.0, 1.0, 1.0]))
    1.5
    """
    return float(np.sum((values / values.max()) ** 2)) if values.any() else 0.0


def nominal_rank(layer: PatchLayer) -> int:
    """Largest rank that ``A`` can have: 1 of a convolution, K of LRLC, all of locally connected.

    K, and all positions of a locally connected layer, but no more than the positions or the entries
    of a filter bank.
    """
    rows, cols = layer.positions()
    size = layer.kernel_size[0] * layer.kernel_size[1] * layer.in_features * layer.out_features
    if isinstance(layer, LocallyConnected):
        return min(rows * cols, size)
    return min(layer.rank, rows * cols, size) if isinstance(layer, LRLC) else 1


@measure
def effective_rank(
    network: Network, images: jax.Array, labels: jax.Array, options: Options
) -> dict[str, Value]:
    """Ranks of the filter banks of each layer over positions.

    ``layer1_nominal`` (:func:`nominal_rank`), ``layer1_entropy`` (:func:`entropy_rank`) and
    ``layer1_stable`` (:func:`stable_rank`) of ``A``. If combining weights depend on the input,
    ``A`` has a row for each position of each image of the first batch.
    """
    del labels
    found: dict[str, Value] = {}
    for name, layer, x in named_layers(network, images[: options.batch]):
        values = singular_values(coordinates(layer, x))
        found[f"{name}_nominal"] = float(nominal_rank(layer))
        found[f"{name}_entropy"] = entropy_rank(values)
        found[f"{name}_stable"] = stable_rank(values)
    return found


# ---- relaxation ----


def relaxation_of(rows: Floats) -> float:
    """Relaxation ``sqrt(mean_p |a_p - m|^2) / |m|`` of filter banks ``a_p`` with the mean ``m``.

    0 for equal filter banks, a convolution; 1 if what varies over positions is as large as what all
    positions share; ``sqrt(P - 1)`` for P orthogonal banks of equal norm; infinite for a mean of 0.
    ``r^2 / (1 + r^2)`` is the share of the banks' energy that varies.

    Args:
        rows: filter banks or their :func:`coordinates` ``(..., positions, size)``; the result is
            the mean over the leading axes.

    >>> relaxation_of(np.array([[1.0, 0.5], [1.0, -0.5]])), relaxation_of(np.eye(5))
    (0.5, 2.0)
    """
    mean = rows.mean(axis=-2, keepdims=True)
    varying = np.sqrt(np.mean(np.sum((rows - mean) ** 2, axis=-1), axis=-1))
    shared = np.sqrt(np.sum(mean**2, axis=(-2, -1)))
    with np.errstate(divide="ignore", invalid="ignore"):
        return round(float(np.mean(varying / shared)), 12)


@measure
def relaxation(
    network: Network, images: jax.Array, labels: jax.Array, options: Options
) -> dict[str, Value]:
    """Learned relaxation of the spatial invariance of each layer.

    ``layer1``: of the filter banks (:func:`relaxation_of`). If combining weights depend on the
    input, it is the mean over the images of the first batch, and ``layer1_over_images`` is the
    relaxation over images of the mean bank of an image. ``layer1_bias``: :func:`bias_relaxation`,
    absent without batch normalisation.
    """
    del labels
    found: dict[str, Value] = {}
    norms: list[Any] = [*network.norms] or [None] * len(network.layers)
    layers = named_layers(network, images[: options.batch])
    for (name, layer, x), norm in zip(layers, norms, strict=True):
        rows = coordinates(layer, x)
        found[name] = relaxation_of(rows)
        if depends_on_input(layer):
            found[f"{name}_over_images"] = relaxation_of(rows.mean(axis=1))
        if norm is not None:
            found[f"{name}_bias"] = bias_relaxation(layer, norm)
    return found


def bias_relaxation(layer: PatchLayer, norm: Any) -> float:
    """Root mean square over positions and channels of the bias less its mean over positions.

    In moving standard deviations of the channel's outputs, by its batch normalisation. From 0; 0
    for a bias per channel only.
    """
    biases = np.asarray(sum(layer.biases(), jnp.zeros((1, 1, 1))), np.float64)
    varying = biases - biases.mean(axis=(0, 1))
    deviation = np.sqrt(np.asarray(norm.var[...], np.float64) + norm.epsilon)
    return float(np.sqrt(np.mean((varying / deviation) ** 2)))


# ---- compression of a locally connected layer ----


class LRLCWithBiases(LRLC):
    """LRLC with a bias for every position and channel, which LRLC does not have."""

    BIAS_PER_POSITION: ClassVar[bool] = True


def decomposed(layer: LocallyConnected) -> tuple[Floats, Floats]:
    """``A = (U S) V^T`` of a locally connected layer by a singular value decomposition.

    Returns:
        ``U S`` ``(positions, r)`` and ``V^T`` ``(r, kh * kw * in * out)`` for the full rank r.
    """
    kernel = np.asarray(layer.filters(), np.float64)
    matrix = kernel.reshape(kernel.shape[0] * kernel.shape[1], -1)
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    return left * values, right


def compress(
    layer: LocallyConnected,
    rank: int,
    *,
    all_biases: bool = True,
    factors: tuple[Floats, Floats] | None = None,
) -> LRLC:
    """The LRLC layer of this rank with the nearest filter banks, by a singular value decomposition.

    ``A = U S V^T``; the combining weights are the first K columns of ``U S``, one for each position
    (``sharing`` full, no normalisation), and the bases the first K rows of ``V^T``. No matrix of
    rank K is nearer to ``A`` in the Frobenius norm: the squared distance is the sum of the other
    squared singular values (Eckart and Young, 1936). At full rank the outputs are equal within
    rounding.

    Args:
        layer: the locally connected layer.
        rank: K, up to the number of positions and the size of a filter bank.
        all_biases: keep the bias of each position and channel exactly, which LRLC cannot hold: its
            bias is the sum of one per position and one per channel. Otherwise the result is LRLC as
            in the paper with the nearest such sum, the means over channels and over positions.

    Raises:
        ValueError: for a rank out of range.
    """
    rows, cols, *bank = layer.kernel.shape
    largest = nominal_rank(layer)
    if not 1 <= rank <= largest:
        raise ValueError(f"rank is {rank}; this layer has ranks from 1 to {largest}")
    left, right = factors or decomposed(layer)
    biased = layer.bias is not None
    kind = LRLCWithBiases if biased and all_biases else LRLC
    compressed = kind(
        layer.in_features,
        layer.out_features,
        layer.kernel_size,
        layer.strides,
        input_size=layer.input_size,  # type: ignore[arg-type]
        rank=rank,
        sharing="full",
        normalization="none",
        kernel_dilation=layer.kernel_dilation,
        padding=layer.padding,
        use_bias=biased,
        use_spatial_bias=biased and not all_biases,
        dtype=layer.dtype,
        param_dtype=layer.kernel.dtype,
        precision=layer.precision,
        kernel_init=zeros,
        rngs=nnx.Rngs(0),
    )
    put(compressed.weights.full, left[:, :rank].reshape(rows, cols, rank))  # type: ignore[union-attr]
    put(compressed.bases, right[:rank].reshape(rank, *bank))  # type: ignore[arg-type]
    if layer.bias is not None and compressed.bias is not None:
        if all_biases:
            put(compressed.bias, layer.bias[...])
        else:
            positions, channels = additive(np.asarray(layer.bias[...], np.float64))
            put(compressed.spatial_bias.full, positions)  # type: ignore[union-attr]
            put(compressed.bias, channels)
    return compressed


def put(param: nnx.Param[jax.Array], values: Any) -> None:
    """Set a parameter."""
    param[...] = jnp.asarray(values, param.dtype)


def additive(bias: Floats) -> tuple[Floats, Floats]:
    """The nearest sum of a value per position and a value per channel, by least squares.

    Args:
        bias: ``(rows, cols, channels)``.

    Returns:
        ``(rows, cols, 1)`` and ``(channels,)``.

    >>> positions, channels = additive(np.array([[[1.0, 3.0], [2.0, 4.0]]]))
    >>> (positions + channels).tolist()
    [[[1.0, 3.0], [2.0, 4.0]]]
    """
    channels = bias.mean(axis=(0, 1))
    return bias.mean(axis=2, keepdims=True) - channels.mean(), channels


@measure
def compression(
    network: Network, images: jax.Array, labels: jax.Array, options: Options
) -> dict[str, Value]:
    """Accuracy that the locally connected layers keep as LRLC of each rank (:func:`compress`).

    Lists over ``ranks`` 1, 2, 4, ... and the full rank: ``accuracy``; ``accuracy_of_lrlc``, with
    the biases that LRLC can hold; and ``energy``, the share of the filter banks' squared norm that
    remains. ``uncompressed_accuracy`` is that of the network itself; ``bias_residual`` the share of
    the norm of the biases, less their mean, that LRLC cannot hold. Several such layers get the
    rank, or their full rank, at once. Empty without a locally connected layer.
    """
    local = {i: each for i, each in enumerate(network.layers) if isinstance(each, LocallyConnected)}
    if not local:
        return {}
    full = {i: nominal_rank(layer) for i, layer in local.items()}
    factors = {i: decomposed(layer) for i, layer in local.items()}
    energies = [np.sum(left**2, axis=0) for left, _ in factors.values()]
    ranks = [2**i for i in range(max(full.values()).bit_length()) if 2**i < max(full.values())]
    ranks.append(max(full.values()))
    found: dict[str, list[float]] = {"accuracy": [], "accuracy_of_lrlc": [], "energy": []}
    for rank in ranks:
        for name, all_biases in (("accuracy", True), ("accuracy_of_lrlc", False)):
            smaller = nnx.clone(network)
            for i, layer in local.items():
                size = min(rank, full[i])
                lrlc = compress(layer, size, all_biases=all_biases, factors=factors[i])
                # With its filters folded, so that networks of all ranks share a compiled program.
                smaller.layers[i] = to_locally_connected(lrlc)
            found[name].append(accuracy(smaller, images, labels, options.batch))
        kept = sum(float(energy[:rank].sum()) for energy in energies)
        found["energy"].append(kept / sum(float(energy.sum()) for energy in energies))
    return {
        "ranks": ranks,
        **found,
        "uncompressed_accuracy": accuracy(network, images, labels, options.batch),
        "bias_residual": [bias_residual(layer) for layer in local.values()],
    }


def bias_residual(layer: LocallyConnected) -> float:
    """Share of the norm of the biases, less their mean, that no sum as in LRLC holds."""
    if layer.bias is None:
        return 0.0
    bias = np.asarray(layer.bias[...], np.float64)
    positions, channels = additive(bias)
    whole = float(np.linalg.norm(bias - bias.mean()))
    return float(np.linalg.norm(bias - positions - channels)) / whole if whole else 0.0


def accuracy(network: Network, images: jax.Array, labels: jax.Array, batch: int) -> float:
    """Share of images that a network classifies correctly, ``batch`` at a time."""
    logits = layer_maps(network)["logits"]
    chunks = (images[start : start + batch] for start in range(0, len(images), batch))
    predicted = np.concatenate([np.asarray(applied(logits, x)).argmax(axis=-1) for x in chunks])
    return float(np.mean(predicted == np.asarray(labels)))


# ---- values for pictures ----


@measure
def combining_weights(
    network: Network, images: jax.Array, labels: jax.Array, options: Options
) -> dict[str, Value]:
    """Combining weights of each LRLC layer as maps, ``layerN`` for position N of the network.

    ``(rows, cols, K)``; for weights that depend on the input ``(images, rows, cols, K)``, of the
    first images, and ``images`` has these.
    """
    del labels, options
    found: dict[str, Value] = {}
    if any(depends_on_input(layer) for layer in network.layers):
        found["images"] = np.asarray(images[:SHOWN_IMAGES])
    for name, layer, x in named_layers(network, images[:SHOWN_IMAGES]):
        if isinstance(layer, LRLC):
            weights, _ = banks(layer, x)
            maps = weights.reshape(len(weights), *layer.positions(), layer.rank)
            found[name] = (maps if layer.input_dependent else maps[0]).astype(np.float32)
    return found


@measure
def filter_mosaic(
    network: Network, images: jax.Array, labels: jax.Array, options: Options
) -> dict[str, Value]:
    """The filter of each position, of one pair of channels, for each layer with several.

    ``layerN`` ``(rows, cols, kh, kw)`` for position N of the network: the filter from the input
    channel to the output channel whose filters vary most over positions, by the root mean square
    difference from their mean. Absent for convolutions, and for combining weights that depend on
    the input.
    """
    del images, labels, options
    found: dict[str, Value] = {}
    for number, layer in enumerate(network.layers, start=1):
        if not isinstance(layer, LocallyConnected | LRLC) or depends_on_input(layer):
            continue
        filters = np.asarray(layer.filters(), np.float32)
        shape = (*layer.positions(), *filters.shape[2:])
        spread = filters.std(axis=(0, 1)).sum(axis=(0, 1))
        source, target = np.unravel_index(np.argmax(spread), spread.shape)
        chosen = filters[..., source, target]
        found[f"layer{number}"] = np.ascontiguousarray(np.broadcast_to(chosen, shape[:4]))
    return found
