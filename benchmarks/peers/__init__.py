"""One training step of the paper's network, written plainly in each of several frameworks.

These are what the product is compared with. Each is what a competent user of the framework would
write, with its own convolution, batch normalisation and Adam, where it has them; LRLC is the
paper's Algorithm 1: one convolution to K times the channels, then a sum weighted by position.
None is tuned, none held back.

All compute the same numbers from the same start. :func:`benchmarks.peers.start.start`
makes it, a flat dictionary of arrays; each peer turns them into its own layout. ``i`` is a position
of the network from 1, ``rows`` and ``cols`` are those of the layer's output, filters lie as
``(kh, kw, in, out)``, dense kernels as ``(in, out)``:

    layer{i}/kernel                            (3, 3, in, 64)              convolution
    layer{i}/kernel                            (rows, cols, 3, 3, in, 64)  locally connected
    layer{i}/bias                              (rows, cols, 64)            locally connected
    layer{i}/bases                             (K, 3, 3, in, 64)           LRLC of either kind
    layer{i}/weights_row, .../weights_column   (rows, K), (cols, K)        LRLC
    layer{i}/bias_row, .../bias_column         (rows,), (cols,)            LRLC
    layer{i}/spatial_bias                      (rows, cols)                input dependent
    layer{i}/{low,squeeze,excite,proj}/kernel  (in, out)                   1x1 convolutions of g
    layer{i}/{low,squeeze,excite,proj}/bias    (out,)
    layer{i}/dilation{d}/kernel                (3, 3, K)                   depthwise, one for each
    layer{i}/dilation{d}/bias                  (K,)                        dilation that fits
    norm{i}/scale, norm{i}/offset              (64,)                       batch normalisation
    dense/kernel, dense/bias                   (64, 10), (10,)             classifier

Nothing here imports a framework before a training step is asked for.
"""

import dataclasses
import importlib
import importlib.util
from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.peers.start import Arrays
from lrlc_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Peer:
    """One framework's way to train the network.

    Attributes:
        title: the name that people know it by.
        module: the name by which its framework is imported.
        written_in: the module of this package that has its step.
        options: what to call that with, besides what every peer takes.
    """

    title: str
    module: str
    written_in: str
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def training_step(
        self,
        layer: Mapping[str, Any],
        image_shape: tuple[int, int, int],
        batch_size: int,
        weights: Arrays | None = None,
    ) -> Callable[[], float]:
        """A function that trains for one step on the one batch, waits for it, returns the loss.

        Args:
            layer: ``{"name": "conv"}``, ``{"name": "lrlc", "at": 3, "rank": 4}``,
                ``{"name": "lrlc_input_dependent", "at": 3, "rank": 10}`` or
                ``{"name": "locally_connected", "at": 3}``; ``at`` may be a list, or ``"all"``, and
                a convolution stands elsewhere.
            image_shape: rows, columns and channels of the images.
            batch_size: how many of them.
            weights: the start, by default that of :func:`benchmarks.peers.start.start`.

        Raises:
            InputError: for another layer, or if the framework is not installed.
        """
        if importlib.util.find_spec(self.module) is None:
            raise InputError(f"{self.module} is not installed; `make peers` installs it.")
        written = importlib.import_module(f"{__name__}.{self.written_in}")
        step: Callable[[], float] = written.training_step(
            layer, image_shape, batch_size, weights, **self.options
        )
        return step


PEERS = {
    "jax_naive": Peer("JAX (Algorithm 1)", "jax", "jax_peer"),
    "tensorflow": Peer("TensorFlow", "tensorflow", "tensorflow_peer"),
    "torch": Peer("PyTorch (eager)", "torch", "torch_peer"),
    "torch_compile": Peer("PyTorch (torch.compile)", "torch", "torch_peer", {"compiled": True}),
}
