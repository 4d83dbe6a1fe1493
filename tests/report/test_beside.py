"""The figure of gains has the paper's differences from its convolution, and ours."""

import dataclasses
import math
import pathlib

import pytest

from lrlc_jax.data.dataset import DatasetConfig
from lrlc_jax.experiments.record import group
from lrlc_jax.report.beside import gains, gains_figure, nearest
from tests.experiments.examples import example

MNIST = DatasetConfig(name="mnist", source="files")
CONV, MORE = (0.970, 0.972, 0.974), (0.980, 0.982, 0.984)


def recorded(*layers, dataset=MNIST, **about):
    """Records of layers: settings, and test accuracies, which are validation accuracies too."""
    return group(
        (
            pathlib.Path(str(number)),
            example(**layer, validation=test, test=test, dataset=dataset, **about),
        )
        for number, (layer, test) in enumerate(layers)
    )


def test_a_gain_is_the_difference_from_the_convolution_at_the_chosen_rank():
    records = recorded(
        ({"name": "conv"}, CONV),
        ({"name": "lrlc", "rank": 2}, (0.90, 0.91, 0.92)),
        ({"name": "lrlc", "rank": 4}, MORE),
        ({"name": "coord_conv"}, CONV),
    )
    found = {gain.row: gain for gain in gains("mnist", nearest(records)["mnist"])}
    assert list(found) == ["LRLC (third layer)", "CoordConv"]
    lrlc = found["LRLC (third layer)"]
    assert lrlc.ours.value == pytest.approx(1.0)
    assert lrlc.paper.value == pytest.approx(99.51 - 98.84)
    # Welch's interval: equal deviations of 0.2 points, 4 degrees of freedom, t of 2.776
    assert lrlc.ours.half_width == pytest.approx(2.776 * 0.2 * math.sqrt(2 / 3), rel=1e-3)
    assert found["CoordConv"].ours.value == 0


def test_rows_without_a_value_or_a_convolution_have_no_gain():
    lost = example("lrlc", rank=4, validation=MORE, test=MORE, dataset=MNIST, failed={"1": 3})
    conv = example("conv", validation=CONV, test=CONV, dataset=MNIST)
    records = group((pathlib.Path(str(i)), record) for i, record in enumerate((lost, conv)))
    assert gains("mnist", nearest(records)["mnist"]) == []
    assert gains_figure(records) is None
    alone = recorded(({"name": "lrlc"}, MORE))
    assert gains_figure(alone) is None
    digits = recorded(({"name": "conv"}, CONV), ({"name": "lrlc"}, MORE), dataset=DatasetConfig())
    assert gains_figure(digits) is None  # the paper has none


def points(figure):
    """Horizontal places and their bars (None without one), by label of the series."""
    found = {}
    for container in figure.axes[0].containers:
        (x,) = container.lines[0].get_xdata()
        bars = container.lines[2]
        found.setdefault(container.lines[0].get_color(), []).append((x, bool(bars)))
    return found


def test_the_figure_has_both_gains_and_says_what_ours_are():
    layers = (({"name": "conv"}, CONV), ({"name": "lrlc"}, MORE))
    figure = gains_figure(recorded(*layers, train=100, available=55200))
    (theirs,), (ours,) = points(figure).values()
    assert theirs == (pytest.approx(0.67), True)
    assert ours == (pytest.approx(1.0), True)
    title = figure.axes[0].get_title()
    for words in ("MNIST", "n = 3", "SUBSET of 100", "epochs 40 instead of 150"):
        assert words in title


def test_one_seed_has_a_hollow_marker_and_no_bar():
    figure = gains_figure(recorded(({"name": "conv"}, CONV), ({"name": "lrlc"}, MORE[:1])))
    (_, theirs), (_, ours) = (series[0] for series in points(figure).values())
    assert theirs
    assert not ours
    assert "n = 1" in figure.axes[0].get_title()


def test_each_data_set_has_a_panel_in_the_papers_order():
    records = [
        record
        for name in ("celeba", "mnist")
        for layer, test in (("conv", CONV), ("lrlc", MORE))
        for record in [
            example(
                layer, validation=test, test=test, dataset=dataclasses.replace(MNIST, name=name)
            )
        ]
    ]
    figure = gains_figure(group((pathlib.Path(str(i)), r) for i, r in enumerate(records)))
    assert [axes.get_title().split()[0] for axes in figure.axes] == ["MNIST", "CelebA"]
