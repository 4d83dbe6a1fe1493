"""Layers of every kind, settings of every registered layer, and random numbers, for tests."""

import dataclasses
import functools

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import settings
from hypothesis import strategies as st

from lrlc_jax.errors import InputError
from lrlc_jax.layers import (
    LAYERS,
    LRLC,
    Conv,
    CoordConv,
    LocallyConnected,
    Site,
    SpatialBiasConv,
)
from lrlc_jax.layers.base import zeros

SIZE = (7, 6)
CHANNELS, FEATURES = 3, 4
SITE = Site(CHANNELS, FEATURES, (3, 3), (1, 1), "VALID", use_bias=True, input_size=SIZE)


def random(seed, *shape):
    """Made by numpy: jax compiles a program for each shape."""
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape, np.float32))


def randomize(module, seed=5):
    """Make every parameter random: no term of the layer is zero."""
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
    inits = ["kernel_init", "weights_init"] if layer is LRLC else ["kernel_init"]
    arguments = {"kernel_size": 3, "input_size": SIZE, **dict.fromkeys(inits, zeros)}
    arguments |= options | changes
    made = layer(CHANNELS, FEATURES, rngs=nnx.Rngs(seed), **arguments)
    randomize(made, seed)
    return made


property_test = functools.partial(settings, max_examples=2, deadline=None, derandomize=True)


def slow(value):
    """A parameter of a test that is left out by `make test`."""
    return pytest.param(value, marks=pytest.mark.slow)


def exhaustive(value):
    """A parameter of a test that is left out by `make test` and `.ci/run`."""
    return pytest.param(value, marks=[pytest.mark.slow, pytest.mark.exhaustive])


PADDINGS = ["VALID", "SAME", "REFLECT", "CIRCULAR", 1, [(0, 2), (1, 0)]]


@st.composite
def geometries(draw, paddings=PADDINGS, kernels=((1, 3), (1, 3)), strides=((1, 3), (1, 3))):
    """Arguments for the positions of the filters, in ranges (smallest, largest)."""
    kernel = draw(st.tuples(*(st.integers(*ends) for ends in kernels)))
    dilation = draw(st.tuples(st.integers(1, 2), st.integers(1, 2)))
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    return {
        "input_size": tuple(span + draw(st.integers(0, 4)) for span in spans),
        "kernel_size": kernel,
        "strides": draw(st.tuples(*(st.integers(*ends) for ends in strides))),
        "padding": draw(st.sampled_from(paddings)),
        "kernel_dilation": dilation,
    }


def images(geometry, batch=2):
    return random(0, batch, *geometry["input_size"], CHANNELS)


def same(actual, expected, tolerance=1e-4):
    np.testing.assert_allclose(actual, expected, atol=tolerance, rtol=tolerance)


def allowed(config):
    try:
        config.check()
    except InputError:
        return False
    return True


def variants():
    """Each registered layer with its defaults, and with every other word and switch.

    A change that is refused by itself is joined with the first other change that permits it.
    """
    for schema in LAYERS.values():
        default = schema()
        yield default
        changes = [
            {field.name: value}
            for field in dataclasses.fields(schema)
            for value in [
                *field.metadata.get("allowed", ()),
                *([True, False] * (field.type is bool)),
            ]
            if value != getattr(default, field.name)
        ]
        for change in changes:
            joined = [change, *(change | other for other in changes)]
            configs = (dataclasses.replace(default, **values) for values in joined)
            yield next(filter(allowed, configs))
