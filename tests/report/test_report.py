"""Tables and figures hold the values of the records, and label every gap and difference."""

import csv
import dataclasses
import io
import itertools
import math
import os
import pathlib
import re
import shutil
import subprocess
import sys
from types import SimpleNamespace

import matplotlib as mpl
import matplotlib.figure
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrlc_jax.data import DatasetConfig, load
from lrlc_jax.errors import InputError, RunError
from lrlc_jax.experiments import record as record_files
from lrlc_jax.experiments.config import Config, StudyConfig
from lrlc_jax.experiments.record import group, read_records
from lrlc_jax.experiments.statistics import EQUAL, compare
from lrlc_jax.experiments.study import load_studies, study_layers
from lrlc_jax.layers import ConvConfig
from lrlc_jax.networks import NetworkConfig
from lrlc_jax.report.build import build, overview, status
from lrlc_jax.report.figures import (
    FIGURES,
    accuracy_against_parameters,
    accuracy_against_rank,
    cost_against_rank,
    learning_curves,
    study_figure,
)
from lrlc_jax.report.results import Cell, shown, study_results
from lrlc_jax.report.tables import (
    TABLES,
    Table,
    accuracy,
    all_runs,
    formats,
    markdown,
    study_table,
    times,
)
from tests.commands import here
from tests.conftest import ROOT
from tests.experiments.examples import example, pool

STUDY = StudyConfig(
    name="small",
    title="A small study",
    runs=[
        {"layer": "conv"},
        {"layer": "spatial_bias", "at": [3]},
        {"layer": "lrlc", "at": [3], "rank": [1, 2, 4]},
    ],
    tables=["accuracy"],
)
MENU = {study.name: study for study in load_studies(ROOT / "configs")}


def complete(**changes):
    """A record of each run of STUDY."""
    return [
        example("conv", **changes),
        example("spatial_bias", validation=(0.7, 0.7, 0.7), test=(0.71, 0.72, 0.73), **changes),
        example(rank=2, validation=(0.95, 0.95, 0.95), test=(0.5, 0.6, 0.7), **changes),
        example(rank=4, validation=(0.94, 0.94, 0.94), test=(0.9, 0.9, 0.9), **changes),
    ]


def pooled(found):
    """The content of a folder with these records."""
    return group((pathlib.Path(record.file_name), record) for record in found)


def results_of(found, *studies, requested=None):
    """Results that get a table."""
    records = pooled(found)
    every = [one for study in studies or [STUDY] for one in study_results(study, records)]
    return shown(every, requested)


def only(found, *studies):
    (results,) = results_of(found, *studies)
    return results


def line(results, start):
    """The cells of a row of the Markdown table."""
    text = markdown(accuracy(results))
    (found,) = [row for row in text.splitlines() if row.startswith(f"| {start}")]
    return [cell.strip() for cell in found.strip("|").split("|")]


def csv_lines(results):
    return list(csv.DictReader(io.StringIO(formats(accuracy(results))["csv"])))


def test_the_table_holds_mean_and_standard_error_at_the_chosen_rank():
    # mean 60 %; sample deviation 10 %, over the root of 3 seeds
    values = ["3", "100.00 ± 0.00", "-", "95.00 ± 0.00", "60.00 ± 5.77"]
    results = only(complete())
    assert line(results, "LRLC") == ["LRLC (third layer)", "2", "1,020", *values, ""]
    chosen = {r["rank"]: r["chosen"] for r in csv_lines(results) if r["row"].startswith("LRLC")}
    assert chosen == {"1": "False", "2": "True", "4": "False"}
    assert float(csv_lines(results)[-1]["test_mean"]) == pytest.approx(0.9)


def test_rank_1_may_be_chosen_and_is_the_spatial_bias():
    found = complete()
    found[1] = example("spatial_bias", validation=(0.99, 0.99, 0.99), test=(0.4, 0.4, 0.4))
    row = line(only(found), "LRLC")
    assert (row[1], row[7]) == ("1", "40.00 ± 0.00")


def test_rank_1_has_the_run_of_the_simplest_layer_in_each_row():
    runs = [
        {"layer": "wide_conv", "at": 3, "rank": [1, 2]},
        {"layer": "lrlc", "at": 3, "sharing": ["row_column", "full"], "rank": [1, 2]},
        {"layer": "lrlc_input_dependent", "at": 3, "rank": [1, 2]},
    ]
    found = [
        example("conv", test=(0.1, 0.1, 0.1)),
        example("spatial_bias", test=(0.2, 0.2, 0.2)),
        example("spatial_bias", test=(0.3, 0.3, 0.3), sharing="full"),
        *(example(name, rank=2) for name in ("wide_conv", "lrlc", "lrlc_input_dependent")),
        example(rank=2, sharing="full"),
    ]
    results = only(found, StudyConfig(name="ones", runs=runs))
    assert not results.problems
    assert results.cell_of_run.keys() == {record.identity for record in found}
    lines = csv_lines(results)
    assert [row["rank"] for row in lines] == ["1", "2"] * 4
    assert {r["row"]: float(r["test_mean"]) for r in lines if r["rank"] == "1"} == pytest.approx(
        {
            "Wide convolution (third layer)": 0.1,
            "LRLC (third layer)": 0.2,
            "LRLC (third layer), sharing full": 0.3,
            "Input-dependent LRLC (third layer)": 0.3,
        }
    )


@pytest.mark.parametrize("count", [1, 2, 3])
def test_every_run_has_a_value_or_is_labelled_in_every_form(count):
    for found in itertools.combinations(complete(), count):
        results = only(found)
        assert len(results.problems) == 4 - count
        known = {record.identity for record in found}
        for row in csv_lines(results):
            status = "ok" if row["identity"] in known else "MISSING"
            assert row["status"] == status
            assert bool(row["test_mean"]) == (status == "ok")
        for text in formats(accuracy(results)).values():
            assert "MISSING" in text
        figure = accuracy_against_rank(results)
        assert (figure is None) == (not any(row.ranked and row.chosen for row in results.rows))
        assert figure is None or f"{4 - count} OF 4 RUNS" in figure.get_suptitle()
        for row, text in zip(results.rows, accuracy(results).rows, strict=True):
            missing = [cell for cell in row.cells if cell.run is None]
            assert text[-1].count("MISSING") == len(missing)
            assert (text[7] == "-") == (len(missing) == len(row.cells))


def test_a_failed_run_is_labelled_and_never_chosen():
    found = complete()
    found[2] = example(rank=2, validation=(1.0, None, 1.0), test=(0.5, None, 0.7), failed={"1": 3})
    row = line(only(found), "LRLC")
    assert row[1] == "4"
    assert "rank 2 FAILED (1 of 3 seeds: 1)" in row[-1]


def test_runs_of_different_data_size_network_or_options_never_share_a_table():
    celeba = [
        DatasetConfig("celeba"),
        DatasetConfig("celeba", translate=48),
        DatasetConfig("celeba", translate=48, translate_train="fresh"),
    ]
    changes = [
        {},
        {"fingerprint": "beef"},
        {"train": 100},
        {"network": NetworkConfig(padding="same", blur=True)},
        *({"dataset": dataset, "fingerprint": str(i)} for i, dataset in enumerate(celeba)),
    ]
    groups = [complete(**change) for change in changes]
    conv, bias, *_ = groups[0]
    norm = [example(rank=rank, normalization="norm") for rank in (1, 2, 4)]
    results = results_of([*itertools.chain(*groups), *norm])
    assert len({one.name for one in results}) == len(results) == len(changes) + 1
    found = sorted(sorted(one.cell_of_run) for one in results)
    expected = [*groups, [conv, bias, *norm]]
    assert found == sorted(sorted(record.identity for record in group) for group in expected)
    assert not any(one.problems for one in results)
    assert sum("-in-48-" in one.name for one in results) == 2
    titles = {accuracy(one).title for one in results if one.setting["dataset"]["name"] == "celeba"}
    assert len(titles) == 3


def test_options_of_layers_other_than_lrlc_have_tables_of_their_own_too():
    study = StudyConfig(runs=[{"layer": "conv"}, {"layer": "locally_connected", "at": [3]}])
    found = [
        example("conv"),
        *(example("locally_connected", fan_in=f) for f in ("keras", "position")),
    ]
    assert [one.problems for one in results_of(found, study)] == [[], []]


def test_differences_from_the_paper_and_from_the_published_data_are_labelled_everywhere():
    notes = ["PARTIAL: 13 of 202 images", "split by person, not the official split"]
    network = NetworkConfig(padding="same", blur=True)
    found = complete(dataset=DatasetConfig("celeba"), notes=notes, train=100, network=network)
    results = only(found)
    figure_title = accuracy_against_rank(results).get_suptitle()
    network_words = ["padding same instead of valid", "blur True instead of False"]
    table = formats(accuracy(results))
    for text in (table["md"], table["tex"], markdown(all_runs(pooled(found))), figure_title):
        for words in (*notes, *network_words, "SUBSET"):
            assert words in text
    for text in (table["md"], table["tex"]):
        assert "NOT THE PAPER'S PROTOCOL: epochs 40 instead of 150" in text
        assert "3 seeds instead of 10" in text


def test_a_wide_convolution_also_has_the_parameter_count_that_it_matches():
    wide = dataclasses.replace(example("wide_conv"), matched_parameters=777)
    study = StudyConfig(runs=[{"layer": "wide_conv", "at": 3, "rank": [4]}])
    assert line(only([wide], study), "Wide")[2] == "1,040 (LRLC: 777)"


def test_latex_has_the_columns_of_its_header_in_every_row_and_its_caption():
    study = dataclasses.replace(STUDY, title="A & B_c at 5 %")
    table = accuracy(only(complete(), study))
    text = formats(table)["tex"]
    rows = [row for row in text.splitlines() if row.endswith(r"\\")]
    assert {row.count(" & ") for row in rows} == {8}
    assert r"60.00 $\pm$ 5.77" in text
    assert "%" not in text.replace(r"\%", "")
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == 1
    (caption,) = [row for row in text.splitlines() if row.startswith(r"\caption{")]
    assert all(words in caption for words in ("A \\& B\\_c", "NOT THE PAPER'S PROTOCOL"))


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="LaTeX is not installed")
def test_latex_compiles(tmp_path):
    odd = dataclasses.replace(STUDY, title=r"\input{x} ~ ^ < > $ # _ { } & %")
    results = only([example(notes=["PARTIAL: 5 % | x_1"]), *complete()[:2]], odd)
    body = formats(accuracy(results))["tex"]
    document = (
        rf"\documentclass{{article}}\usepackage{{booktabs}}\begin{{document}}{body}\end{{document}}"
    )
    (tmp_path / "table.tex").write_text(document)
    command = ["pdflatex", "-halt-on-error", "table.tex"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)


def test_further_metrics_of_a_record_are_kept_and_only_shared_metrics_are_compared():
    plain = example("conv")
    final = plain.final | {"test_top5": [0.9, 0.91, 0.92]}
    more = dataclasses.replace(plain, final=final)
    study = StudyConfig(runs=[{"layer": "conv"}])
    assert float(csv_lines(only([more], study))[0]["test_top5_mean"]) == pytest.approx(0.91)
    assert compare(plain, more).verdict == EQUAL


def test_rows_with_different_seeds_say_so_loudly_in_every_form():
    found = complete()
    found[0] = example("conv", validation=(0.9, 0.9), test=(0.5, 0.7), seeds=[0, 1])
    results = only(found)
    assert line(results, "Convolution  ")[3] == "2"
    assert "2 OF 3 SEEDS" in line(results, "Convolution  ")[-1]
    values = ["3", "100.00 ± 0.00", "-", "95.00 ± 0.00", "60.00 ± 5.77", ""]
    assert line(results, "LRLC")[3:] == values
    assert {row["seeds"] for row in csv_lines(results)} == {"2", "3"}
    for ending in ("md", "tex"):
        text = formats(accuracy(results))[ending]
        for words in ("2 OF 3 SEEDS", "2 TO 3 SEEDS", "2 to 3 seeds instead of 10"):
            assert words in text
    assert "2 TO 3 SEEDS" in accuracy_against_rank(results).get_suptitle()
    assert "SEEDS" not in markdown(accuracy(only(complete())))
    found[0] = example("conv", seeds=[0, 1, 7])
    assert "NOT THE SAME" in markdown(accuracy(only(found)))


def test_the_rank_is_chosen_among_those_with_the_most_seeds():
    """One seed of a rank with a higher validation accuracy does not replace two of another."""
    two = example("lrlc", rank=2, validation=(0.8, 0.8), test=(0.7, 0.7), seeds=[0, 1])
    for seeds, rank in (([0], 2), ([0, 1], 4)):
        accuracy = (0.9,) * len(seeds)
        four = example("lrlc", rank=4, validation=accuracy, test=accuracy, seeds=seeds)
        study = StudyConfig(runs=[{"layer": "lrlc", "at": 3, "rank": [2, 4]}])
        (row,) = only([two, four], study).rows
        assert row.chosen.rank == rank
        assert {cell.rank for cell in row.candidates} == ({2} if rank == 2 else {2, 4})


def test_seeds_of_several_records_are_one_row_and_one_line_of_the_csv():
    parts = [
        example("conv", validation=(0.9,), test=(value,), seeds=[seed])
        for seed, value in ((0, 0.5), (4, 0.7))
    ]
    results = only([*parts, *complete()[1:]])
    assert line(results, "Convolution  ")[3] == "2"
    assert line(results, "Convolution  ")[7] == "60.00 ± 10.00"
    assert len(csv_lines(results)) == len(csv_lines(only(complete())))


# The choice of tables.


def layers_of(name, options):
    """Layers of a study and of the studies that it includes, each with its study."""
    study = MENU[name]
    own = [
        (study, layer.simplest()) for layer in (study_layers(study, options) if study.runs else [])
    ]
    return own + [pair for included in study.includes for pair in layers_of(included, options)]


def records_of(name, **options):
    """A record of each run of a study of the menu, with options of the layers."""
    found = {}
    for study, layer in layers_of(name, options):
        data = {"dataset": DatasetConfig(**study.dataset)} if study.dataset else {}
        fingerprint = "moved" if study.dataset else "f00d"
        record = example(**dataclasses.asdict(layer), **data, fingerprint=fingerprint)
        found[record.identity] = record
    return list(found.values())


def test_the_papers_records_fill_the_papers_tables_and_no_others():
    found = results_of(records_of("paper"), *MENU.values())
    of_data = {"essentials", "quick", "table1", "table2", "table3", "figure3", "figure4", "figure5"}
    of_data |= {f"supplement_{name}" for name in ("start", "sharing", "wide", "cost")}
    of_translated = {"supplement_translated", "table3", "figure5"}
    assert {(one.study.name, one.setting["dataset"].get("translate")) for one in found} == {
        *((name, None) for name in of_data),
        *((name, 48) for name in of_translated),
    }
    assert not any(one.problems or one.options for one in found)


def test_a_study_of_two_values_of_an_option_has_both_in_one_table():
    found = results_of(records_of("supplement_start"), *MENU.values())
    (results,) = [one for one in found if one.study.name == "supplement_start"]
    rows = {row.name: [cell.rank for cell in row.cells] for row in results.rows}
    assert rows["LRLC (third layer)"] == rows["LRLC (third layer), weights_init random"]
    assert len(rows) == 3
    assert not results.problems


def test_a_study_with_other_options_has_a_table_unless_another_study_asks_for_them_itself():
    random = records_of("table3", weights_init="random")
    found = results_of(random, *MENU.values())
    (results,) = [one for one in found if one.study.name == "table3"]
    assert (results.options, results.problems) == ({"weights_init": "random"}, [])
    assert "supplement_start" not in {one.study.name for one in found}

    both = {record.identity: record for record in records_of("paper") + random}.values()
    assert not any(one.options for one in results_of(both, *MENU.values()))
    requested = {"table3": {record.identity for record in random}}
    found = results_of(both, *MENU.values(), requested=requested)
    assert [one.study.name for one in found if one.options] == ["table3"]


def test_an_incomplete_table_is_hidden_if_fuller_tables_contain_all_of_its_runs():
    more = {"layer": "lrlc", "at": [1], "rank": 2}
    larger = StudyConfig(name="larger", runs=[*STUDY.runs, more])
    assert [one.study.name for one in results_of(complete(), larger, STUDY)] == ["small"]
    found = results_of([*complete(), example(at=1, rank=2)], larger, STUDY)
    assert [(one.study.name, one.problems) for one in found] == [("larger", []), ("small", [])]
    part = results_of([*complete()[:3], example(at=1, rank=2)], larger, STUDY)
    assert [(one.study.name, len(one.problems)) for one in part] == [("larger", 1)]
    conv = [example("conv"), example("spatial_bias")]
    norm = [example(rank=rank, normalization="norm") for rank in (1, 2, 4)]
    assert only([*conv, *norm]).options == {"normalization": "norm"}


OPTIONS = StudyConfig(
    name="options",
    runs=[{"layer": "lrlc", "at": [3], "normalization": ["softmax", "norm"], "rank": [2, 4]}],
)
POOL = [
    *complete(),
    *(example(rank=rank, normalization="norm") for rank in (1, 2, 4)),
    *(example("conv", train=100), example(rank=2, train=100)),
]


def test_an_incomplete_table_is_hidden_if_another_has_all_of_its_runs_and_more():
    few = StudyConfig(name="few", runs=[{"layer": "conv"}, {"layer": "coord_conv"}])
    many = [{"layer": "locally_connected", "at": at} for at in (1, 2, 3)]
    large = StudyConfig(name="large", runs=[{"layer": "conv"}, {"layer": "lrlc", "rank": 4}, *many])
    conv, lrlc = example("conv"), example(rank=4)
    (shown,) = results_of([conv, lrlc], few, large)  # with three gaps, beside one
    assert shown.study.name == "large"
    both = results_of([conv, lrlc, example("coord_conv")], few, large)
    assert {one.study.name for one in both} == {"few", "large"}


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(POOL), min_size=1, unique_by=lambda record: record.identity))
def test_every_run_of_a_study_is_in_a_table(found):
    studies = (STUDY, OPTIONS)
    every = [one for study in studies for one in study_results(study, pooled(found))]
    kept = shown(every)
    assert {run for one in kept for run in one.known} == {run for one in every for run in one.known}
    assert all(one in kept for one in every if not one.problems and not one.options)


# Figures.


def drawn(results):
    """Lines and curves of a figure by name, and the ranks in black."""
    axes = accuracy_against_rank(results).axes[0]
    lines = {line.get_label(): line.get_linestyle() for line in axes.lines}
    curves = {c.get_label(): c.lines[0].get_xdata() for c in axes.containers}
    black = [
        line for line in axes.lines if line.get_color() == "black" and line.get_marker() != "None"
    ]
    return lines, curves, [round(float(line.get_xdata()[0])) for line in black]


def test_a_figure_has_a_curve_for_each_ranked_row_and_a_line_for_each_other():
    found = results_of(records_of("figure4"), MENU["figure4"])
    lines, curves, _ = drawn(*found)
    assert {name: len(xs) for name, xs in curves.items()} == {
        "LRLC (third layer)": 12,
        "Wide convolution (third layer)": 12,
    }
    assert lines["Convolution"] == ":"
    places = ("first", "second", "third")
    assert {name for name, style in lines.items() if style == "--"} == {
        "CoordConv",
        *(f"Locally connected ({place} layer)" for place in places),
    }


def test_rank_1_of_a_curve_is_no_line_and_the_chosen_rank_is_black():
    lines, _, black = drawn(only(complete()))
    assert "Convolution" in lines
    assert "Convolution + spatial bias (third layer)" not in lines
    assert black == [2]


def study_with(*found):
    """Results of the runs of these records, with the ranks of a study."""
    runs = [
        {"layer": "conv"},
        {"layer": "lrlc", "at": 3, "rank": [1, 2, 4, 8, 16]},
        {"layer": "locally_connected", "at": 3},
    ]
    return only(found, StudyConfig(name="ranks", runs=runs))


def scored(name, *test, rank=4, **changes):
    """A record with these test accuracies; LRLC of rank 1 is the spatial bias."""
    name = "spatial_bias" if (name, rank) == ("lrlc", 1) else name
    return example(name, rank=rank, test=test, validation=test, **changes)


FIGURES_OF_ACCURACY = [accuracy_against_rank, accuracy_against_parameters]


@pytest.mark.parametrize("figure", FIGURES_OF_ACCURACY)
@pytest.mark.parametrize("lost", [{}, {"failed": {"1": 3}}])
def test_a_curve_has_a_gap_at_a_rank_without_a_value(figure, lost):
    found = [scored("lrlc", 0.8, 0.82, 0.81, rank=rank) for rank in (1, 2, 8, 16)]
    found += [scored("lrlc", 0.8, None, 0.81, **lost)] if lost else []
    (axes,) = figure(study_with(*found)).axes
    (curve,) = axes.containers
    assert [math.isnan(y) for y in curve.lines[0].get_ydata()] == [False, False, True, False, False]


@pytest.mark.parametrize("figure", FIGURES_OF_ACCURACY)
@pytest.mark.parametrize("poor", [0.6, 0.785])
def test_a_poor_baseline_does_not_squeeze_the_curves(figure, poor):
    """It has a part of the axis of its own, unless the curves have half of the axis with it."""
    rising = {1: 0.8, 2: 0.81, 4: 0.82, 8: 0.825, 16: 0.83}
    found = [scored("lrlc", value, value + 0.01, rank=rank) for rank, value in rising.items()]
    found += [scored("conv", 0.79, 0.8), scored("locally_connected", poor, poor)]
    upper, *lower = figure(study_with(*found)).axes
    assert len(lower) == (poor == 0.6)
    low, high = upper.get_ylim()
    curve = upper.containers[0].lines[0].get_ydata()
    assert low < curve.min() <= curve.max() < high
    assert curve.max() - curve.min() > 0.4 * (high - low)
    for axes in lower:
        assert axes.get_ylim()[0] < 100 * poor < axes.get_ylim()[1] <= low


@pytest.mark.parametrize("figure", FIGURES_OF_ACCURACY)
def test_equal_values_above_a_break_have_an_axis(figure):
    found = [scored("lrlc", 0.9, rank=2), scored("conv", 0.9), scored("locally_connected", 0.895)]
    upper, lower = figure(study_with(*found)).axes
    assert lower.get_ylim()[0] < 89.5 < lower.get_ylim()[1] <= upper.get_ylim()[0] < 90


@pytest.mark.parametrize("figure", FIGURES_OF_ACCURACY)
def test_a_figure_says_what_it_shows(figure):
    text = figure(only(complete(train=100), STUDY)).get_suptitle()
    for words in (
        "digits",
        "100",
        "SUBSET of 400",
        "40 epochs",
        "n = 3 seeds",
        "± 1 standard error",
    ):
        assert words in text
    protocol = " ".join(text.split())
    assert "NOT THE PAPER'S PROTOCOL: epochs 40 instead of 150, warmup" in protocol
    assert "3 seeds instead of 10" in protocol
    one = [scored("conv", 0.9), scored("lrlc", 0.9, rank=2)]
    assert "± 1 standard error" not in figure(only(one, STUDY)).get_suptitle()


def test_accuracy_is_against_the_parameters_on_record():
    axes = accuracy_against_parameters(only(complete())).axes[0]
    curve = next(c for c in axes.containers if c.get_label() == "LRLC (third layer)")
    assert [*curve.lines[0].get_xdata()] == [record.parameters for record in complete()[1:]]


def test_learning_curves_have_a_point_for_each_epoch_with_a_value():
    found = complete()
    rows = [[0.8, 0.9, None] if i % 10 == 0 else [None] * 3 for i in range(1, 41)]
    epochs = found[0].epochs | {"validation_accuracy": rows, "train_loss": [[0.5, 0.3, 0.1]] * 40}
    found[0] = dataclasses.replace(found[0], epochs=epochs)
    loss, error = learning_curves(only(found)).axes
    curves = {line.get_label(): line for line in error.lines}
    assert [*curves] == [
        "Convolution",
        "Convolution + spatial bias (third layer)",
        "LRLC (third layer)",
    ]
    assert [*curves["Convolution"].get_xdata()] == [10, 20, 30, 40]
    assert [*curves["Convolution"].get_ydata()] == pytest.approx([15] * 4)
    assert [*loss.lines[0].get_ydata()] == pytest.approx([0.3] * 40)


def test_times_are_those_of_a_seed_by_device():
    def recorded(seeds, seconds, device):
        accuracies = [0.9] * len(seeds)
        record = example("conv", seeds=seeds, validation=accuracies, test=accuracies)
        time = record.time | {"wall_seconds": seconds}
        return dataclasses.replace(record, time=time, machine={"device": device})

    one, two = recorded([0, 1], 30.0, "cpu"), recorded([2], 1.0, "cpu")
    other = recorded([3], 1.0, "gpu")
    table = times(only([one, two, other]))
    assert [row[1:3] for row in table.rows] == [["cpu", "3"], ["gpu", "1"]]
    assert table.rows[0][4] == "8.0 (1.0 to 15.0)"
    assert table.rows[1][4] == "1.0"
    assert [line["seconds"] for line in table.values] == [15.0, 1.0, 1.0]


def test_the_cost_of_four_layers_needs_one_record_and_no_result():
    results = only([scored("conv", 0.9)], MENU["supplement_cost"])
    figure = cost_against_rank(results)
    parameters, multiply_adds = (
        {line.get_label(): [*line.get_ydata()] for line in axes.lines} for axes in figure.axes
    )
    ranks = [1, 2, 3, 4, 5, 6, 7, 10, 15, 20, 25, 30]
    convolution = 9 * 64 * 64
    of_one = {name: values[0] for name, values in multiply_adds.items()}
    assert of_one["convolution"] == of_one["locally connected"] == of_one["LRLC converted"]
    assert of_one["convolution"] == 4 * convolution  # 2x2 positions of the digits' third layer
    assert parameters["convolution"] == [convolution] * len(ranks)
    assert parameters["LRLC converted"] == parameters["locally connected"]
    weights = 2 + 2  # of rows and columns; as many spatial biases
    expected = [rank * (convolution + weights) + weights for rank in ranks]
    assert parameters["LRLC by Algorithm 1"] == expected
    expected = [4 * rank * (convolution + 64) for rank in ranks]
    assert multiply_adds["LRLC by Algorithm 1"] == expected


# Files.


def write(folder, found):
    return [record_files.write(record, folder) for record in found][-1]


def contents(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_the_same_records_give_the_same_bytes_and_a_bad_record_changes_nothing(tmp_path):
    last = write(tmp_path, complete())
    report = build([STUDY], str(tmp_path))
    first = contents(tmp_path)
    tables, figures = {".md", ".csv", ".tex"}, {".png", ".pdf"}
    assert {path.suffix for path in first} == {".json", ".html", *tables, *figures}
    assert {path.relative_to(tmp_path) for path in report.files} == {
        path for path in first if path.suffix != ".json"
    }
    build([STUDY], str(tmp_path))
    assert contents(tmp_path) == first
    last.write_text("{")
    with pytest.raises(InputError):
        build([STUDY], str(tmp_path))
    assert contents(tmp_path) == first | {last.relative_to(tmp_path): b"{"}


@pytest.mark.slow
def test_processes_that_share_the_figures_change_no_byte(tmp_path):
    for folder in ("one", "shared"):
        write(tmp_path / folder, records_of("essentials"))
    here(tmp_path, "tables", "results_dir=one")
    program = (
        "import runpy, sys; from lrlc_jax.report import forks; forks.usable = lambda: 3; "
        "sys.argv[1:] = ['results_dir=shared']; "
        f"runpy.run_path({str(ROOT / 'scripts' / 'tables.py')!r}, run_name='__main__')"
    )
    subprocess.run(
        [sys.executable, "-c", program], check=True, cwd=tmp_path, stdout=subprocess.DEVNULL
    )
    found = contents(tmp_path / "one")
    assert len([path for path in found if path.suffix == ".png"]) > 1
    assert contents(tmp_path / "shared") == found


def test_a_registered_table_and_figure_that_a_study_names_are_written(tmp_path, monkeypatch):
    monkeypatch.setitem(TABLES, "sizes", None)  # removed again after the test
    monkeypatch.setitem(FIGURES, "empty_axes", None)
    monkeypatch.setitem(FIGURES, "nothing", None)

    @study_table
    def sizes(results):
        rows = [[row.name, str(row.cells[0].run.parameters)] for row in results.rows]
        return Table(
            "Sizes", [], ("Layer", "Size"), rows, [{"row": name} for name, _ in rows], "lr"
        )

    @study_figure
    def empty_axes(results):
        assert results.study.name == "small"
        figure = matplotlib.figure.Figure()
        figure.add_subplot()
        return figure

    @study_figure
    def nothing(results):
        del results

    write(tmp_path, complete())
    study = dataclasses.replace(STUDY, tables=["sizes"], figures=["empty_axes", "nothing"])
    names = [path.name for path in build([study], str(tmp_path)).files]
    (name,) = {name.partition("-sizes")[0] for name in names if "-sizes" in name}
    expected = [f"{name}-sizes.{ending}" for ending in ("md", "csv", "tex")]
    expected += [f"{name}-empty_axes.{ending}" for ending in ("png", "pdf")]
    assert {name for name in names if name.startswith("small-")} == {*expected}
    assert "| Convolution " in (tmp_path / "tables" / f"{name}-sizes.md").read_text()


def test_settings_of_matplotlib_change_no_byte(tmp_path):
    write(tmp_path, complete())
    study = dataclasses.replace(STUDY, figures=[*FIGURES])
    build([study], str(tmp_path))
    expected = contents(tmp_path)
    odd = {"text.usetex": True, "font.size": 30, "savefig.bbox": "tight", "axes.grid": True}
    with mpl.rc_context({**odd, "savefig.facecolor": "red", "pdf.compression": 0}):
        assert not build([study], str(tmp_path)).failures
    assert contents(tmp_path) == expected


def test_an_unknown_backend_of_matplotlib_is_ignored():
    command = [sys.executable, "-c", "import lrlc_jax.report; import matplotlib.figure"]
    subprocess.run(command, check=True, cwd=ROOT, env={**os.environ, "MPLBACKEND": "nope"})


def broken(results):
    raise ZeroDivisionError(results.study.name)


def test_a_figure_that_fails_is_named_and_all_other_files_are_written(tmp_path, monkeypatch):
    monkeypatch.setitem(FIGURES, "broken", broken)
    write(tmp_path, complete())
    study = dataclasses.replace(STUDY, figures=["broken", *STUDY.figures])
    report = build([study], str(tmp_path))
    assert {".html", ".csv", ".png"} <= {path.suffix for path in report.files}
    assert all(path.exists() for path in report.files)
    with pytest.raises(RunError, match="-broken could not be drawn"):
        report.refuse_failures()


def test_a_command_whose_figure_fails_prints_its_tables_and_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setitem(FIGURES, "accuracy_against_rank", broken)
    write(tmp_path / "results", complete())
    answer = here(tmp_path, "tables", status=1)
    assert "| Convolution " in answer.stdout
    (sentence,) = [x for x in answer.stderr.splitlines() if x.startswith("error: ")]
    assert "could not be drawn" in sentence


@pytest.mark.parametrize(
    "text", ["a|b", "<b>x", "[a](b)", "`x`", "50 %\n\\input{x}", "$x_1$ & #~^"]
)
def test_text_of_a_study_stays_text_in_every_form(text):
    study = dataclasses.replace(STUDY, title=text)
    table = dataclasses.replace(accuracy(only(complete(), study)), rows=[[text] * 9])
    forms = formats(table)
    plain = formats(dataclasses.replace(table, title="a", rows=[["a"] * 9]))
    assert [len(form.splitlines()) for form in forms.values()] == [
        len(form.splitlines()) for form in plain.values()
    ]
    row = forms["md"].splitlines()[-1]
    assert len(re.findall(r"(?<!\\)\|", row)) == 10
    assert not re.search(r"(?<!\\)[<`]|(?<!\\)\]\(", row)
    *_, row, _, _, _ = forms["tex"].splitlines()
    assert not re.search(r"(?<!\\)[%#_$]|\\input", row)
    assert row.count(" & ") == 8


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@a", "a"])
def test_no_text_of_a_csv_file_is_a_formula(text):
    table = Table("", [], ("a",), [], [{"a": text, "b": -1.5}])
    (row,) = csv.DictReader(io.StringIO(formats(table)["csv"]))
    assert row == {"a": text if text == "a" else f"'{text}", "b": "-1.5"}


@pytest.mark.parametrize("kind", ["tables", "figures"])
def test_an_unknown_table_or_figure_is_refused_with_the_nearest_name(tmp_path, kind):
    write(tmp_path, complete())
    (valid,) = getattr(STUDY, kind)
    with pytest.raises(InputError) as caught:
        build([dataclasses.replace(STUDY, **{kind: [valid[:-1]]})], str(tmp_path))
    assert all(repr(name) in str(caught.value) for name in (valid, valid[:-1]))


def entries_of(study, setting=None):
    """Entries of a study as a command has them."""
    records = pooled(complete(**(setting or {})))
    (results,) = study_results(study, records)
    dataset = load(DatasetConfig(train_size=300))
    return [
        SimpleNamespace(
            study=study,
            layer=cell.layer,
            job=SimpleNamespace(
                identity=cell.identity, config=Config(), dataset=dataset, seeds=(0, 1, 2)
            ),
        )
        for cell in results.cells
    ]


def test_the_overview_counts_seeds_of_unfinished_runs():
    conv, bias, *_ = complete()
    part = example(rank=2, validation=(0.9,), test=(0.9,), seeds=[1])
    other = example(rank=4, validation=(0.9,), test=(0.9,), seeds=[7])
    lines = overview(STUDY, entries_of(STUDY), pooled((conv, bias, part, other)).runs)
    lost = example("conv", validation=(None,), test=(None,), seeds=[1], failed={"1": 2})
    assert status(Cell(ConvConfig(), "", pool(lost)), (0, 1)) == "(1 of 2 seeds, FAILED)"
    assert status(Cell(ConvConfig(), "", pool(lost)), (1,)) == "FAILED"
    assert status(Cell(ConvConfig(), "", pool(lost)), (0,)) == "left"
    (row,) = [line for line in lines if "LRLC" in line]
    assert row.endswith("rank 1 done; 2 (1 of 3 seeds); 4 left")
    assert lines[-1].endswith("2 done, 0 failed, 2 left.")


def test_the_tables_of_a_command_are_always_shown(tmp_path):
    small = dataclasses.replace(STUDY, figures=[])
    runs = [*STUDY.runs, {"layer": "lrlc", "at": 1, "rank": 2}]
    larger = dataclasses.replace(small, name="larger", runs=runs)
    write(tmp_path, complete() + complete(fingerprint="beef"))
    report = build([larger, small], str(tmp_path), entries_of(small))
    assert len(report.tables) == 2
    assert len(report.requested) == 1
    report = build([larger, small], str(tmp_path), entries_of(larger))
    (name,) = report.requested
    assert name.startswith("larger-")
    assert len(report.tables) == 3
    assert ["MISSING" in problem for problem in report.problems] == [True]


def test_a_run_with_conflicting_records_has_no_value(tmp_path):
    with pytest.raises(InputError, match="no records"):
        build([STUDY], str(tmp_path))
    conv, *others = complete()
    write(tmp_path, [conv, example("conv", test=(0.1, 0.2, 0.3)), *others])
    report = build([dataclasses.replace(STUDY, figures=[])], str(tmp_path))
    (table,) = report.tables.values()
    assert "CONFLICT (2 different records)" in markdown(table)
    assert not any(
        "test_mean" in values for values in table.values if values["row"] == "Convolution"
    )
    assert len(report.conflicts) == len(report.problems) == 1
    assert "CONFLICT" in report.conflicts[0]
    assert "CONFLICT" in (tmp_path / "tables" / "all-runs.md").read_text()


@pytest.mark.slow
def test_published_tables_are_those_of_the_published_records(tmp_path):
    published = ROOT / "results" / "published"
    for name in ("records", "analysis"):
        shutil.copytree(published / name, tmp_path / name)
    build([dataclasses.replace(study, figures=[]) for study in MENU.values()], str(tmp_path))

    def tables(folder):
        """Tables but those with a bootstrap, whose last digits depend on the processor."""
        found = {path.name: path.read_bytes() for path in (folder / "tables").iterdir()}
        return {name: content for name, content in found.items() if "-contrasts." not in name}

    assert tables(tmp_path) == tables(published)


# The dry run.


def test_the_overview_counts_each_run_once_and_shows_the_status_of_each_rank():
    conv, bias, two, _ = complete()
    two = dataclasses.replace(two, failed={"1": 2})
    lines = overview(STUDY, entries_of(STUDY), pooled((conv, bias, two)).runs)
    rows = {line.strip().partition("  ")[0]: line.split("  ")[-1].strip() for line in lines}
    assert rows["LRLC (third layer)"] == "rank 1 done; 2 FAILED; 4 left"
    assert rows["Convolution"] == "done"
    assert lines[-1] == "4 runs of 3 seeds: 2 done, 1 failed, 1 left."
    assert any("SUBSET of 400" in line for line in lines)


def test_old_and_new_records_of_the_same_seeds_are_one_row(tmp_path):
    """Records of schema 1 beside today's, trained again: no conflict, and the same tables."""
    new, both = tmp_path / "new", tmp_path / "both"
    for folder in (new, both):
        shutil.copytree(ROOT / "results" / "published" / "records", folder / "records")
    old = ROOT / "tests" / "experiments" / "records_of_schema_1"
    shutil.copytree(old, both / "records", dirs_exist_ok=True)
    found = read_records(both)
    assert not found.conflicts
    twice = [found.runs[record_files.read(path).identity] for path in old.iterdir()]
    assert twice
    assert {len(run.records) for run in twice} == {2}
    studies = [dataclasses.replace(MENU[name], figures=[]) for name in ("positions", "layers")]
    one, other = (build(studies, str(folder)).tables for folder in (new, both))
    assert {name: table.rows for name, table in one.items()} == {
        name: table.rows for name, table in other.items()
    }
