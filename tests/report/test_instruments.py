"""Figures of analyses: what they show is what was measured, and they need no device."""

import os
import subprocess
import sys

import numpy as np
import pytest

from lrlc_jax.data import DatasetConfig
from lrlc_jax.experiments.analyze import AFTER, BEFORE, Analysis, folder, read_analyses, write
from lrlc_jax.report.figures import png
from lrlc_jax.report.instruments import (
    FIGURES,
    accuracy_of,
    curves,
    groups,
    instrument_figures,
    instrument_tables,
    relaxation_of,
)
from lrlc_jax.report.tables import markdown
from tests.conftest import ROOT
from tests.experiments.examples import example

SETTINGS = {"split": "test", "images": 900, "border": "wrap", "version": 1}
SHIFTS = np.abs(np.arange(-1, 2))[:, None] + np.abs(np.arange(-1, 2))[None, :]


def put(results_dir, name, relaxation=(0.0, 0.0, 0.0), compression=None, arrays=None, **record):
    """Write an analysis of three seeds."""
    made = example(name, **record)
    nominal = float(record.get("rank", 4))
    kinds = [f"layer{i}_{kind}" for i in (1, 2, 3) for kind in ("nominal", "entropy", "stable")]
    ranks = {kind: [nominal if "3" in kind else 1.0] * 3 for kind in kinds}
    measures = {
        "relaxation": {
            BEFORE: {f"layer{i}": [0.0] * 3 for i in (1, 2, 3)},
            AFTER: {f"layer{i}": [i * r for r in relaxation] for i in (1, 2, 3)},
        },
        "effective_rank": {BEFORE: ranks, AFTER: ranks},
        "equivariance": {BEFORE: {}, AFTER: {"layer3": [0.1, 0.2, 0.3]}},
    }
    if compression:
        measures["compression"] = {BEFORE: compression, AFTER: compression}
    maps = {
        "receptive_field/after/layer3_map": np.ones((3, 8, 8)),
        "equivariance/after/layer3_by_shift": np.stack([SHIFTS * 0.1] * 3),
    }
    analysis = Analysis(
        path=folder(results_dir) / made.file_name,
        record=made.file_name,
        run=made.run,
        data=made.data,
        final=made.final,
        seeds=made.seeds,
        settings=SETTINGS,
        code={},
        machine={},
        measures=measures,
    )
    arrays = {key: np.asarray(each, np.float32) for key, each in (maps | (arrays or {})).items()}
    return write(analysis, arrays)


def everything(results_dir, **record):
    """Analyses of networks of every kind, of one data set."""
    weights = "combining_weights/after"
    put(results_dir, "conv", **record)
    put(results_dir, "spatial_bias", (0.0, 0.0, 0.0), **record)
    for rank in (2, 4):
        arrays = {
            f"{weights}/layer3": np.random.default_rng(0).random((3, 2, 2, rank)),
            "filter_mosaic/after/layer3": np.ones((3, 2, 2, 3, 3)),
        }
        relaxation = (0.1 * rank, 0.2 * rank, 0.3 * rank)
        put(results_dir, "lrlc", relaxation, rank=rank, arrays=arrays, **record)
    arrays = {
        f"{weights}/layer3": np.full((3, 4, 2, 2, 2), 0.5),
        f"{weights}/images": np.random.default_rng(0).random((3, 4, 8, 8, 1)),
    }
    put(results_dir, "lrlc_input_dependent", rank=2, arrays=arrays, **record)
    compression = {
        "ranks": [[1, 2, 4]] * 3,
        "accuracy": [[0.5, 0.8, 0.9]] * 3,
        "accuracy_of_lrlc": [[0.4, 0.7, 0.8]] * 3,
        "uncompressed_accuracy": [0.9, 0.91, 0.92],
    }
    put(results_dir, "locally_connected", (2.0, 2.1, 2.2), compression=compression, **record)


def figures_of(results_dir):
    """The figures of the analyses in a results folder, by name."""
    found = instrument_figures(read_analyses(results_dir))
    return {name: figure for name, draw in found.items() if (figure := draw())}


def test_all_figures_are_drawn_and_say_what_was_measured(tmp_path):
    everything(tmp_path, train=200)
    drawn = figures_of(tmp_path)
    assert {name.split("-")[-1] for name in drawn} == {*FIGURES}
    for figure in drawn.values():
        figure.set_dpi(30)
        assert png(figure)
        for words in ("digits", "200", "SUBSET of 400", "40 epochs", "seeds 0-2", "900 test"):
            assert words in figure.get_suptitle()


def test_a_long_title_fits_has_each_note_once_and_leaves_the_panels_their_height(tmp_path):
    notes = ["PARTIAL: 13,723 of 202,599 images", "split by $person$, " + 50 * "x"]
    notes += [60 * letter for letter in "abcdef"]
    everything(tmp_path / "plain")
    everything(tmp_path / "noted", notes=notes)

    def heights(figure):
        figure.draw_without_rendering()
        extent = figure._suptitle.get_window_extent()
        assert extent.x0 >= 0
        assert extent.x1 <= figure.bbox.width
        return [axes.get_position().height * figure.get_figheight() for axes in figure.axes]

    plain, noted = (figures_of(tmp_path / name) for name in ("plain", "noted"))
    by_kind = {name.split("-")[-1]: figure for name, figure in plain.items()}
    for name, figure in noted.items():
        assert all(figure.get_suptitle().count(note) == 1 for note in notes)
        expected = heights(by_kind[name.split("-")[-1]])
        np.testing.assert_allclose(heights(figure), expected, rtol=0.12)
    for table in instrument_tables(read_analyses(tmp_path / "noted")).values():
        text = " ".join([table.title, *table.caption])
        assert all(text.count(note) == 1 for note in notes)


def test_curves_have_means_and_errors_by_rank(tmp_path):
    everything(tmp_path)
    (group,) = groups(read_analyses(tmp_path))
    ranked, others = curves(group, relaxation_of)
    # Rank 1 of LRLC is the convolution with spatial bias; layer 3 has three times the value given.
    assert {rank: mean for rank, (mean, _) in ranked["LRLC (third layer)"].items()} == {
        1: 0.0,
        2: pytest.approx(1.2),
        4: pytest.approx(2.4),
    }
    assert ranked["LRLC (third layer)"][2][1] == pytest.approx(0.6 / 3**0.5)
    assert others["Locally connected (third layer)"][0] == pytest.approx(6.3)
    accuracies, _ = curves(group, accuracy_of)
    assert accuracies["LRLC (third layer)"][4][0] == pytest.approx(89)


def test_the_plot_of_relaxation_shows_these_means(tmp_path):
    everything(tmp_path)
    drawn = figures_of(tmp_path)
    (figure,) = (figure for name, figure in drawn.items() if "relaxation" in name)
    upper, lower = figure.axes
    points = [list(map(float, line.get_ydata())) for line in upper.lines]
    assert any(np.allclose(each, [0, 1.2, 2.4]) for each in points if len(each) == 3)
    heights = [list(map(float, line.get_ydata())) for line in lower.lines]
    assert any(np.allclose(each, 89) for each in heights)


def test_networks_of_other_data_or_settings_are_not_in_one_figure(tmp_path):
    everything(tmp_path)
    put(tmp_path, "conv", fingerprint="beef")
    assert sorted(len(group.analyses) for group in groups(read_analyses(tmp_path))) == [1, 6]


def test_the_table_has_a_row_for_each_network_and_a_line_for_each_seed(tmp_path):
    everything(tmp_path)
    (table,) = instrument_tables(read_analyses(tmp_path)).values()
    assert len(table.rows) == 6
    assert len(table.values) == 18
    row = next(row for row in table.rows if row[0] == "LRLC (third layer), rank 2")
    assert row[1:4] == ["89 ± 0.58", "0", "1.2 ± 0.35"]
    values = next(line for line in table.values if line["Layer"] == row[0] and line["Seed"] == 1)
    assert values["Relaxation after"] == pytest.approx(1.2)


def test_the_table_in_the_docs_is_that_of_the_published_analyses():
    docs = (ROOT / "docs" / "instruments.md").read_text()
    tables = instrument_tables(read_analyses(ROOT / "results" / "published"))
    for table in tables.values():
        _title, _, shown = markdown(table).partition("\n")
        assert shown.strip() in docs


def test_nothing_is_drawn_without_analyses(tmp_path):
    assert instrument_figures(read_analyses(tmp_path)) == {}


def test_private_images_are_in_local_files_only(tmp_path):
    data = DatasetConfig(name="celeba", source="files", path="x")
    everything(tmp_path, dataset=data)
    local = [path for path in folder(tmp_path).iterdir() if ".local" in path.name]
    assert len(local) == 1
    private = {name for name in figures_of(tmp_path) if name.endswith(".local")}
    assert {name.split("-")[-1] for name in private} == {"weights_of_images.local"}
    local[0].unlink()  # not passed on
    for analysis in read_analyses(tmp_path):
        assert not any("images" in key for key in analysis.loaded)
    assert len(figures_of(tmp_path)) == len(FIGURES)


@pytest.mark.slow
def test_figures_need_no_device(tmp_path):
    everything(tmp_path)
    code = (
        "import sys; from lrlc_jax.report.instruments import instrument_figures; "
        "from lrlc_jax.experiments.analyze import read_analyses; "
        "found = instrument_figures(read_analyses(sys.argv[1])); "
        "print(sum(draw() is not None for draw in found.values()))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        capture_output=True,
        check=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "none"},
    )
    assert int(answer.stdout) == len(FIGURES)
