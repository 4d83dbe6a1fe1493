"""The paper's studies: what they consist of, how far they are, and how long they will take."""

import dataclasses
import re
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lrlc_jax.data.dataset import DatasetConfig
from lrlc_jax.errors import InputError
from lrlc_jax.experiments import estimate, pace, provenance
from lrlc_jax.experiments import record as records
from lrlc_jax.experiments.config import Config, StudyConfig, study_config
from lrlc_jax.experiments.estimate import (
    Sample,
    Work,
    forecast,
    representative,
    seconds_of,
    work_of,
)
from lrlc_jax.experiments.jobs import jobs
from lrlc_jax.experiments.layers import asked, simplest
from lrlc_jax.experiments.menu import studies
from lrlc_jax.experiments.pace import Pace, measured, on_record, piece_of
from lrlc_jax.experiments.plan import entries, layer_settings, members, plan
from lrlc_jax.experiments.state import DONE, FAILED, LEFT, left, state
from lrlc_jax.layers import (
    ConvConfig,
    InputDependentLRLCConfig,
    LocallyConnectedConfig,
    LRLCConfig,
    SpatialBiasConfig,
    WideConvConfig,
)
from lrlc_jax.networks import NetworkConfig, NetworkFactory
from lrlc_jax.training.compilation import CompileClock
from lrlc_jax.training.train import ProtocolConfig
from tests.conftest import ROOT
from tests.experiments.examples import example

CONFIGS = ROOT / "configs"
MENU = {study.name: study for study in studies(CONFIGS)}
PAPER = [name for name in MENU if name not in ("quick", "layers")]
RANKS = [1, 2, 3, 4, 5, 6, 7, 10, 15, 20, 25, 30]
BASE = Config(layer=LRLCConfig())


def runs_of(name, base=BASE):
    return plan(MENU[name], base, list(MENU.values()))


@pytest.mark.parametrize("name", MENU)
def test_a_study_has_the_name_of_its_file_and_as_many_runs_as_it_says(name):
    text = (CONFIGS / "study" / f"{name}.yaml").read_text()
    head = re.match(r"(?:#.*\n)+", text).group()
    assert f"study={name}" in head or name == "quick"
    assert int(re.search(r"(\d+) runs", head).group(1)) == len(runs_of(name))


def test_how_many_runs_are_those_of_another_study_is_as_the_files_say():
    def identities(name):
        return {str(layer_settings(config.layer)) for config in runs_of(name)}

    for name in PAPER:
        head = (CONFIGS / "study" / f"{name}.yaml").read_text()
        for count, other in re.findall(r"(\d+) of them those of (\w+)", head):
            assert len(identities(name) & identities(other)) == int(count), name


@pytest.mark.parametrize("name", PAPER)
def test_every_rank_of_the_paper_is_asked_for_wherever_there_is_a_rank(name):
    for entry in MENU[name].runs:
        if "rank" in entry:
            assert entry["rank"] == RANKS


def test_the_paper_is_all_of_its_studies_with_each_run_once():
    found = entries(MENU["paper"], BASE, list(MENU.values()))
    assert {entry.study.name for entry in found} == {
        name for name in PAPER if name not in ("paper", "supplement")
    }
    configs = runs_of("paper")
    assert len({entry.run for entry in found}) == len(configs) < len(found)
    translated = [c for c in configs if c.dataset.translate == 48]
    assert len(translated) == 25
    assert all(c.dataset.translate is None for c in configs if c not in translated)


def test_the_papers_rows_are_there():
    def rows(name):
        layers = asked(MENU[name], {})
        return {(layer.name, layer.positions) for layer in layers}

    every = [(1,), (2,), (3,), (1, 2, 3)]
    biased = {("spatial_bias", place) for place in every}
    lrlc = {("lrlc", place) for place in every}
    assert rows("table1") == {("conv", ()), *biased, *lrlc}
    assert rows("table2") == {
        ("lrlc", (3,)),
        ("coord_conv", (1,)),
        *(("locally_connected", (place,)) for place in (1, 2, 3)),
        ("wide_conv", (3,)),
    }
    assert rows("table3") == {("lrlc", (3,)), ("lrlc_input_dependent", (3,))}


def study(name, includes=(), runs=(), **settings):
    return StudyConfig(name=name, includes=list(includes), runs=list(runs), **settings)


def test_a_study_that_two_others_include_counts_once():
    one = study("one", runs=[{"layer": "conv"}])
    menu = [one, study("a", ["one"]), study("b", ["one"])]
    both = study("both", ["a", "b"], runs=[{"layer": "coord_conv"}])
    assert [member.name for member in members(both, menu)] == ["both", "one"]
    assert [c.layer.name for c in plan(both, BASE, menu)] == ["coord_conv", "conv"]


@pytest.mark.parametrize(
    ("menu", "words"),
    [
        ([study("a", ["tabel1"]), MENU["table1"]], "included in study a.*did you mean 'table1'"),
        ([study("a", ["b"]), study("b", ["c"]), study("c", ["b"])], r"b includes itself \(a, b, c"),
        ([study("a", ["a"])], r"a includes itself \(a, a\)"),
        ([study("a", ["b"]), study("b")], "Study a has no runs"),
        ([study("a")], "Study a has no runs"),
    ],
)
def test_a_study_that_includes_what_it_cannot_is_refused(menu, words):
    with pytest.raises(InputError, match=words):
        plan(menu[0], BASE, menu)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"dataset": {"translat": 48}}, "did you mean 'study.dataset.translate'"),
        ({"dataset": {"name": "mnist"}}, "There is no setting 'study.dataset.name'"),
        ({"dataset": {"translate": 0}}, "translate is 0"),
        ({"dataset": {"translate": "far"}}, "study.dataset.translate"),
        ({"includes": "table1"}, "study.includes"),
    ],
)
def test_a_wrong_setting_of_a_study_is_refused(values, words):
    with pytest.raises(InputError, match=words):
        study_config({"name": "mine", **values})


@pytest.mark.parametrize(
    ("dataset", "given", "words"),
    [
        ({"translate": 32}, (), "dataset.translate is 32, and study .* sets it to 48"),
        ({}, ("dataset.translate",), "dataset.translate is null, and study"),
    ],
)
def test_data_that_a_study_sets_otherwise_are_refused(dataset, given, words):
    base = dataclasses.replace(BASE, dataset=DatasetConfig(**dataset))
    with pytest.raises(InputError, match=words):
        plan(MENU["paper"], base, list(MENU.values()), given)


def test_what_a_study_sets_itself_may_be_said_again_and_holds_for_any_data():
    base = dataclasses.replace(BASE, dataset=DatasetConfig("mnist", "files", translate=48))
    for config in runs_of("supplement_translated", base):
        assert (config.dataset.name, config.dataset.translate) == ("mnist", 48)


@pytest.mark.parametrize(
    "layer",
    [
        *(LRLCConfig(rank=1, sharing=s) for s in LRLCConfig.CHOICES["sharing"]),
        LRLCConfig(rank=1, at="all", weights_init="random"),
        LRLCConfig(rank=1, use_spatial_bias=False),
        InputDependentLRLCConfig(rank=1),
        WideConvConfig(rank=1, at="all"),
    ],
    ids=str,
)
def test_a_layer_of_rank_1_computes_what_the_simpler_one_does(layer):
    small = NetworkConfig(channels=4)
    simple = NetworkFactory((9, 9, 1), 10, simplest(layer), small)(nnx.Rngs(0))
    network = NetworkFactory((9, 9, 1), 10, layer, small)(nnx.Rngs(1))
    assert simplest(layer).name != layer.name
    for ours, theirs in zip(simple.layers, network.layers, strict=True):
        bases = getattr(theirs, "bases", None)
        ours.kernel[...] = theirs.kernel[...] if bases is None else bases[...][0]
        if hasattr(ours, "spatial_bias"):  # not zero, as it starts
            bias, other = (nnx.state(m.spatial_bias) for m in (ours, theirs))
            noise = jax.tree.map(lambda p: jax.random.normal(jax.random.key(1), p.shape), bias)
            assert jax.tree.map(jnp.shape, bias) == jax.tree.map(jnp.shape, other)
            nnx.update(ours.spatial_bias, noise)
            nnx.update(theirs.spatial_bias, noise)
    nnx.update(simple.classifier, nnx.state(network.classifier))
    x = jax.random.normal(jax.random.key(0), (2, 9, 9, 1))
    np.testing.assert_allclose(simple(x, train=True), network(x, train=True), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "layer",
    [LRLCConfig(rank=2), LRLCConfig(rank=1, normalization="norm"), LocallyConnectedConfig()],
)
def test_other_layers_are_what_is_trained(layer):
    assert simplest(layer) is layer


def small_jobs(tmp_path, *layers, **protocol):
    base = Config(results_dir=str(tmp_path), protocol=ProtocolConfig(seeds=3, **protocol))
    return jobs([dataclasses.replace(base, layer=layer) for layer in layers])


def record_of(job, **changes):
    layer = dataclasses.asdict(job.config.layer)
    data = job.dataset
    made = example(**layer, fingerprint=data.fingerprint, train=len(data.train), **changes)
    assert made.identity == job.identity
    return made


def test_a_plan_says_what_is_done_failed_and_left(tmp_path):
    todo = small_jobs(tmp_path, ConvConfig(), SpatialBiasConfig(at=3), LRLCConfig(rank=2))
    assert left(todo) == todo
    assert not list(tmp_path.iterdir())
    records.write(record_of(todo[0]), tmp_path)
    records.write(record_of(todo[1], test=(0.5, None, 0.5), failed={"1": 3}), tmp_path)
    found = state(todo)
    assert [found.of(job) for job in todo] == [DONE, FAILED, LEFT]
    assert left(todo) == todo[2:]


def on_this_machine(record, epoch=0.5, **changes):
    wall = {"wall_seconds": 25.0, "compile_seconds": 3.0, "median_epoch_seconds": epoch}
    epochs = {name: figures * 40 for name, figures in record.epochs.items()}
    config = record.config | {"seeds_at_once": 1}
    machine = provenance.machine()
    made = dataclasses.replace(record, time=wall, machine=machine, config=config, epochs=epochs)
    return dataclasses.replace(made, **changes)


def test_a_record_tells_its_pace_only_of_such_a_machine_and_way():
    record, here = on_this_machine(example()), provenance.machine()
    known = on_record(record, BASE, here)
    assert (known.compiling, known.epoch, known.besides) == (3, 0.5, 2)
    assert on_record(record, BASE, here | {"processor": "another"}) is None
    assert on_record(record, dataclasses.replace(BASE, product_way="patches"), here) is None
    assert on_record(record, dataclasses.replace(BASE, seeds_at_once=3), here) is None
    assert on_record(example(), BASE, here) is None  # an old one, which does not say


def test_a_run_on_record_is_estimated_as_it_went(tmp_path):
    job = small_jobs(tmp_path, LRLCConfig(rank=2))[0]
    work, conv = Work(700, 300), Sample(Work(1000, 0), Pace(2, 0.4, 0.1))
    sample = Sample(work, Pace(3, 0.5, 2))
    assert seconds_of(work, job, [sample], [conv]) == pytest.approx(3 + 40 * 0.5 + 2)


def test_a_layer_is_scaled_where_it_stands_and_convolutions_where_they_stand(tmp_path):
    job = small_jobs(tmp_path, LRLCConfig(rank=2), epochs=10)[0]
    conv = Sample(Work(1000, 0), Pace(0, 1.0, 0))
    everywhere = Sample(Work(0, 1000), Pace(5, 3.0, 0))
    # 700 multiply-adds at 1 s per 1000, 300 at 3 s per 1000
    assert seconds_of(Work(700, 300), job, [everywhere], [conv]) == pytest.approx(5 + 10 * 1.6)


def test_the_multiply_adds_are_told_apart_by_what_stands_where(tmp_path):
    conv, third, everywhere = (
        work_of(job)
        for job in small_jobs(
            tmp_path, ConvConfig(), LRLCConfig(rank=2, at=3), LRLCConfig(rank=2, at="all")
        )
    )
    assert conv.special == 0
    assert third.special == 2 * 2 * 9 * 64 * 64
    assert everywhere.conv == 0
    assert conv.total == third.total == everywhere.total


def test_the_largest_network_of_a_kind_that_is_soon_measured_stands_for_it(tmp_path, monkeypatch):
    kinds = [LRLCConfig(at=at, rank=rank) for at in (3, "all") for rank in (2, 4, 30)]
    todo = small_jobs(tmp_path, *kinds)
    assert representative(todo, [work_of(job) for job in todo]).config.layer == kinds[4]
    deep = small_jobs(tmp_path, *(InputDependentLRLCConfig(rank=r) for r in (2, 4, 30)))
    works = [work_of(job) for job in deep]
    assert representative(deep, works) is deep[2]
    middle = pace.rough_step(deep[1].config, works[1].total)
    monkeypatch.setattr(estimate, "LONG_STEP", 1.1 * middle)
    assert representative(deep, works) is deep[1]
    monkeypatch.setattr(estimate, "LONG_STEP", 0)
    assert representative(deep, works) is deep[0]


def test_a_short_epoch_is_measured_whole_and_of_a_long_one_a_few_steps(tmp_path):
    (job,) = small_jobs(tmp_path, ConvConfig())
    assert piece_of(job, 1000) == (job.dataset, 3)
    piece, seeds = piece_of(job, 10**10)
    assert (len(piece.train), seeds) == (2 * 50, 1)
    assert len(piece.validation) == len(job.dataset.validation)  # fewer than a batch
    together = dataclasses.replace(job, config=dataclasses.replace(job.config, seeds_at_once=2))
    assert piece_of(together, 10**10)[1] == 2


def test_a_pace_is_measured_and_leaves_nothing_on_disk(tmp_path):
    (job,) = small_jobs(tmp_path, ConvConfig())
    with jax.numpy_dtype_promotion("standard"):  # as optax mixes types
        found = measured(job, work_of(job).total, CompileClock())
    assert found.compiling > found.epoch > 0
    assert found.besides >= 0
    assert not list(tmp_path.iterdir())


def test_what_is_on_record_is_not_measured(tmp_path, monkeypatch):
    layers = [ConvConfig(), LRLCConfig(rank=2), LRLCConfig(rank=4), SpatialBiasConfig(at=3)]
    todo = small_jobs(tmp_path, *layers)
    for job, epoch in zip(todo[:2], (0.5, 1.0), strict=False):
        records.write(on_this_machine(record_of(job), epoch), tmp_path)
    asked_for = []

    def pretend(job, *_):
        asked_for.append(job.config.layer.name)
        return Pace(1, 0.5, 0)

    monkeypatch.setattr(estimate, "measured", pretend)
    monkeypatch.setattr(estimate, "enable_cache", lambda **_: None)
    found = forecast(state(todo))
    assert asked_for == ["spatial_bias"]
    assert (found.measured, found.on_record) == (1, 2)
    # LRLC of another rank as the one on record, the spatial bias as it was measured
    assert found.seconds == pytest.approx(3 + 40 * 1.0 + (1 + 40 * 0.5))


SMALL = {
    "one": "runs: [{layer: wide_conv, at: 3, rank: [1, 2]}]",
    "moved": "dataset: {translate: 10}\nruns: [{layer: conv}]",
    "both": "includes: [one, moved]\nruns: []",
}


def command_in(folder, *arguments):
    """The sweep of a copy of the project's menu, with three small studies."""
    if not (folder / "configs").exists():
        shutil.copytree(ROOT / "configs", folder / "configs")
        (folder / "scripts").mkdir()
        shutil.copy(ROOT / "scripts" / "sweep.py", folder / "scripts")
        for name, text in SMALL.items():
            path = folder / "configs" / "study" / f"{name}.yaml"
            path.write_text(f"name: {name}\ntrain_size: null\n{text}\n")
    tiny = ["protocol.epochs=2", "protocol.seeds=2", "dataset.train_size=100"]
    command = [sys.executable, str(folder / "scripts" / "sweep.py"), *tiny, *arguments]
    return subprocess.run(command, capture_output=True, check=False, text=True, cwd=folder)


def snapshot(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_study_of_studies_is_planned_done_and_shown_study_by_study(tmp_path):
    command_in(tmp_path, "study=one", "--cfg", "job")
    before = snapshot(tmp_path)
    planned = command_in(tmp_path, "study=both", "dry_run=true")
    assert planned.returncode == 0, planned.stderr
    assert snapshot(tmp_path) == before
    assert "3 runs: 0 done, 0 failed, 3 left." in planned.stdout
    assert "Wide convolution (third layer)  rank 1, 2 left" in planned.stdout
    assert "translated in 10x10 noise" in planned.stdout
    assert re.search(r"About \d.* for what is left", planned.stdout)
    done = command_in(tmp_path, "study=both")
    assert done.returncode == 0, done.stderr
    assert "3 runs trained now" in done.stdout
    titles = re.findall(r"^# (.*)$", done.stdout, re.MULTILINE)
    assert titles == ["one: digits", "moved: digits translated in 10x10 noise"]
    tables = {path.name.split("-digits")[0] for path in (tmp_path / "results/tables").glob("*.md")}
    assert {"one", "moved"} <= tables
    after = command_in(tmp_path, "study=both", "dry_run=true")
    assert "3 runs: 3 done, 0 failed, 0 left." in after.stdout
    assert "About" not in after.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["study=both", "dry_run=maybe"], "dry_run is 'maybe'"),
        (["study=both", "dataset.translate=12"], "dataset.translate is 12, and study moved"),
        (["study=one", "+study.includes=[moovd]"], "did you mean 'moved'"),
    ],
)
def test_what_cannot_be_planned_gets_one_sentence(tmp_path, arguments, words):
    answer = command_in(tmp_path, *arguments)
    assert answer.returncode == 2
    assert words in answer.stderr
    assert len(answer.stderr.strip().splitlines()) == 1
