"""One training step of the paper's network, in other frameworks.

Each peer is plain code with the framework's own convolution, batch normalisation and Adam. LRLC is
the paper's Algorithm 1: one convolution to K times the channels, then a sum weighted by position.
No peer is tuned. A peer starts from the parameters of our network, given as numpy arrays by path,
and converts them to its own layout. ``rows`` and ``cols`` are the layer's output size:

    layers/{i}/kernel  (3, 3, in, out)                                       convolution
    layers/{i}/kernel  (rows, cols, 3, 3, in, out), bias (rows, cols, out)   locally connected
    layers/{i}/bases  (K, 3, 3, in, out)                                     LRLC
    layers/{i}/{weights,spatial_bias}/{row,column}  (rows or cols, K or 1)   LRLC
    norms/{i}/{scale,bias}, classifier/{kernel,bias}

This module imports no framework.
"""

import dataclasses
import importlib
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from benchmarks.worker import Timed, seconds_of, timed

Array: TypeAlias = npt.NDArray[Any]
Arrays: TypeAlias = Mapping[str, Array]
Step: TypeAlias = Callable[[], float]

DEPTH = 3
LAYERS = ("conv", "lrlc", "locally_connected")


@dataclasses.dataclass(frozen=True)
class Peer:
    """A framework's training step.

    Attributes:
        title: name in tables.
        module: import name of the framework.
        written_in: module of this package with ``training_step(params, images, labels)``.
        options: further arguments of ``training_step``.
    """

    title: str
    module: str
    written_in: str
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def training_step(self, arrays: Arrays) -> Step:
        """A function that trains for one step, waits for it, and returns the loss.

        Args:
            arrays: the initial parameters, and the batch as ``images`` and ``labels``.
        """
        written = importlib.import_module(f"{__name__}.{self.written_in}")
        params = dict(arrays)
        images, labels = params.pop("images"), params.pop("labels")
        step: Step = written.training_step(params, images, labels, **self.options)
        return step

    def compiled(self, arrays: Arrays, block_seconds: float) -> Timed:
        """A block of training steps, compiled.

        A peer compiles in its first step: its time beyond the second step counts as compiling.
        """
        step = self.training_step(arrays)
        compile_seconds = max(0.0, seconds_of(step) - seconds_of(step))
        return timed(step, block_seconds, compile_seconds)


PEERS = {
    "jax_naive": Peer("JAX (Algorithm 1)", "jax", "jax_peer"),
    "tensorflow": Peer("TensorFlow", "tensorflow", "tensorflow_peer"),
    "torch": Peer("PyTorch (eager)", "torch", "torch_peer"),
    "torch_compile": Peer("PyTorch (torch.compile)", "torch", "torch_peer", {"compiled": True}),
}


def below(arrays: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """The entries below a path, by the rest of their paths.

    >>> below({"norms/0/scale": 1, "norms/1/scale": 2}, "norms/1")
    {'scale': 2}
    """
    start = f"{prefix}/"
    return {n.removeprefix(start): value for n, value in arrays.items() if n.startswith(start)}


def as_one_kernel(bases: Array) -> Array:
    """Bases ``(K, kh, kw, in, out)`` as the kernel ``(kh, kw, in, K * out)`` of Algorithm 1."""
    kernel = np.moveaxis(bases, 0, 3)
    return kernel.reshape(*kernel.shape[:3], -1)
