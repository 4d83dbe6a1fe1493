"""Networks and layers whose invariance is known by theory."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from lrlc_jax.layers import LRLC, ConvConfig
from lrlc_jax.networks import Network, NetworkConfig
from tests.layers.examples import random

MADE: dict[str, Network] = {}


def network(layer=None, size=12, **settings) -> Network:
    """A network of few channels with random weights and moving statistics, made once."""
    layer = layer or ConvConfig()
    key = repr((layer, size, settings))
    if key not in MADE:
        config = NetworkConfig(**{"channels": 4, **settings})
        arguments = (size, size, 2), 5, layer, config
        # XLA compiles its own convolution fast, and no initializer is compiled.
        graphdef, state = nnx.split(
            nnx.eval_shape(lambda: Network(*arguments, way="lax_conv", rngs=nnx.Rngs(0)))
        )
        leaves, tree = jax.tree.flatten(state)
        values = [random(number, *leaf.shape) for number, leaf in enumerate(leaves)]
        MADE[key] = made = nnx.merge(graphdef, jax.tree.unflatten(tree, values))
        for norm in made.norms:
            norm.var[...] = jnp.exp(norm.var[...])
    return MADE[key]


def normal(_, shape, dtype) -> jax.Array:
    """An initializer by numpy, of the size of he_normal."""
    return random(len(shape), *shape).astype(dtype) * np.sqrt(2 / np.prod(shape[:-1]))


def images(count=6, size=12, channels=2):
    return random(40, count, size, size, channels)


def alternating(contrast: float, size: int = 8) -> LRLC:
    """A 1x1 layer of rank 2: each basis copies one channel, with weights 1/2 ± contrast by row."""
    layer = LRLC(
        2,
        2,
        1,
        input_size=size,
        rank=2,
        sharing="full",
        normalization="none",
        use_bias=False,
        use_spatial_bias=False,
        precision="highest",
        kernel_init=normal,
        rngs=nnx.Rngs(0),
    )
    layer.bases[...] = jnp.stack([jnp.diag(jnp.eye(2)[k]) for k in (0, 1)])[:, None, None]
    sign = np.where(np.arange(size) % 2, 1.0, -1.0)[:, None] * np.ones(size)
    weights = np.stack([0.5 + contrast * sign, 0.5 - contrast * sign], axis=-1)
    layer.weights.full[...] = jnp.asarray(weights, jnp.float32)
    return layer
