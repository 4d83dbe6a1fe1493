"""The registry of measures of a network. A measure is one function, marked by ``@measure``."""

import dataclasses
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import numpy as np
from numpy.typing import NDArray

from lrlc_jax.analysis.translation import BORDERS, Border
from lrlc_jax.networks import Network

Value: TypeAlias = float | list[Any] | NDArray[np.floating[Any]]


@dataclasses.dataclass(frozen=True)
class Options:
    """What a measure may depend on beside the network and the images.

    Attributes:
        largest_shift: of the images, down and to the right, in pixels.
        border: what a shift moves in at the border (:func:`.translation.shifted`).
        batch: images in memory at a time.
        seed: of random numbers.
    """

    largest_shift: int = 2
    border: Border = BORDERS[0]
    batch: int = 128
    seed: int = 0


Measure: TypeAlias = Callable[[Network, jax.Array, jax.Array, Options], dict[str, Value]]

MEASURES: dict[str, Measure] = {}


def measure(function: Measure) -> Measure:
    """Register a measure by the name of its function.

    Its arguments are a network, images ``(n, rows, cols, channels)`` as floats, scaled as in
    training, their labels ``(n,)``, and :class:`Options`. It returns values by name: numbers, lists
    or arrays. A measure of weights ignores the images.
    """
    MEASURES[function.__name__] = function
    return function
