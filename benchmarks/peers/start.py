"""What every peer starts from: the layer's settings read, start values, a batch; numpy alone."""

import math
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from lrlc_jax.errors import InputError, at_least, one_of

Array: TypeAlias = npt.NDArray[Any]
Arrays: TypeAlias = Mapping[str, Array]

DEPTH = 3
FEATURES = 64
CLASSES = 10

# Which settings each layer takes besides its name; all of them must be given.
SETTINGS = {
    "conv": frozenset[str](),
    "lrlc": frozenset({"at", "rank"}),
    "lrlc_input_dependent": frozenset({"at", "rank"}),
    "locally_connected": frozenset({"at"}),
}


def kinds(layer: Mapping[str, Any]) -> tuple[str, ...]:
    """The name of the layer at each position of the network.

    Raises:
        InputError: for another layer, another setting or another position than there is.

    >>> kinds({"name": "lrlc", "at": [1, 3], "rank": 4})
    ('lrlc', 'conv', 'lrlc')
    """
    name = layer.get("name")
    one_of("layer among the peers", name, SETTINGS)
    assert name is not None
    settings = set(layer) - {"name"}
    if settings != SETTINGS[name]:
        needed = ", ".join(sorted(SETTINGS[name])) or "none"
        given = ", ".join(sorted(settings)) or "none"
        raise InputError(f"The peers' layer {name!r} takes the settings {needed}; given: {given}.")
    if "rank" in layer:
        at_least("layer.rank", layer["rank"], 1)
    return tuple(
        name if position in positions(layer) else "conv" for position in range(1, DEPTH + 1)
    )


def positions(layer: Mapping[str, Any]) -> tuple[int, ...]:
    """Where the layer stands, from 1.

    Raises:
        InputError: for a position that is not in the network.
    """
    if layer["name"] == "conv":
        return ()
    every = tuple(range(1, DEPTH + 1))
    at = layer["at"]
    if at == "all":
        return every
    chosen = tuple(at) if isinstance(at, list | tuple) else (at,)
    if not chosen or not all(type(place) is int and place in every for place in chosen):
        raise InputError(f"layer.at is {at!r}; it must be one of 1, 2, 3, a list of them, or 'all'")
    return chosen


def dilations_that_fit(size: tuple[int, int]) -> tuple[int, ...]:
    """The dilations with which a 3x3 filter fits into ``size``."""
    return tuple(d for d in (1, 2, 4, 8) if d <= (min(size) - 1) // 2)


def start(
    layer: Mapping[str, Any], image_shape: tuple[int, int, int], seed: int = 0
) -> dict[str, Array]:
    """Start values of the network, by the names and in the layouts of this package.

    Filters start from he_uniform with the fan-in of one convolution, the dense layer and all of g
    from glorot_uniform, biases from zero. Combining weights start near the constant with which an
    LRLC layer is a convolution: small random numbers are added, so that one row is not another.

    Raises:
        InputError: as :func:`kinds`, or if the images are too small for three layers.
    """
    rng = np.random.default_rng(seed)

    def uniform(limit: float, *shape: int) -> Array:
        return np.asarray(rng.uniform(-limit, limit, shape), np.float32)

    def filters(*shape: int) -> Array:
        return uniform(math.sqrt(6 / (9 * shape[-2])), *shape)

    def dense(inputs: int, outputs: int) -> Array:
        return uniform(math.sqrt(6 / (inputs + outputs)), inputs, outputs)

    def zeros(*shape: int) -> Array:
        return np.zeros(shape, np.float32)

    def table(size: int, rank: int) -> Array:
        numbers = 1 / (2 * math.sqrt(rank)) + 0.1 * rng.standard_normal((size, rank))
        return np.asarray(numbers, np.float32)

    rows, cols, channels = image_shape
    arrays: dict[str, Array] = {}
    for position, kind in enumerate(kinds(layer), start=1):
        if min(rows, cols) < 3:
            raise InputError(f"The images are {image_shape}; three layers need 7 rows and columns.")
        source, rows, cols = (rows, cols), rows - 2, cols - 2
        taps = (3, 3, channels, FEATURES)
        own: dict[str, Array]
        if kind == "conv":
            own = {"kernel": filters(*taps)}
        elif kind == "locally_connected":
            own = {"kernel": filters(rows, cols, *taps), "bias": zeros(rows, cols, FEATURES)}
        else:
            rank = layer["rank"]
            own = {"bases": filters(rank, *taps)}
            if kind == "lrlc":
                own |= {"weights_row": table(rows, rank), "weights_column": table(cols, rank)}
                own |= {"bias_row": zeros(rows), "bias_column": zeros(cols)}
            else:
                dilations = dilations_that_fit(source)
                for d in dilations:
                    limit = math.sqrt(6 / (9 * rank + 9))
                    own |= {f"dilation{d}/kernel": uniform(limit, 3, 3, rank)}
                    own |= {f"dilation{d}/bias": zeros(rank)}
                widths = {
                    "low": (channels, rank),
                    "squeeze": ((2 + len(dilations)) * rank, 3 * rank),
                    "excite": (3 * rank, 6 * rank),
                    "proj": (6 * rank, rank),
                }
                for part, (inputs, outputs) in widths.items():
                    own |= {f"{part}/kernel": dense(inputs, outputs)}
                    own |= {f"{part}/bias": zeros(outputs)}
                own |= {"spatial_bias": zeros(rows, cols)}
        arrays |= {f"layer{position}/{name}": value for name, value in own.items()}
        arrays |= {f"norm{position}/scale": np.ones(FEATURES, np.float32)}
        arrays |= {f"norm{position}/offset": zeros(FEATURES)}
        channels = FEATURES
    return arrays | {"dense/kernel": dense(FEATURES, CLASSES), "dense/bias": zeros(CLASSES)}


def part(arrays: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """The entries below a name, by the rest of their names.

    >>> part({"norm1/scale": 1, "norm2/scale": 2}, "norm2")
    {'scale': 2}
    """
    return {
        name.removeprefix(f"{prefix}/"): value
        for name, value in arrays.items()
        if name.startswith(f"{prefix}/")
    }


def batch(image_shape: tuple[int, int, int], batch_size: int) -> tuple[Array, Array]:
    """Random images ``(batch, rows, cols, channels)`` scaled to [0, 1], and their labels."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (batch_size, *image_shape), np.uint8)
    labels = rng.integers(0, CLASSES, batch_size, np.int32)
    return images.astype(np.float32) / np.float32(255), labels
