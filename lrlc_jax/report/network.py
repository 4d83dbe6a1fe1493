"""Geometry and cost of a network, as tables."""

from collections.abc import Iterable, Mapping

import numpy as np

from lrlc_jax.analysis.cost import Cost, Shape, abstract, connectivities, costs_by_form, total
from lrlc_jax.analysis.geometry import layer_windows, network_fields
from lrlc_jax.layers import DEPTH
from lrlc_jax.networks import COMPUTATION, Network, NetworkFactory
from lrlc_jax.report.tables import EMPTY, Table

COSTS = ("Parameters", "Multiply-adds", "Once a batch", "Activations, KiB")


def network_tables(factory: NetworkFactory) -> list[Table]:
    """Receptive fields; cost; and four layers of the size of the layer under study side by side.

    Raises:
        ValueError: if the images are too small for the layers.
    """
    network = abstract(factory)
    return [geometry_table(factory, network), cost_table(factory), side_by_side(factory, network)]


def names_of(factory: NetworkFactory) -> dict[str, str]:
    """A name for each layer, by its position."""
    titles = dict.fromkeys(factory.layer.positions, factory.layer.TITLE)
    return {str(i): f"{i} {titles.get(i, 'Convolution')}" for i in range(1, DEPTH + 1)}


def by(values: Iterable[object]) -> str:
    """Rows and columns, such as ``3x3``."""
    return "x".join(map(str, values))


def geometry_table(factory: NetworkFactory, network: Network) -> Table:
    """Kernel, stride, output, receptive field, jump and first centre; after the blur."""
    rows = []
    columns = network.layers, layer_windows(network), network_fields(network)
    for name, layer, windows, axes in zip(names_of(factory).values(), *columns, strict=True):
        sizes, jumps, centres = zip(*axes, strict=True)
        output = (*windows[-1].positions, layer.out_features)
        about = (layer.kernel_size, layer.strides, output, sizes, jumps)
        rows.append([name, *map(by, about), ", ".join(f"{centre:g}" for centre in centres)])
    return Table(
        title="Geometry",
        caption=[
            "Receptive field, and jump from one position to the next, in pixels of the image.",
            "First centre: row and column of the centre of the first position's field, from 0.",
        ],
        header=("Layer", "Kernel", "Stride", "Output", "Receptive field", "Jump", "First centre"),
        rows=rows,
    )


def numbers(cost: Cost, factory: NetworkFactory) -> list[str]:
    """The columns of ``COSTS``."""
    dtype, _ = COMPUTATION[factory.network.precision]
    size = np.dtype(dtype or np.float32).itemsize
    once = f"{cost.once:,}" if cost.once else EMPTY
    kept = f"{cost.activations * size / 1024:,.1f}"
    return [f"{cost.parameters:,}", f"{cost.multiply_adds:,}", once, kept]


def cost_table(factory: NetworkFactory) -> Table:
    """The cost of each part of the network, in each form that differs, and their sum."""
    by_form = costs_by_form(factory)
    names = names_of(factory)
    parts = {
        names.get(part, part): {form: costs[part] for form, costs in by_form.items()}
        for part in by_form["folded"]
    }
    parts["network"] = {form: total(costs.values()) for form, costs in by_form.items()}
    return Table(
        title="Cost",
        caption=[
            "Multiply-adds and activations for an image; once a batch: folding of the filters.",
            "Algorithm 1 is the paper's; folded is this library's in training; converted: locally "
            "connected, for inference.",
        ],
        header=("Layer", "Form", *COSTS),
        rows=[
            [name, form, *numbers(cost, factory)]
            for name, costs in parts.items()
            for form, cost in distinct(costs).items()
        ],
    )


def distinct(costs: Mapping[str, Cost]) -> dict[str, Cost]:
    """Costs by form, with forms of the same cost together; without a name if all are the same."""
    forms: dict[Cost, list[str]] = {}
    for form, cost in costs.items():
        forms.setdefault(cost, []).append(form)
    return {" and ".join(names) if len(forms) > 1 else "": cost for cost, names in forms.items()}


def side_by_side(factory: NetworkFactory, network: Network) -> Table:
    """Four layers with input and output of the last layer under study, without biases."""
    position = max(factory.layer.positions, default=DEPTH)
    layer = network.layers[position - 1]
    assert layer.input_size is not None
    inputs: Shape = (*layer.input_size, layer.in_features)
    outputs: Shape = (*layer.positions(), layer.out_features)
    found = connectivities(inputs, outputs, layer.kernel_size)
    sizes = f"from {by(inputs)} to {by(outputs)} with {by(layer.kernel_size)} filters"
    return Table(
        title=f"Four layers {sizes}",
        caption=["Without biases."],
        header=("Layer", *COSTS),
        rows=[[name, *numbers(cost, factory)] for name, cost in found.items()],
    )
