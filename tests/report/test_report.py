"""Tables and figures say what the records say, and say loudly what they lack."""

import csv
import dataclasses
import io

import pytest

from lrlc_jax.data.dataset import DatasetConfig
from lrlc_jax.errors import InputError
from lrlc_jax.experiments import record as records
from lrlc_jax.experiments.config import Config, StudyConfig
from lrlc_jax.experiments.menu import studies
from lrlc_jax.experiments.plan import plan
from lrlc_jax.layers import LRLCConfig
from lrlc_jax.networks import NetworkConfig
from lrlc_jax.report.build import build
from lrlc_jax.report.figures import accuracy_against_rank
from lrlc_jax.report.studies import informative, study_tables
from lrlc_jax.report.tables import all_runs, comma_separated, latex, markdown
from tests.conftest import ROOT
from tests.experiments.examples import example

STUDY = StudyConfig(
    name="small",
    title="A small study",
    runs=[
        {"layer": "conv"},
        {"layer": "spatial_bias", "at": [3]},
        {"layer": "lrlc", "at": [3], "rank": [1, 2, 4]},
    ],
)


def complete(**changes):
    return [
        example("conv", **changes),
        example("spatial_bias", validation=(0.7, 0.7, 0.7), test=(0.71, 0.72, 0.73), **changes),
        example(rank=2, validation=(0.95, 0.95, 0.95), test=(0.5, 0.6, 0.7), **changes),
        example(rank=4, validation=(0.94, 0.94, 0.94), test=(0.9, 0.9, 0.9), **changes),
    ]


def only(found):
    (table,) = study_tables(STUDY, found)
    return table


def line(text, start):
    (found,) = [row for row in text.splitlines() if row.startswith(f"| {start}")]
    return [cell.strip() for cell in found.strip("|").split("|")]


def test_the_table_holds_mean_and_standard_error_at_the_chosen_rank():
    row = line(markdown(only(complete())), "LRLC")
    # mean 60 %; sample deviation 10 %, over the root of 3 seeds
    figures = ["100.00 ± 0.00", "95.00 ± 0.00", "60.00 ± 5.77"]
    assert row == ["LRLC (third layer)", "2", "1,020", *figures, ""]


def test_rank_1_may_be_chosen_and_is_the_spatial_bias():
    found = complete()
    found[1] = example("spatial_bias", validation=(0.99, 0.99, 0.99), test=(0.4, 0.4, 0.4))
    row = line(markdown(only(found)), "LRLC")
    assert row[1] == "1"
    assert row[5] == "40.00 ± 0.00"


def test_rank_1_is_the_simpler_network_that_it_is_and_stands_in_each_row_that_lists_it():
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
    (table,) = study_tables(StudyConfig(name="ones", runs=runs), found)
    assert not table.problems
    assert len(table.runs) == len(found)
    assert {row.name: row.cells[0].test().mean for row in table.rows} == {
        "Wide convolution (third layer)": pytest.approx(0.1),
        "LRLC (third layer)": pytest.approx(0.2),
        "LRLC (third layer), sharing full": pytest.approx(0.3),
        "Input-dependent LRLC (third layer)": pytest.approx(0.3),
    }
    lines = list(csv.DictReader(io.StringIO(comma_separated(table))))
    assert [r["rank"] for r in lines] == ["1", "2"] * 4


def test_a_missing_run_is_said_loudly():
    table = only([r for r in complete() if r.run["layer"].get("rank") != 4])
    text = markdown(table)
    assert "INCOMPLETE: rank 4 MISSING" in line(text, "LRLC")[-1]
    assert "**1 OF 4 RUNS ARE MISSING OR FAILED.**" in text
    assert "MISSING" in comma_separated(table)
    assert "MISSING" in latex(table)


def test_a_row_without_any_run_has_no_number():
    table = only([example("conv")])
    assert line(markdown(table), "LRLC")[1:6] == ["-"] * 5


def test_a_failed_run_is_said_loudly_and_never_chosen():
    found = complete()
    found[2] = example(rank=2, validation=(1.0, None, 1.0), test=(0.5, None, 0.7), failed={"1": 3})
    table = only(found)
    row = line(markdown(table), "LRLC")
    assert row[1] == "4"
    assert "rank 2 FAILED (1 of 3 seeds: 1)" in row[-1]


def test_runs_of_different_data_or_size_never_meet():
    found = complete() + complete(fingerprint="beef") + complete(train=100)
    tables = study_tables(STUDY, found)
    assert len(tables) == 3
    assert len({table.name for table in tables}) == 3
    assert not any(table.problems for table in tables)


def test_a_subset_and_another_protocol_are_labelled():
    text = markdown(only(complete(train=100)))
    assert "SUBSET: trained on 100 of the 400 training images." in text
    assert "NOT THE PAPER'S PROTOCOL: epochs 40 instead of 150" in text


def test_runs_with_other_options_get_a_table_of_their_own_that_shares_the_baseline():
    conv = [example("conv"), example("spatial_bias")]
    norm = [example(rank=r, normalization="norm") for r in (1, 2, 4)]
    table = only(conv + norm)
    assert not table.problems
    assert "LRLC (third layer), normalization norm" in markdown(table)
    both = study_tables(STUDY, conv + norm + [example(rank=r) for r in (2, 4)])
    assert len(both) == 2


def test_every_ranked_layer_chooses_among_the_ranks_that_the_study_lists():
    kinds = ("wide_conv", "lrlc_input_dependent")
    runs = [*STUDY.runs, *({"layer": kind, "at": [3], "rank": [2, 4]} for kind in kinds)]
    found = complete()
    for kind in kinds:
        for rank in (2, 4):
            score = (rank / 10,) * 3
            found.append(example(kind, rank=rank, validation=score, test=score))
    found[4:] = [
        dataclasses.replace(r, matched_parameters=777)
        if r.run["layer"]["name"] == "wide_conv"
        else r
        for r in found[4:]
    ]
    (table,) = study_tables(dataclasses.replace(STUDY, runs=runs), found)
    text = markdown(table)
    assert line(text, "Wide convolution")[1:3] == ["4", "1,040 (LRLC: 777)"]
    assert line(text, "Input-dependent")[1:3] == ["4", "1,040"]
    assert [len(row.cells) for row in table.rows if row.ranked] == [3, 2, 2]


def test_another_network_is_another_table_and_labelled():
    found = complete() + complete(network=NetworkConfig(padding="same", blur=True))
    tables = study_tables(STUDY, found)
    assert len(tables) == 2
    texts = [markdown(table) for table in tables]
    assert sum("NOT THE PAPER'S NETWORK" in text for text in texts) == 1
    assert any("padding same instead of valid, blur True instead of False" in t for t in texts)
    assert "padding same" in all_runs(found)


def test_options_of_any_layer_keep_tables_apart():
    runs = [{"layer": "conv"}, {"layer": "locally_connected", "at": [3]}]
    study = dataclasses.replace(STUDY, runs=runs)
    found = [example("conv"), example("locally_connected")]
    found.append(example("locally_connected", fan_in="position"))
    tables = study_tables(study, found)
    assert len(tables) == 2
    assert not any(table.problems for table in tables)


def tables_of_all(found, wanted=None):
    """The tables of every study in the menu that these records are good for."""
    menu = studies(ROOT / "configs")
    return informative([t for study in menu for t in study_tables(study, found)], wanted)


def records_of(study, **options):
    """Records of all that a study in the menu asks for, with options of the layers."""
    menu = studies(ROOT / "configs")
    base = Config(layer=LRLCConfig(**options))
    (chosen,) = [one for one in menu if one.name == study]
    made = []
    for config in plan(chosen, base, menu):
        layer = dataclasses.asdict(config.layer)
        data = "moved" if config.dataset.translate else "f00d"
        made.append(example(**layer, dataset=config.dataset, fingerprint=data))
    return made


def names_of(tables):
    return {(t.study.name, t.setting.dataset.get("translate")) for t in tables}


def test_the_papers_records_fill_the_papers_tables_and_look_like_no_others():
    found = tables_of_all(records_of("paper"))
    of_data = {"table1", "table2", "table3", "figure3", "figure4", "figure5"}
    of_data |= {f"supplement_{name}" for name in ("start", "sharing", "wide")}
    of_translated = {"supplement_translated", "table3", "figure5"}
    assert names_of(found) == {(n, None) for n in of_data} | {(n, 48) for n in of_translated}
    assert not any(table.problems or table.chosen_options for table in found)


def test_a_study_that_asks_for_two_values_of_an_option_has_both_in_one_table():
    records = records_of("supplement_start")
    (table,) = [t for t in tables_of_all(records) if t.study.name == "supplement_start"]
    rows = {row.name: [cell.rank for cell in row.cells] for row in table.rows}
    assert rows["LRLC (third layer)"] == rows["LRLC (third layer), weights_init random"]
    assert len(rows) == 3
    assert not table.problems


def test_a_study_done_with_other_options_is_a_table_though_another_study_asks_for_its_runs_too():
    alone = records_of("table3", weights_init="random")
    (table,) = [t for t in tables_of_all(alone) if t.study.name == "table3"]
    assert table.chosen_options == {"weights_init": "random"}
    assert not table.problems
    assert "supplement_start" not in {t.study.name for t in tables_of_all(alone)}
    # Beside what the paper asks for, nothing tells that somebody did so, but the command itself.
    beside = {r.identity: r for r in records_of("paper") + alone}.values()
    assert not any(t.chosen_options for t in tables_of_all(list(beside)))
    wanted = {"table3": {r.identity for r in alone}}
    kept = [t for t in tables_of_all(list(beside), wanted) if t.chosen_options]
    assert [(t.study.name, t.problems) for t in kept] == [("table3", [])]


def test_a_study_has_no_table_of_other_data_than_it_sets():
    plain = [r for r in records_of("paper") if "translate" not in r.run["dataset"]]
    assert "supplement_translated" not in {t.study.name for t in tables_of_all(plain)}


def drawn(table):
    """What a figure of accuracy against rank shows: lines across and curves by their name."""
    axes = accuracy_against_rank(table).axes[0]
    lines = {line.get_label(): line for line in axes.lines}
    curves = {c.get_label(): c.lines[0].get_xdata() for c in axes.containers}
    chosen = [line for line in axes.lines if line.get_label() not in curves and line.get_marker()]
    return lines, curves, chosen


def test_a_figure_has_a_curve_for_each_row_with_ranks_and_a_line_across_for_each_without():
    (table,) = [t for t in tables_of_all(records_of("figure4")) if t.study.name == "figure4"]
    lines, curves, _ = drawn(table)
    assert {name: len(xs) for name, xs in curves.items()} == {
        "LRLC (third layer)": 12,
        "Wide convolution (third layer)": 12,
    }
    assert lines["Convolution"].get_linestyle() == ":"
    across = {name for name, line in lines.items() if line.get_linestyle() == "--"}
    places = ("first", "second", "third")
    assert across == {"CoordConv", *(f"Locally connected ({place} layer)" for place in places)}


def test_what_is_rank_1_of_a_curve_is_not_a_line_across():
    assert set(drawn(only(complete()))[0]) >= {"Convolution"}
    assert "Convolution + spatial bias (third layer)" not in drawn(only(complete()))[0]


def test_the_chosen_rank_is_black():
    *_, chosen = drawn(only(complete()))
    black = [line for line in chosen if line.get_color() == "black" and len(line.get_xdata()) == 1]
    assert [round(float(line.get_xdata()[0])) for line in black] == [2]


def test_csv_has_every_run_in_full():
    rows = list(csv.DictReader(io.StringIO(comma_separated(only(complete())))))
    assert [(r["row"], r["rank"], r["chosen"]) for r in rows if r["row"].startswith("LRLC")] == [
        ("LRLC (third layer)", "1", "False"),
        ("LRLC (third layer)", "2", "True"),
        ("LRLC (third layer)", "4", "False"),
    ]
    assert float(rows[-1]["test_mean"]) == pytest.approx(0.9)


def test_latex_is_balanced_and_escaped():
    text = latex(only(complete()))
    body = [row for row in text.splitlines() if row.endswith(r"\\")]
    assert all(row.count("&") == 6 for row in body)
    assert r"60.00 $\pm$ 5.77" in text
    assert "Validation, \\%" in text
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == 1


def contents(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_building_twice_gives_the_same_bytes(tmp_path):
    for record in complete():
        records.write(record, tmp_path)
    build([STUDY], str(tmp_path))
    first = contents(tmp_path)
    assert {p.suffix for p in first} == {".json", ".md", ".csv", ".tex", ".png", ".pdf"}
    build([STUDY], str(tmp_path))
    assert contents(tmp_path) == first


def test_a_bad_record_leaves_everything_as_it_was(tmp_path):
    for record in complete():
        path = records.write(record, tmp_path)
    build([STUDY], str(tmp_path))
    path.write_text("{")
    before = contents(tmp_path)
    with pytest.raises(InputError, match="not valid JSON"):
        build([STUDY], str(tmp_path))
    assert contents(tmp_path) == before


def test_records_of_one_study_are_not_an_unfinished_other(tmp_path):
    larger = StudyConfig(name="larger", runs=[*STUDY.runs, {"layer": "lrlc", "at": [1], "rank": 2}])
    for record in complete():
        records.write(record, tmp_path)
    (table,) = build([larger, STUDY], str(tmp_path)).tables
    assert table.study is STUDY
    records.write(example(at=1, rank=2), tmp_path)
    found = build([larger, STUDY], str(tmp_path)).tables
    assert {table.study.name for table in found} == {"larger", "small"}
    (gap,) = build([larger], str(tmp_path)).tables
    assert not gap.problems


def test_a_study_with_gaps_is_shown_where_no_other_table_has_its_runs(tmp_path):
    for record in complete()[:3]:
        records.write(record, tmp_path)
    (table,) = build([STUDY], str(tmp_path)).tables
    assert len(table.problems) == 1


def test_nothing_on_record_is_said(tmp_path):
    with pytest.raises(InputError, match="no records"):
        build([STUDY], str(tmp_path))


def test_what_is_not_all_of_the_data_or_not_as_published_is_said_everywhere():
    notes = ["PARTIAL: 13 of 202 images", "split by person, not the official split"]
    found = complete(dataset=DatasetConfig("celeba"), notes=notes, fingerprint="part")
    (table,) = study_tables(STUDY, found)
    for text in (markdown(table), latex(table), all_runs(found)):
        for note in notes:
            assert note in text
    title = accuracy_against_rank(table).axes[0].get_title()
    assert all(note in title for note in notes)


def test_translated_data_are_other_data():
    plain = complete(dataset=DatasetConfig("celeba"))
    moved = complete(dataset=DatasetConfig("celeba", translate=48), fingerprint="moved")
    fresh = complete(
        dataset=DatasetConfig("celeba", translate=48, translate_train="fresh"), fingerprint="new"
    )
    tables = study_tables(STUDY, [*plain, *moved, *fresh])
    names = ["celeba", *["celeba translated in 48x48 noise"] * 2]
    titles = sorted(markdown(table).splitlines()[0] for table in tables)
    assert [title.removeprefix("# A small study: ").split(",")[0] for title in titles] == names
    assert titles[-1].endswith("noise, anew in each epoch")
    assert len({table.name for table in tables}) == 3
    assert {"-in-48-" in table.name for table in tables} == {True, False}
    assert len({record.file_name for record in [*plain, *moved, *fresh]}) == 3 * len(plain)
