"""Receptive fields are those of the gradient."""

import dataclasses
import itertools
import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lrlc_jax.analysis.cost import abstract
from lrlc_jax.analysis.geometry import Field, Slide, closed_form, fields, network_fields, slides_of
from lrlc_jax.layers import Conv, ConvConfig, LRLCConfig, MixedLRLCConfig
from lrlc_jax.networks import NetworkConfig, NetworkFactory
from tests.layers.examples import slow

pytestmark = pytest.mark.usefixtures("quick_compilation")


def check_fields(function, shape, expected):
    """Compare ``expected``, the fields along both axes, with the gradient of some positions.

    Without a border in reach, the gradient begins and ends where the field does; otherwise it lies
    within the field. Returns the number of positions of the first kind.
    """
    outputs = jax.eval_shape(function, jax.ShapeDtypeStruct((1, *shape), jnp.float32)).shape[1:3]
    places = list(itertools.product(*({0, n // 2, n - 1} for n in outputs)))
    chosen = np.zeros((len(places), *outputs, 1), np.float32)
    for i, place in enumerate(places):
        chosen[(i, *place)] = 1.0
    images = jnp.ones((len(places), *shape))
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(function(x) * chosen)))(images)
    whole = 0
    for place, pixels in zip(places, np.asarray(gradient).any(axis=-1), strict=True):
        ends = [field.ends(i) for field, i in zip(expected, place, strict=True)]
        seen = [np.flatnonzero(pixels.any(axis=axis)) for axis in (1, 0)]
        inside = all(a >= 0 and b < n for (a, b), n in zip(ends, shape[:2], strict=True))
        whole += inside
        for (first, last), found in zip(ends, seen, strict=True):
            assert not inside or (found[0], found[-1]) == (first, last)
            assert all(first <= pixel <= last for pixel in found)
    return whole


def test_the_field_is_the_support_of_the_gradient_of_random_stacks():
    draw, whole = random.Random(0), 0

    def pair(low, high):
        return draw.randint(low, high), draw.randint(low, high)

    for _ in range(8):
        shape = size = (36, 41)
        layers = []
        for _ in range(draw.randint(1, 4)):
            layers.append(
                Conv(
                    1,
                    1,
                    pair(1, 3),
                    pair(1, 2),
                    input_size=size,
                    kernel_dilation=pair(1, 3),
                    padding=(pair(0, 2), pair(0, 2)),
                    kernel_init=nnx.initializers.ones,
                    way="lax_conv",
                    rngs=nnx.Rngs(0),
                )
            )
            size = layers[-1].positions()

        def stack(x, layers=layers):
            for layer in layers:
                x = layer(x)
            return x

        axes = slides_of([layer.window() for layer in layers])
        whole += check_fields(stack, (*shape, 1), [closed_form(slides) for slides in axes])
    assert whole > 10  # positions without a border in reach


NETWORKS = [
    (MixedLRLCConfig(at=2, kernel_sizes=[3, [1, 2]], dilations=[1, 3]), NetworkConfig()),
    slow((LRLCConfig(at=2), NetworkConfig(kernel_size=[3, 2, 5], strides=[1, 2, 1]))),
    slow((ConvConfig(), NetworkConfig(strides=[2, 1, 2], padding="same"))),
    slow((ConvConfig(), NetworkConfig(strides=[1, 3, 1], blur=True))),
]


@pytest.mark.parametrize("settings", NETWORKS, ids=repr)
def test_the_fields_of_a_network_are_those_of_its_gradient(settings):
    layer, network = settings
    shape, changes = (30, 33, 1), {"channels": 1, "batch_norm": False, "pooling": "flatten"}
    network = dataclasses.replace(network, **changes)
    found = abstract(NetworkFactory(shape, 1, layer, network, way="lax_conv"))
    # Ones, so that no ReLU and no sum is 0; the outputs are the last map.
    ones = jax.tree.map(lambda leaf: jnp.ones(leaf.shape), nnx.state(found, nnx.Param))
    nnx.update(found, ones)
    positions = found.classifier.in_features
    found.classifier.kernel = nnx.Param(jnp.eye(positions))
    found.classifier.bias = nnx.Param(jnp.zeros(positions))
    rows = found.layers[2].positions()[0]

    def last_map(x):
        return found(x, train=False).reshape(len(x), rows, -1, 1)

    assert check_fields(last_map, shape, network_fields(found)[-1])


def test_recursion_and_closed_form_agree():
    draw = random.Random(0)
    for _ in range(300):
        slides = [
            Slide(draw.randint(1, 5), draw.randint(1, 3), draw.randint(1, 3), draw.randint(0, 4))
            for _ in range(draw.randint(0, 6))
        ]
        assert fields(slides)[-1] == closed_form(slides)


def test_the_worked_example_and_the_sums_of_equal_layers():
    found = fields([Slide(3), Slide(3, stride=2), Slide(3)])
    assert [field.size for field in found] == [1, 3, 5, 9]
    assert [field.jump for field in found] == [1, 1, 2, 2]
    assert [field.first_centre for field in found] == [0, 1, 2, 4]  # (r - 1) / 2 without padding
    assert fields([Slide(3, dilation=2)])[-1].size == 5
    assert fields([Slide(3)] * 10)[-1].size == 21
    for kernel, stride, depth in itertools.product((1, 3, 5), (2, 3), (1, 4)):
        size = 1 + (kernel - 1) * (stride**depth - 1) // (stride - 1)
        assert closed_form([Slide(kernel, stride)] * depth).size == size
    assert fields([]) == [Field(size=1, jump=1, first_centre=0)]
