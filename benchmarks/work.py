"""Multiply-adds of a step: the arithmetic that a convolution-like product needs, and no more.

Counted are the products of image patches with filter banks, forward and for both gradients.
Folding filters, the network that computes combining weights, batch normalisation, pooling, the
classifier and what a framework computes twice are not: they are what an implementation adds. So a
peer's step has the number of ours, and their shares of the machine's peak compare. Those of a
network's layers are :func:`lrlc_jax.networks.products`.
"""


def forward(layers: list[int]) -> int:
    """Those of inference on one image."""
    return sum(layers)


def training(layers: list[int]) -> int:
    """Those of a training step on one image.

    Each layer has the product, the gradient of its filters, and that of its input; but nobody asks
    for the gradient of the image.

    >>> training([10, 100, 100])
    620
    """
    return 3 * sum(layers) - layers[0]
