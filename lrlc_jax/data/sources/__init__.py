"""Where images come from: each data set by its name, in every form in which it is published."""

import pathlib
from collections.abc import Callable

from lrlc_jax.data.dataset import Dataset, DatasetConfig
from lrlc_jax.data.sources import celeba, cifar10, digits, mnist

# Reads a data set from the source that the configuration names; the folder is for what a long
# preparation wants to keep, so that another call goes on from there.
Prepare = Callable[[DatasetConfig, pathlib.Path], Dataset]

BUILTIN: dict[str, Callable[[DatasetConfig], Dataset]] = {"digits": digits.load}
PREPARED: dict[str, Prepare] = {
    "mnist": mnist.prepare,
    "cifar10": cifar10.prepare,
    "celeba": celeba.prepare,
}

CLASS_NAMES: dict[str, tuple[str, ...]] = {
    "cifar10": cifar10.CLASSES,
    "celeba": ("not male", "male"),
}

# Of complete data sets, whatever source they come from; that of CelebA nobody has told us yet.
FINGERPRINTS = {
    "mnist": "1c1f4a0a1debe7f71d42472884bf2bc6",
    "cifar10": "c165d55880eb7d4d27b4a9e9da0f78d6",
}
