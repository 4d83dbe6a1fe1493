"""A trained network for inference: LRLC as locally connected layers, norms folded in."""

from flax import nnx

from lrlc_jax.layers import LRLC, SpatialBiasConv, fold_batch_norm, to_locally_connected
from lrlc_jax.networks import Network


def for_inference(network: Network, *, batch_norm: bool = False) -> Network:
    """A network with the same outputs in inference, in which no filters are folded any more.

    LRLC layers and convolutions with spatial bias become locally connected.

    Args:
        network: it stays as it is.
        batch_norm: fold the normalisation into the layers too, by its moving statistics. The new
            network has none, and cannot be trained as the old one would be.

    Raises:
        ValueError: if combining weights depend on the input.
    """
    converted = nnx.clone(network)
    layers = [
        to_locally_connected(layer) if isinstance(layer, LRLC | SpatialBiasConv) else layer
        for layer in converted.layers
    ]
    if batch_norm and converted.norms:
        layers = [fold_batch_norm(*pair) for pair in zip(layers, converted.norms, strict=True)]
        converted.norms = nnx.List([])
    converted.layers = nnx.List(layers)
    return converted
