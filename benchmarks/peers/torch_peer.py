"""The network in PyTorch: its modules and its Adam, eager or compiled by ``torch.compile``."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from benchmarks.peers.start import (
    FEATURES,
    Array,
    Arrays,
    batch,
    dilations_that_fit,
    kinds,
    part,
    start,
)
from lrlc_jax.errors import InputError


def modules() -> dict[str, Callable[[Arrays], Any]]:
    """What makes each layer of its start values."""
    import torch  # noqa: PLC0415 (an optional framework, slow to import)
    import torch.nn.functional as F  # noqa: N812, PLC0415
    from torch import nn  # noqa: PLC0415

    def parameter(value: Array) -> Any:
        return nn.Parameter(torch.tensor(np.ascontiguousarray(value)))

    def conv2d(kernel: Array, bias: Array | None = None, **options: Any) -> Any:
        """A convolution with these filters ``(kh, kw, in, out)``."""
        kh, kw, channels, features = kernel.shape
        channels *= options.get("groups", 1)
        conv = nn.Conv2d(channels, features, (kh, kw), bias=bias is not None, **options)
        conv.weight = parameter(kernel.transpose(3, 2, 0, 1))
        if bias is not None:
            conv.bias = parameter(bias)
        return conv

    def convolution(p: Arrays) -> Any:
        return conv2d(p["kernel"])

    class Algorithm1(nn.Module):  # type: ignore[misc]
        """The outputs of K filter banks from one convolution, summed with weights by position."""

        def __init__(self, bases: Array) -> None:
            super().__init__()
            self.rank = len(bases)
            kernel = bases.transpose(1, 2, 3, 0, 4)
            self.conv = conv2d(kernel.reshape(*kernel.shape[:3], -1))

        def forward(self, x: Any, weights: Any) -> Any:
            y = self.conv(x)
            y = y.view(len(x), self.rank, FEATURES, *y.shape[2:])
            return (y * weights.unsqueeze(-3)).sum(dim=1)

    class LRLC(nn.Module):  # type: ignore[misc]
        """LRLC with combining weights that all examples share."""

        def __init__(self, p: Arrays) -> None:
            super().__init__()
            self.product = Algorithm1(p["bases"])
            self.weights_row = parameter(p["weights_row"].T)
            self.weights_column = parameter(p["weights_column"].T)
            self.bias_row = parameter(p["bias_row"])
            self.bias_column = parameter(p["bias_column"])

        def forward(self, x: Any) -> Any:
            weights = self.weights_row[:, :, None] + self.weights_column[:, None, :]
            bias = self.bias_row[:, None] + self.bias_column[None, :]
            return self.product(x, weights.softmax(dim=0)) + bias

    class InputDependentLRLC(nn.Module):  # type: ignore[misc]
        """LRLC with combining weights from the input, by the network g."""

        def __init__(self, p: Arrays) -> None:
            super().__init__()

            def pointwise(name: str) -> Any:
                return conv2d(p[f"{name}/kernel"][None, None], p[f"{name}/bias"])

            def depthwise(d: int) -> Any:
                kernel, bias = p[f"dilation{d}/kernel"][:, :, None], p[f"dilation{d}/bias"]
                return conv2d(kernel, bias, groups=len(bias), dilation=d)

            self.product = Algorithm1(p["bases"])
            self.spatial_bias = parameter(p["spatial_bias"])
            rows, cols = p["spatial_bias"].shape
            dilations = dilations_that_fit((rows + 2, cols + 2))
            self.low = pointwise("low")
            self.depthwise = nn.ModuleList(depthwise(d) for d in dilations)
            self.squeeze, self.excite = pointwise("squeeze"), pointwise("excite")
            self.proj = pointwise("proj")

        def forward(self, x: Any) -> Any:
            def resize(x: Any) -> Any:
                return F.interpolate(x, size, mode="bilinear", align_corners=True)

            size = self.spatial_bias.shape
            low = self.low(x)
            mean = low.mean(dim=(2, 3), keepdim=True).expand(-1, -1, *size)
            maps = [resize(low), mean, *(resize(conv(low)) for conv in self.depthwise)]
            hidden = F.relu(self.squeeze(torch.cat(maps, dim=1)))
            weights = self.proj(torch.sigmoid(self.excite(hidden))).softmax(dim=1)
            return self.product(x, weights) + self.spatial_bias

    class LocallyConnected(nn.Module):  # type: ignore[misc]
        """A filter bank for every position."""

        def __init__(self, p: Arrays) -> None:
            super().__init__()
            rows, cols, kh, kw, channels, _ = p["kernel"].shape
            kernel = p["kernel"].transpose(0, 1, 4, 2, 3, 5)  # patches lie as (in, kh, kw)
            self.kernel = parameter(kernel.reshape(rows * cols, channels * kh * kw, FEATURES))
            self.bias = parameter(p["bias"].transpose(2, 0, 1))

        def forward(self, x: Any) -> Any:
            y = torch.einsum("bfl,lfo->bol", F.unfold(x, 3), self.kernel)
            return y.reshape(len(x), *self.bias.shape) + self.bias

    return {
        "conv": convolution,
        "lrlc": LRLC,
        "lrlc_input_dependent": InputDependentLRLC,
        "locally_connected": LocallyConnected,
    }


def network(names: tuple[str, ...], weights: Arrays) -> Any:
    """The network, started from ``weights``."""
    import torch  # noqa: PLC0415
    from torch import nn  # noqa: PLC0415

    def load(target: Any, value: Array) -> None:
        with torch.no_grad():
            target.copy_(torch.tensor(value))

    makers = modules()
    layers = []
    for i, name in enumerate(names, start=1):
        norm = nn.BatchNorm2d(FEATURES, eps=1e-5, momentum=0.1)  # what is new, 1 - 0.9
        load(norm.weight, weights[f"norm{i}/scale"])
        load(norm.bias, weights[f"norm{i}/offset"])
        layers += [makers[name](part(weights, f"layer{i}")), norm, nn.ReLU()]
    dense = nn.Linear(*weights["dense/kernel"].shape)
    load(dense.weight, weights["dense/kernel"].T)
    load(dense.bias, weights["dense/bias"])
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), dense)


def training_step(
    layer: Mapping[str, Any],
    image_shape: tuple[int, int, int],
    batch_size: int,
    weights: Arrays | None = None,
    *,
    compiled: bool = False,
) -> Callable[[], float]:
    """See :meth:`benchmarks.peers.Peer.training_step`."""
    names = kinds(layer)
    import torch  # noqa: PLC0415
    from torch import nn  # noqa: PLC0415

    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = network(names, start(layer, image_shape) if weights is None else weights).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.001)
    loss_of = nn.CrossEntropyLoss()
    images, labels = (torch.tensor(each, device=device) for each in batch(image_shape, batch_size))
    images, labels = images.permute(0, 3, 1, 2).contiguous(), labels.long()
    forward = torch.compile(model) if compiled else model

    def step() -> float:
        optimizer.zero_grad()
        loss = loss_of(forward(images), labels)
        loss.backward()
        optimizer.step()
        return float(loss.item())  # waits for a GPU's queue, the update included

    done = 0

    def run() -> float:
        nonlocal done
        try:
            loss = step()
        except RuntimeError as error:
            if not compiled or done:
                raise
            reason = str(error).strip().partition("\n")[0]  # what follows is its log
            raise InputError(f"torch.compile cannot compile the network: {reason}") from error
        done += 1
        return loss

    return run
