"""Data sets by name, ready for training."""

from lrlc_jax.data.dataset import Dataset, DatasetConfig
from lrlc_jax.data.order import divide
from lrlc_jax.data.prepare import prepared
from lrlc_jax.data.sources import BUILTIN
from lrlc_jax.data.translate import translate


def load(config: DatasetConfig) -> Dataset:
    """The data set that the configuration names, with as many training images as it asks for.

    It is prepared first if it was not yet.

    Raises:
        InputError: if its files are missing or not what they should be, or hold fewer images.
        RunError: if it cannot be prepared here.
    """
    if config.name in BUILTIN:
        dataset = BUILTIN[config.name](config)
    else:
        dataset = divide(prepared(config), config.split)
    dataset = dataset.subset(config.train_size)
    if config.translate is None:
        return dataset
    return translate(dataset, config.translate, fresh=config.translate_train == "fresh")
