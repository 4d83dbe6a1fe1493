"""The network in PyTorch: its modules and its Adam, eager or compiled by ``torch.compile``."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from benchmarks.peers import DEPTH, Array, Arrays, Step, as_one_kernel, below, dilations, kind


def parameter(value: Array) -> Any:
    """A trainable tensor."""
    return nn.Parameter(torch.tensor(np.ascontiguousarray(value)))


class Convolution(nn.Conv2d):  # type: ignore[misc]
    """A convolution with the kernel ``(kh, kw, in / groups, out)``."""

    def __init__(self, kernel: Array, bias: Array | None = None, **options: Any) -> None:
        kh, kw, channels, features = kernel.shape
        channels *= options.get("groups", 1)
        super().__init__(channels, features, (kh, kw), bias=bias is not None, **options)
        self.weight = parameter(kernel.transpose(3, 2, 0, 1))
        if bias is not None:
            self.bias = parameter(bias)


class Algorithm1(nn.Module):  # type: ignore[misc]
    """The outputs of K filter banks from one convolution, summed with weights by position."""

    def __init__(self, bases: Array) -> None:
        super().__init__()
        self.rank = len(bases)
        self.conv = Convolution(as_one_kernel(bases))

    def forward(self, x: Any, weights: Any) -> Any:
        """Outputs ``(batch, out, rows, cols)`` for weights ``(..., K, rows, cols)``."""
        y = self.conv(x)
        y = y.view(len(x), self.rank, -1, *y.shape[2:])
        return (y * weights.unsqueeze(-3)).sum(dim=1)


class LRLC(nn.Module):  # type: ignore[misc]
    """LRLC with combining weights shared by all examples."""

    def __init__(self, p: Arrays) -> None:
        super().__init__()
        self.product = Algorithm1(p["bases"])
        self.weights_row = parameter(p["weights/row"].T)
        self.weights_column = parameter(p["weights/column"].T)
        self.bias_row = parameter(p["spatial_bias/row"])
        self.bias_column = parameter(p["spatial_bias/column"].T)

    def forward(self, x: Any) -> Any:
        """The layer's output."""
        weights = self.weights_row[:, :, None] + self.weights_column[:, None, :]
        return self.product(x, weights.softmax(dim=0)) + self.bias_row + self.bias_column


class InputDependentLRLC(nn.Module):  # type: ignore[misc]
    """LRLC with combining weights from the input, by the network g."""

    def __init__(self, p: Arrays) -> None:
        super().__init__()

        def pointwise(name: str) -> Any:
            kernel, bias = p[f"weights/{name}/kernel"], p[f"weights/{name}/bias"]
            return Convolution(kernel[None, None], bias)

        def depthwise(j: int, dilation: int) -> Any:
            name = f"weights/depthwise/{j}"
            kernel, bias = p[f"{name}/kernel"].swapaxes(2, 3), p[f"{name}/bias"]
            return Convolution(kernel, bias, groups=len(bias), dilation=dilation)

        self.product = Algorithm1(p["bases"])
        self.spatial_bias = parameter(p["spatial_bias/full"][..., 0])
        self.low = pointwise("low")
        self.depthwise = nn.ModuleList(depthwise(j, d) for j, d in enumerate(dilations(p)))
        self.squeeze, self.excite = pointwise("squeeze"), pointwise("excite")
        self.proj = pointwise("proj")

    def forward(self, x: Any) -> Any:
        """The layer's output."""

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
    """A filter bank for each position."""

    def __init__(self, p: Arrays) -> None:
        super().__init__()
        rows, cols, kh, kw, channels, features = p["kernel"].shape
        kernel = p["kernel"].transpose(0, 1, 4, 2, 3, 5)  # F.unfold orders patches as (in, kh, kw)
        self.kernel = parameter(kernel.reshape(rows * cols, channels * kh * kw, features))
        self.bias = parameter(p["bias"].transpose(2, 0, 1))

    def forward(self, x: Any) -> Any:
        """The layer's output."""
        y = torch.einsum("bfl,lfo->bol", F.unfold(x, 3), self.kernel)
        return y.reshape(len(x), *self.bias.shape) + self.bias


LAYERS = {
    "conv": lambda p: Convolution(p["kernel"]),
    "lrlc": LRLC,
    "lrlc_input_dependent": InputDependentLRLC,
    "locally_connected": LocallyConnected,
}


def network(weights: Arrays) -> Any:
    """The network, with these initial parameters."""
    layers = []
    for i in range(DEPTH):
        p = below(weights, f"layers/{i}")
        scale, bias = weights[f"norms/{i}/scale"], weights[f"norms/{i}/bias"]
        norm = nn.BatchNorm2d(len(scale), eps=1e-5, momentum=0.1)  # weight of the new statistics
        norm.weight, norm.bias = parameter(scale), parameter(bias)
        layers += [LAYERS[kind(p)](p), norm, nn.ReLU()]
    kernel = weights["classifier/kernel"]
    dense = nn.Linear(*kernel.shape)
    dense.weight, dense.bias = parameter(kernel.T), parameter(weights["classifier/bias"])
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), dense)


def training_step(weights: Arrays, images: Array, labels: Array, *, compiled: bool = False) -> Step:
    """See :meth:`benchmarks.peers.Peer.training_step`."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = network(weights).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.001)
    loss_of = nn.CrossEntropyLoss()
    inputs = torch.tensor(images, device=device).permute(0, 3, 1, 2).contiguous()
    targets = torch.tensor(labels, device=device).long()
    forward = torch.compile(model) if compiled else model

    def step() -> float:
        optimizer.zero_grad()
        loss = loss_of(forward(inputs), targets)
        loss.backward()
        optimizer.step()
        return float(loss.item())  # waits for a GPU's queue, the update included

    return step
