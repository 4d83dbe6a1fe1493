"""Layers of every kind, and random numbers, for tests."""

import jax
from flax import nnx

from lrlc_jax.layers import LRLC, Conv, CoordConv, LocallyConnected, SpatialBiasConv

SIZE = (7, 6)
CHANNELS, FEATURES = 3, 4


def random(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


def randomize(module, seed=5):
    """Every parameter random, so that no term of the layer is zero."""
    for number, (_, variable) in enumerate(nnx.to_flat_state(nnx.state(module, nnx.Param))):
        variable[...] = random(seed + number, *variable.shape).astype(variable.dtype)


MIXED = {"kernel_size": [(3, 3), (2, 1)], "kernel_dilation": [(1, 1), (1, 2)], "padding": "SAME"}

KINDS = {
    "conv": (Conv, {}),
    "coord_conv": (CoordConv, {}),
    "spatial_bias": (SpatialBiasConv, {}),
    "locally_connected": (LocallyConnected, {}),
    "lrlc": (LRLC, {"rank": 2}),
    "lrlc_row": (LRLC, {"rank": 2, "sharing": "row"}),
    "lrlc_column": (LRLC, {"rank": 2, "sharing": "column"}),
    "input_dependent": (LRLC, {"rank": 2, "input_dependent": True}),
    "mixed": (LRLC, {"rank": 2, **MIXED}),
    "mixed_input_dependent": (LRLC, {"rank": 2, "input_dependent": True, **MIXED}),
}


def make(kind, seed=1, **changes):
    """A layer of a kind, with random parameters."""
    layer, options = KINDS[kind]
    arguments = {"kernel_size": 3, "input_size": SIZE, **options, **changes}
    made = layer(CHANNELS, FEATURES, rngs=nnx.Rngs(seed), **arguments)
    randomize(made, seed)
    return made
