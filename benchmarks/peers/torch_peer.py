"""The network in PyTorch: its functions and its Adam, eager or compiled by ``torch.compile``."""

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812

from benchmarks.peers import DEPTH, Array, Arrays, Step, as_one_kernel, below

Params: TypeAlias = Mapping[str, Any]


def layer(x: Any, p: Params) -> Any:
    """A layer of the kind that its parameters show."""
    if "bases" in p:  # LRLC by Algorithm 1: K filter banks in one convolution, and a weighted sum
        y = F.conv2d(x, p["bases"])
        weights = p["weights/row"].T[:, :, None] + p["weights/column"].T[:, None, :]
        y = y.view(len(y), len(weights), -1, *y.shape[2:])
        bias = p["spatial_bias/row"] + p["spatial_bias/column"].T
        return (y * weights.softmax(dim=0)[:, None]).sum(dim=1) + bias
    if "bias" in p:  # locally connected
        y = torch.einsum("bfl,lfo->bol", F.unfold(x, 3), p["kernel"])
        return y.reshape(len(x), *p["bias"].shape) + p["bias"]
    return F.conv2d(x, p["kernel"])


def layout(name: str, value: Array) -> Array:
    """A parameter in this peer's layout: channels before positions."""
    if name.endswith("/bases"):
        return as_one_kernel(value).transpose(3, 2, 0, 1)
    if value.ndim == 6:  # locally connected; F.unfold orders patches as (in, kh, kw)
        rows, cols, *_, features = value.shape
        return value.transpose(0, 1, 4, 2, 3, 5).reshape(rows * cols, -1, features)
    if value.ndim == 4:
        return value.transpose(3, 2, 0, 1)
    return value.transpose(2, 0, 1) if value.ndim == 3 else value


def training_step(weights: Arrays, images: Array, labels: Array, *, compiled: bool = False) -> Step:
    """See :meth:`benchmarks.peers.Peer.training_step`."""
    device = "cuda" if torch.cuda.is_available() else "cpu"

    def tensor(value: Array) -> Any:
        return torch.tensor(np.ascontiguousarray(value), device=device)

    params = {n: tensor(layout(n, value)).requires_grad_() for n, value in weights.items()}
    ones = [torch.ones_like(params[f"norms/{i}/scale"]) for i in range(DEPTH)]
    moving = [(torch.zeros_like(one), one) for one in ones]
    optimizer = torch.optim.Adam(params.values(), lr=0.001)
    inputs, targets = tensor(images.transpose(0, 3, 1, 2)), tensor(labels).long()

    def forward(x: Any) -> Any:
        for i in range(DEPTH):
            x = layer(x, below(params, f"layers/{i}"))
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
