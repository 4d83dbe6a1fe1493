"""The paper's numbers are those of its text, and each row is a layer of ours."""

import re

import pytest

from lrlc_jax.report.paper import margin, numbers, tables
from tests.conftest import shared

NAMES = {
    "conv": "CONVOLUTION",
    "spatial_bias": "CONVOLUTION + SPATIAL BIAS",
    "lrlc": "LRLC",
    "coord_conv": "COORDCONV",
    "locally_connected": "LOCALLY CONNECTED",
    "wide_conv": "WIDE CONVOLUTION",
    "lrlc_input_dependent": "LRLC",
}


def test_every_number_is_in_the_papers_text():
    lines = shared("reference", "lrlc_paper.txt").read_text().splitlines()
    numeric = re.compile(r"\S.*(\t\d+\.\d+ \\pm \d\.\d+)+")
    printed = iter([line for line in lines if numeric.fullmatch(line)])
    found = numbers()
    for table in [*found["tables"].values(), found["imagenet"]]:
        for row in table["rows"]:
            name, *cells = next(printed).split("\t")
            assert name.startswith(NAMES[row["layer"]])
            assert ("INPUT DEPENDENT" in name) == (row["layer"] == "lrlc_input_dependent")
            assert ("BIAS" in name) == (row["layer"] == "spatial_bias")
            assert [f"{m:.2f} \\pm {e:.2f}" for m, e in row["values"]] == cells
            at = {1: "1ST LAYER", 2: "2ND LAYER", 3: "3RD LAYER", "all": "ALL LAYERS"}
            assert at.get(row.get("at"), "") in name
    assert next(printed, None) is None


def test_each_data_set_has_a_margin_below_every_main_effect():
    conv, *_, third, _ = tables()[0].rows
    for dataset in numbers()["columns"]:
        effect = third.samples[dataset].mean - conv.samples[dataset].mean
        assert 0 < margin(dataset) < effect / 5
    assert margin("celeba-in-48") == margin("celeba")
    assert margin("digits") > 0


@pytest.mark.parametrize("table", tables(), ids=lambda table: table.number)
def test_rows_are_layers_of_the_papers_studies(table):
    for row in table.rows:
        assert list(row.samples) == numbers()["columns"]
        assert row.layer.name in NAMES
