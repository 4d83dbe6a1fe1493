"""Networks and layers whose invariance is known by theory."""

import jax.numpy as jnp
import numpy as np
from flax import nnx

from lrlc_jax.layers import LRLC, ConvConfig
from lrlc_jax.networks import Network, NetworkConfig
from tests.layers.examples import random, randomize

MADE: dict[str, Network] = {}


def network(layer=None, size=12, **settings) -> Network:
    """A network of few channels with random weights and moving statistics, made once."""
    layer = layer or ConvConfig()
    key = repr((layer, size, settings))
    if key not in MADE:
        config = NetworkConfig(**{"channels": 4, **settings})
        # XLA compiles its own convolution fast.
        arguments = (size, size, 2), 5, layer, config
        made = MADE[key] = Network(*arguments, way="lax_conv", rngs=nnx.Rngs(0))
        randomize(made)
        for number, norm in enumerate(made.norms):
            norm.mean[...] = random(20 + number, 4)
            norm.var[...] = np.exp(random(30 + number, 4))
    return MADE[key]


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
        rngs=nnx.Rngs(0),
    )
    layer.bases[...] = jnp.stack([jnp.diag(jnp.eye(2)[k]) for k in (0, 1)])[:, None, None]
    sign = np.where(np.arange(size) % 2, 1.0, -1.0)[:, None] * np.ones(size)
    weights = np.stack([0.5 + contrast * sign, 0.5 - contrast * sign], axis=-1)
    layer.weights.full[...] = jnp.asarray(weights, jnp.float32)
    return layer
