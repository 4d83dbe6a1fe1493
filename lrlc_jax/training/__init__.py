"""Training: all seeds of a run in one jitted program."""

from lrlc_jax.training.loop import DeviceData, EpochMetrics, History, train
from lrlc_jax.training.schedule import learning_rate

__all__ = ["DeviceData", "EpochMetrics", "History", "learning_rate", "train"]
