"""The network in PyTorch: its functions and its Adam, eager or compiled by ``torch.compile``."""

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812

from benchmarks.peers import DEPTH, Array, Arrays, Step, as_one_kernel, below, dilations, kind

Params: TypeAlias = Mapping[str, Any]


def algorithm_1(x: Any, kernel: Any, weights: Any) -> Any:
    """K convolutions in one, and their sum with weights ``(..., K, rows, cols)``."""
    y = F.conv2d(x, kernel)
    y = y.view(len(y), weights.shape[-3], -1, *y.shape[2:])
    return (y * weights.unsqueeze(-3)).sum(dim=1)


def lrlc(x: Any, p: Params) -> Any:
    """LRLC with combining weights shared by all examples."""
    weights = p["weights/row"].T[:, :, None] + p["weights/column"].T[:, None, :]
    bias = p["spatial_bias/row"] + p["spatial_bias/column"].T
    return algorithm_1(x, p["bases"], weights.softmax(dim=0)) + bias


def input_dependent(x: Any, p: Params) -> Any:
    """LRLC with combining weights from the input, by the network g."""

    def pointwise(x: Any, name: str) -> Any:
        return F.conv2d(x, p[f"weights/{name}/kernel"], p[f"weights/{name}/bias"])

    def resize(x: Any) -> Any:
        return F.interpolate(x, size, mode="bilinear", align_corners=True)

    size = p["spatial_bias/full"].shape
    low = pointwise(x, "low")
    mean = low.mean(dim=(2, 3), keepdim=True).expand(-1, -1, *size)
    maps = [resize(low), mean]
    for j, d in enumerate(dilations(p)):
        kernel, bias = p[f"weights/depthwise/{j}/kernel"], p[f"weights/depthwise/{j}/bias"]
        maps.append(resize(F.conv2d(low, kernel, bias, dilation=d, groups=len(bias))))
    hidden = F.relu(pointwise(torch.cat(maps, dim=1), "squeeze"))
    weights = pointwise(torch.sigmoid(pointwise(hidden, "excite")), "proj").softmax(dim=1)
    return algorithm_1(x, p["bases"], weights) + p["spatial_bias/full"]


def locally_connected(x: Any, p: Params) -> Any:
    """A filter bank for each position."""
    y = torch.einsum("bfl,lfo->bol", F.unfold(x, 3), p["kernel"])
    return y.reshape(len(x), *p["bias"].shape) + p["bias"]


LAYERS = {
    "conv": lambda x, p: F.conv2d(x, p["kernel"]),
    "lrlc": lrlc,
    "lrlc_input_dependent": input_dependent,
    "locally_connected": locally_connected,
}


def layout(name: str, value: Array) -> Array:
    """A parameter in this peer's layout: channels before positions."""
    layer, _, leaf = name.rpartition("/")
    if leaf == "bases":
        return as_one_kernel(value).transpose(3, 2, 0, 1)
    if leaf == "full":
        return value[..., 0]
    if value.ndim == 6:  # locally connected; F.unfold orders patches as (in, kh, kw)
        rows, cols, *_, features = value.shape
        return value.transpose(0, 1, 4, 2, 3, 5).reshape(rows * cols, -1, features)
    if value.ndim == 4:
        return value.transpose((2, 3, 0, 1) if "depthwise" in layer else (3, 2, 0, 1))
    if leaf == "kernel" and layer != "classifier":  # of a 1x1 convolution
        return value.T[..., None, None]
    return value.transpose(2, 0, 1) if value.ndim == 3 else value


def training_step(weights: Arrays, images: Array, labels: Array, *, compiled: bool = False) -> Step:
    """See :meth:`benchmarks.peers.Peer.training_step`."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    kinds = [kind(below(weights, f"layers/{i}")) for i in range(DEPTH)]

    def tensor(value: Array) -> Any:
        return torch.tensor(np.ascontiguousarray(value), device=device)

    params = {n: tensor(layout(n, value)).requires_grad_() for n, value in weights.items()}
    ones = [torch.ones_like(params[f"norms/{i}/scale"]) for i in range(DEPTH)]
    moving = [(torch.zeros_like(one), one) for one in ones]
    optimizer = torch.optim.Adam(params.values(), lr=0.001)
    inputs, targets = tensor(images.transpose(0, 3, 1, 2)), tensor(labels).long()

    def forward(x: Any) -> Any:
        for i, name in enumerate(kinds):
            x = LAYERS[name](x, below(params, f"layers/{i}"))
            scale, bias = params[f"norms/{i}/scale"], params[f"norms/{i}/bias"]
            x = F.relu(F.batch_norm(x, *moving[i], scale, bias, training=True, momentum=0.1))
        return x.mean(dim=(2, 3)) @ params["classifier/kernel"] + params["classifier/bias"]

    logits_of = torch.compile(forward) if compiled else forward

    def step() -> float:
        optimizer.zero_grad()
        loss = F.cross_entropy(logits_of(inputs), targets)
        loss.backward()
        optimizer.step()
        return float(loss.item())  # waits for a GPU's queue, the update included

    return step
