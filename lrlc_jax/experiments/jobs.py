"""A study's runs, each with the data that it trains on and the identity under which it is kept."""

import dataclasses
from collections.abc import Sequence

from lrlc_jax.data import Dataset, load
from lrlc_jax.experiments.config import Config
from lrlc_jax.experiments.plan import identity, settings


@dataclasses.dataclass(frozen=True)
class Job:
    """One run that is to be done, or was."""

    config: Config
    dataset: Dataset
    identity: str


def jobs(configs: Sequence[Config], at_most_train: int | None = None) -> list[Job]:
    """The runs in the order given, each identity once. Data that several share are loaded once.

    Args:
        configs: the runs.
        at_most_train: train on this many images at most, where ``dataset.train_size`` is not set.

    Raises:
        InputError: for bad data, or a batch that is larger than the training set.
        RunError: if a data set cannot be prepared.
    """
    datasets: dict[str, Dataset] = {}
    found: dict[str, Job] = {}
    for config in configs:
        key = repr(config.dataset)
        if key not in datasets:
            dataset = load(config.dataset)
            if config.dataset.train_size is None and at_most_train is not None:
                dataset = dataset.subset(min(at_most_train, dataset.full_train_size))
            datasets[key] = dataset
        run = identity(settings(config, datasets[key]))
        found.setdefault(run, Job(config, datasets[key], run))
    return list(found.values())
