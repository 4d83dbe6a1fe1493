"""The paper's studies: what they consist of, how far they are, and how long they will take."""

import dataclasses
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lrlc_jax.data.dataset import DatasetConfig
from lrlc_jax.errors import InputError
from lrlc_jax.experiments import estimate
from lrlc_jax.experiments import record as records
from lrlc_jax.experiments.config import Config, StudyConfig, typed
from lrlc_jax.experiments.estimate import Cost
from lrlc_jax.experiments.study import jobs, load_studies, members, plan, study_layers
from lrlc_jax.layers import (
    InputDependentLRLCConfig,
    LocallyConnectedConfig,
    LRLCConfig,
    WideConvConfig,
)
from lrlc_jax.layers.combining import SHARINGS
from lrlc_jax.networks import NetworkConfig, NetworkFactory
from tests.commands import TINY, here, snapshot
from tests.conftest import ROOT
from tests.experiments.examples import example

CONFIGS = ROOT / "configs"
MENU = {study.name: study for study in load_studies(CONFIGS)}
OURS = ("quick", "positions", "layers", "essentials", "combining_weights", "fan_in")
PAPER = [name for name in MENU if name not in OURS and not name.startswith("control")]
RANKS = [1, 2, 3, 4, 5, 6, 7, 10, 15, 20, 25, 30]
BASE = Config(layer=LRLCConfig())


def planned(study, base=BASE, menu=None, given=()):
    return plan(study, base, menu or list(MENU.values()), given)


def runs_of(name):
    return jobs(planned(MENU[name]))


@pytest.mark.parametrize("name", MENU)
def test_a_study_has_the_name_of_its_file_and_as_many_runs_as_it_says(name):
    text = (CONFIGS / "study" / f"{name}.yaml").read_text()
    head = re.match(r"(?:#.*\n)+", text).group()
    assert f"study={name}" in head or name == "quick"
    assert int(re.search(r"(\d+) runs", head).group(1)) == len(runs_of(name))


def test_how_many_runs_are_those_of_another_study_is_as_the_files_say():
    def identities(name):
        return {job.identity for job in runs_of(name)}

    assert identities("quick") < identities("positions")
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
    found = planned(MENU["paper"])
    assert {entry.study.name for entry in found} == {
        name for name in PAPER if name not in ("paper", "supplement")
    }
    runs = runs_of("paper")
    assert len({entry.job.identity for entry in found}) == len(runs) < len(found)
    translated = [job for job in runs if job.config.dataset.translate == 48]
    assert len(translated) == 25
    assert all(job.config.dataset.translate is None for job in runs if job not in translated)
    assert all(job.dataset.canvas == job.config.dataset.translate for job in runs)


def test_the_essentials_are_runs_of_the_papers_tables():
    tables = {job.identity for name in ("table1", "table2", "table3") for job in runs_of(name)}
    assert {job.identity for job in runs_of("essentials")} < tables


def test_the_papers_rows_are_there():
    def rows(name):
        layers = study_layers(MENU[name], {})
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
    assert [e.layer.name for e in planned(both, menu=menu)] == ["coord_conv", "conv"]


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
        planned(menu[0], menu=menu)


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
        typed(StudyConfig, {"name": "mine", **values}, "study")


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
        planned(MENU["paper"], base, given=given)


def test_what_a_study_fixes_may_be_given_again():
    base = dataclasses.replace(BASE, dataset=DatasetConfig(translate=48))
    again = {job.identity for job in jobs(planned(MENU["supplement_translated"], base))}
    assert again == {job.identity for job in runs_of("supplement_translated")}


@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize(
    "layer",
    [
        *(LRLCConfig(rank=1, sharing=s) for s in SHARINGS),
        LRLCConfig(rank=1, at="all", weights_init="random"),
        LRLCConfig(rank=1, use_spatial_bias=False),
        InputDependentLRLCConfig(rank=1),
        WideConvConfig(rank=1, at="all"),
    ],
    ids=str,
)
def test_a_layer_of_rank_1_computes_what_the_simpler_one_does(layer):
    small = NetworkConfig(channels=2)
    simple = NetworkFactory((9, 9, 1), 10, layer.simplest(), small)(nnx.Rngs(0))
    network = NetworkFactory((9, 9, 1), 10, layer, small)(nnx.Rngs(1))
    assert layer.simplest().name != layer.name
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
    assert layer.simplest() is layer


SMALL = {
    "one": "runs: [{layer: wide_conv, at: 3, rank: 1}]",
    "moved": "dataset: {translate: 10}\nruns: [{layer: conv}]",
    "both": "includes: [one, moved]\nruns: []",
}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A copy of the sweep and of the project's menu, with three small studies."""
    folder = tmp_path_factory.mktemp("project")
    shutil.copytree(ROOT / "configs", folder / "configs")
    (folder / "scripts").mkdir()
    shutil.copy(ROOT / "scripts" / "sweep.py", folder / "scripts")
    for name, text in SMALL.items():
        path = folder / "configs" / "study" / f"{name}.yaml"
        path.write_text(f"name: {name}\ntrain_size: null\n{text}\n")
    return folder


def sweep(project, *arguments, status=0):
    return here(project, project / "scripts" / "sweep.py", *TINY, *arguments, status=status)


def test_a_study_of_studies_is_planned_done_and_shown_study_by_study(project, monkeypatch):
    monkeypatch.setattr(estimate, "measure", lambda *_: Cost(1.0, 1.0))
    monkeypatch.setattr(estimate, "enable_cache", lambda **_: None)
    before = snapshot(project)
    planned = sweep(project, "study=both", "dry_run=true").stdout
    assert snapshot(project) == before
    assert "2 runs of 2 seeds: 0 done, 0 failed, 2 left." in planned
    assert "Wide convolution (third layer)  rank 1 left" in planned
    assert "translated in 10x10 noise" in planned
    assert "About 10 s" in planned  # two runs of two epochs and seeds, and their compilation
    done = sweep(project, "study=both").stdout
    assert "2 runs trained now" in done
    titles = re.findall(r"^# (.*)$", done, re.MULTILINE)
    assert titles == ["one: digits", "moved: digits translated in 10x10 noise"]
    tables = {path.name.split("-digits")[0] for path in (project / "results/tables").glob("*.md")}
    assert {"one", "moved"} <= tables
    after = sweep(project, "study=both", "dry_run=true").stdout
    assert "2 runs of 2 seeds: 2 done, 0 failed, 0 left." in after
    assert "About" not in after


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["study=both", "dry_run=maybe"], ["dry_run", "maybe"]),
        (["study=both", "dataset.translate=12"], ["dataset.translate", "12", "moved"]),
        (["study=one", "+study.includes=[moovd]"], ["'moved'"]),
    ],
)
def test_a_bad_plan_gets_one_sentence(project, arguments, words):
    answer = sweep(project, *arguments, status=2)
    assert all(word in answer.stderr for word in words)
    assert len(answer.stderr.strip().splitlines()) == 1


@pytest.fixture
def mine(tmp_path):
    """A user's folder with two studies, and what an editor leaves there."""
    folder = tmp_path / "mine" / "study"
    folder.mkdir(parents=True)
    text = "name: small\nruns: [{layer: conv}, {layer: spatial_bias, at: 3}]\n"
    (folder / "small.yaml").write_text(text)
    (folder / "large.yaml").write_text("name: large\nincludes: [small]\nruns: []\n")
    (folder / ".#small.yaml").symlink_to("gone")
    return folder.parent


def test_a_users_studies_in_another_folder_are_planned_and_get_tables(tmp_path, mine, monkeypatch):
    monkeypatch.setattr(estimate, "measure", lambda *_: Cost(1.0, 1.0))
    monkeypatch.setattr(estimate, "enable_cache", lambda **_: None)
    answer = here(tmp_path, "sweep", "--config-dir", "mine", "study=large", "dry_run=true")
    assert "2 runs of 10 seeds" in answer.stdout
    records.write(example("conv"), tmp_path / "results")
    answer = here(tmp_path, "tables", "--config-dir", str(mine))
    assert "# small: digits" in answer.stdout
    assert list((tmp_path / "results" / "tables").glob("small-digits-*.tex"))


@pytest.mark.parametrize(
    "text", ["a: [", "- a", "\xff", "name: quick", "a: " + "[" * 5000, "name: ../x", "runs: ${x}"]
)
def test_a_study_that_cannot_be_read_is_named(mine, text):
    path = mine / "study" / "other.yaml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError) as caught:
        load_studies(CONFIGS, mine)
    assert len(str(caught.value).splitlines()) == 1
