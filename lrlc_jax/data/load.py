"""Data sets by name."""

from collections.abc import Callable

from lrlc_jax.config import DatasetConfig
from lrlc_jax.data import cifar10, digits, mnist
from lrlc_jax.data.dataset import Dataset

DATASETS: dict[str, Callable[[DatasetConfig], Dataset]] = {
    "digits": digits.load,
    "mnist": mnist.load,
    "cifar10": cifar10.load,
}


def load(config: DatasetConfig) -> Dataset:
    """The data set that the configuration names, with as many training images as it asks for.

    Raises:
        InputError: if its files are missing or not what they should be, or hold fewer images.
    """
    return DATASETS[config.name](config).subset(config.train_size)
