"""Training: all seeds of a run in one jitted program."""

from lrlc_jax.training.checkpoint import Checkpoints
from lrlc_jax.training.history import EpochMetrics, History
from lrlc_jax.training.loop import DeviceData, train
from lrlc_jax.training.schedule import learning_rate

__all__ = ["Checkpoints", "DeviceData", "EpochMetrics", "History", "learning_rate", "train"]
