import contextlib
import dataclasses
import doctest
import functools
import json
import os
import signal

import jax
import numpy as np
import pytest
from flax import nnx
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from benchmarks import check_device
from benchmarks.check import correctness, speed, studies
from benchmarks.check import report as reports
from benchmarks.check.correctness import Checker, Subject, program, reference
from benchmarks.check.report import (
    CORRECTNESS,
    REPEATABILITY,
    SECTIONS,
    STEPS,
    Report,
    Row,
    markdown,
    plot,
)
from benchmarks.check.speed import Step, needed
from benchmarks.check_device import Clock, Item, Settings, attempted, items, new_report, run
from lrlc_jax import signals
from lrlc_jax.errors import InputError
from lrlc_jax.experiments.config import layer_config, typed
from lrlc_jax.layers import LAYERS, Conv
from lrlc_jax.layers.ops.target import Target, compiling_for
from lrlc_jax.networks import NetworkFactory, multiply_adds
from tests.commands import call, here
from tests.conftest import ROOT
from tests.layers.examples import exhaustive, slow

pytestmark = pytest.mark.usefixtures("quick_compilation")

TINY = (2, 5, 4, 2, 3)
CONV, LRLC = {"name": "conv"}, {"name": "lrlc", "at": 3, "rank": 2}


@functools.cache
def composed(*overrides):
    with initialize_config_dir(version_base="1.3", config_dir=str(ROOT / "configs")):
        return OmegaConf.to_container(compose("check_device", list(overrides)))


def settings(*overrides, **changes) -> Settings:
    return typed(Settings, {**composed(*overrides), **changes})


def quick(**changes) -> Settings:
    return settings("check_device=quick", **changes)


def subject(name, *, network=False) -> Subject:
    shape = (2, 9, 8, 2, 3) if network else TINY
    return Subject(LAYERS[name](), shape, network)


def types_in(jaxpr):
    """The types of all values in a program, and in the programs inside of it."""
    for equation in jaxpr.eqns:
        yield from (value.aval.dtype for value in equation.outvars)
        for parameter in jax.tree.leaves(list(equation.params.values())):
            inner = getattr(parameter, "jaxpr", parameter)  # closed or open
            if hasattr(inner, "eqns"):
                yield from types_in(inner)


@pytest.mark.parametrize(
    "one",
    [
        subject("lrlc"),
        subject("locally_connected"),
        *map(exhaustive, map(subject, LAYERS)),
        *map(exhaustive, (subject(name, network=True) for name in LAYERS)),
    ],
    ids=lambda one: one.title,
)
def test_the_reference_is_computed_in_float64(one):
    with jax.enable_x64(True), compiling_for(Target("cpu", "host")):
        function, arguments = program(one, "float32", "patches", 0)
        exact = jax.tree.map(lambda v: v.astype(np.float64), arguments)
        jaxpr = jax.make_jaxpr(function)(*exact)
    assert not {np.dtype("float32"), np.dtype("bfloat16")} & {*types_in(jaxpr.jaxpr)}


def test_the_reference_agrees_with_another_way_in_float64():
    one = subject("locally_connected")
    kernel, bias, x = (
        np.float64(leaf) for leaf in jax.tree.leaves(program(one, "float32", "patches", 0)[1])[:3]
    )
    kernel, bias = (kernel, bias) if kernel.ndim > bias.ndim else (bias, kernel)
    rows, cols = kernel.shape[:2]
    expected = [
        [np.einsum("bijc,ijco->bo", x[:, i : i + 3, j : j + 3], kernel[i, j]) for j in range(cols)]
        for i in range(rows)
    ]
    exact = reference(one)
    np.testing.assert_allclose(
        exact["output"], np.transpose(expected, (2, 0, 1, 3)) + bias, rtol=1e-12, atol=1e-14
    )
    assert {array.dtype for array in exact.values()} == {np.dtype("float64")}
    assert set(exact) == {"output", "input", "kernel", "bias"}


def test_a_reference_in_float32_is_refused(monkeypatch):
    monkeypatch.setattr(correctness.jax, "enable_x64", lambda _: contextlib.nullcontext())
    with pytest.raises(Exception, match="float64"):
        reference.__wrapped__(subject("conv"))


@pytest.mark.parametrize(
    "one",
    [
        subject("conv"),
        *map(exhaustive, map(subject, LAYERS)),
        *map(exhaustive, (subject(name, network=True) for name in LAYERS)),
    ],
    ids=lambda one: one.title,
)
def test_precisions_are_within_their_bounds(one):
    checker = Checker()
    for precision in ("float32", "bfloat16_products", "bfloat16"):
        row = checker.check(one, precision, None)
        assert not row.failure
        assert row.values["output"] > 0
    again = checker.check(one, "float32", None)
    assert "same_as" in again.values


@pytest.fixture
def wrong(monkeypatch):
    """A convolution that is wrong by 1 %, but not in float64."""
    product = Conv.product

    def scaled(self, x, *rest):
        return product(self, x * (1.01 if x.dtype == np.float32 else 1.0), *rest)

    monkeypatch.setattr(Conv, "product", scaled)


@pytest.mark.usefixtures("wrong")
@pytest.mark.parametrize("network", [False, slow(True)])
def test_a_wrong_layer_fails(network):
    row = Checker().check(subject("conv", network=network), "float32", None)
    assert "more than" in row.failure


def only(monkeypatch, *sections_or_items):
    """Replace the items of a run."""
    monkeypatch.setattr(check_device, "items", lambda _: list(sections_or_items))


def done(title, section=CORRECTNESS) -> Item:
    return Item(section, title, lambda: Row(section, title))


def fails(error):
    def run_it():
        raise error

    return run_it


def finished(these, tmp_path) -> Report:
    report = new_report(these)
    run(these, report, tmp_path / "device.json")
    return report


def test_an_item_that_fails_leaves_the_others(monkeypatch, tmp_path):
    memory = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating")
    only(
        monkeypatch,
        Item(CORRECTNESS, "broken", fails(ValueError("no such way"))),
        Item(STEPS, "huge", fails(memory)),
        done("last"),
    )
    report = finished(quick(), tmp_path)
    broken, huge, last = report.rows
    assert "no such way" in broken.failure
    assert not huge.failure
    assert "memory" in huge.note
    assert (last.failure, last.note) == (None, None)
    assert report.failures == [broken]
    text = (tmp_path / "device.md").read_text()
    assert "no such way" in text.splitlines()[-1]
    assert json.loads((tmp_path / "device.json").read_text())["rows"][0]["failure"]


def test_a_budget_of_nothing_writes_a_whole_report(tmp_path):
    report = finished(settings(budget_minutes=0), tmp_path)
    assert not report.rows
    planned = items(settings())
    assert sum(map(len, report.not_measured.values())) == len(planned)
    assert set(report.not_measured) == set(SECTIONS)
    text = (tmp_path / "device.md").read_text()
    assert all(item.title in text for item in planned[:8])
    values = json.loads((tmp_path / "device.json").read_text())
    assert values["finished"]
    assert values["versions"]["jax"]
    assert "results_dir" not in values["settings"]
    assert (tmp_path / "device.png").read_bytes().startswith(b"\x89PNG")


def test_files_are_whole_after_each_item_and_a_signal_keeps_them(monkeypatch, tmp_path):
    seen = []

    def look():
        seen.append(json.loads((tmp_path / "device.json").read_text()))
        os.kill(os.getpid(), signal.SIGTERM)
        return Row(CORRECTNESS, "second")

    only(monkeypatch, done("first"), Item(CORRECTNESS, "second", look), done("third"))
    monkeypatch.setattr(signals, "_signalled", [])
    report = finished(quick(), tmp_path)
    (before,) = seen
    assert [row["title"] for row in before["rows"]] == ["first"]
    assert before["not_measured"] == {CORRECTNESS: ["second", "third"]}
    assert before["finished"] is None
    assert "SIGTERM" in report.stopped
    assert "SIGTERM" in (tmp_path / "device.md").read_text()
    assert "third" in report.not_measured[CORRECTNESS]


def test_an_item_that_outlasts_the_budget_is_given_up(monkeypatch, tmp_path):
    only(monkeypatch, Item(CORRECTNESS, "endless", lambda: signals.time.sleep(20)), done("next"))
    monkeypatch.setattr(check_device, "GRACE", 0.0)
    monkeypatch.setattr(signals, "STARTED", signals.time.monotonic())
    monkeypatch.setitem(check_device.COMPILE_SECONDS, CORRECTNESS, 0.0)
    report = finished(quick(budget_minutes=1 / 60), tmp_path)
    assert "budget" in report.stopped
    assert report.not_measured == {CORRECTNESS: ["endless", "next"]}


def test_estimates_follow_what_was_measured():
    clock = Clock(1.0, "cpu")
    small, large = (Item(STEPS, str(work), lambda: None, work) for work in (1e9, 4e9))
    assert clock.estimate(large) > clock.estimate(small)
    row = Row(STEPS, "", {"compile_seconds": 3.0}, seconds=5.0)
    clock.note(small, row)
    assert clock.estimate(small) == pytest.approx(5.0)
    assert clock.estimate(large) == pytest.approx(3.0 + 4 * 2.0)
    other = dataclasses.replace(large, group="other")
    assert clock.estimate(other) > clock.estimate(large)
    assert clock.expected([small, large]) == pytest.approx(16.0) or clock.left < 16
    clock.note(small, dataclasses.replace(row, values={"same_as": "default"}, seconds=0.1))
    assert clock.estimate(small) == pytest.approx(5.0)


def test_the_most_important_items_come_first():
    planned = items(settings(image_shapes=[[28, 28, 1], [32, 32, 3]]))
    assert len({(item.section, item.title) for item in planned}) == len(planned)
    assert {item.section for item in planned[: len(LAYERS)]} == {CORRECTNESS}
    steps = [item.title for item in planned if item.section == STEPS]
    assert all("28x28x1" in title and "default" in title for title in steps[:6])
    assert "Convolution" in steps[0]
    assert "LRLC" in steps[1]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"budget_minutes": -1}, "budget_minutes"),
        ({"batch_size": 0}, "batch_size"),
        ({"layers": []}, "layers"),
        ({"layers": [{"name": "lrcl"}]}, "'lrlc'"),
        ({"precisions": ["float16"]}, "bfloat16"),
        ({"precisions": []}, "precisions"),
        ({"ways": ["column"]}, "'columns'"),
        ({"image_shapes": [[32, 32]]}, "image_shapes"),
        ({"results_dir": ""}, "results_dir"),
    ],
)
def test_a_wrong_setting_is_named(changes, named):
    with pytest.raises(InputError, match=named):
        settings(**changes)


@pytest.mark.skipif(jax.default_backend() == "gpu", reason="a GPU has both")
def test_what_the_device_lacks_is_refused():
    with pytest.raises(InputError, match="tf32"):
        items(settings(precisions=["tf32"]))
    with pytest.raises(InputError, match="pallas"):
        settings(ways=["pallas"])


@pytest.mark.parametrize("layer", [CONV, LRLC, {"name": "wide_conv", "at": "all", "rank": 3}])
def test_multiply_adds_of_studies_are_those_of_the_network(layer):
    config, shape = layer_config(layer), (12, 11, 3)
    factory = NetworkFactory(shape, 10, config)
    expected = multiply_adds(lambda: factory(nnx.Rngs(0)))
    work = studies.work_of(config, shape)
    assert sum(work) == sum(expected)
    assert work.special == sum(expected[place - 1] for place in config.positions)


@pytest.fixture
def few_studies(monkeypatch):
    """Only the study with few runs."""
    monkeypatch.setattr(studies, "STUDIES", ("essentials",))


def step_of(layer, seconds, shape=(28, 28, 1)):
    factory = NetworkFactory(shape, 10, layer_config(layer))
    moved, flops = needed(factory, "float32", 512)
    return {
        **dataclasses.asdict(Step(layer, shape, None, "float32", 512)),
        "seconds": seconds,
        "compile_seconds": 10.0,
        "bytes_needed": moved,
        "flops": flops,
        "gigabytes": 1.0,
        "gigabytes_known": True,
    }


@pytest.mark.usefixtures("few_studies")
def test_the_time_of_studies_follows_from_the_steps():
    conv = step_of(CONV, [0.5, 0.4, 0.6])
    assert not studies.estimates([])
    essentials = studies.estimates([conv])[0]
    assert (essentials["study"], essentials["data"], essentials["runs"]) == (
        "essentials",
        "mnist",
        10,
    )
    assert not essentials["scaled"]
    # 107 steps and 9.375 batches of validation images at a third of a step; most runs cost more.
    plain = 10 * (10 + 10 * 150 * (107 + 4800 / 512 / 3) * 0.5)
    assert plain < essentials["seconds"] < 10 * plain
    slower = studies.estimates([conv, step_of(LRLC, [1.0])])[0]
    assert slower["seconds"] > essentials["seconds"]


@pytest.mark.slow
def test_the_runs_of_studies_are_those_of_their_files():
    assert {name: len(studies.runs_of(name)) for name in studies.STUDIES} == {
        "essentials": 10,
        "paper": 156,
    }


@pytest.mark.usefixtures("few_studies")
def test_the_bound_is_that_of_memory_or_arithmetic():
    report = new_report(settings())
    conv, lrlc = step_of(CONV, [0.5]), step_of(LRLC, [1.0])
    rows = [Row(STEPS, f"28x28x1: {n}", s) for n, s in (("conv", conv), ("lrlc", lrlc))]
    report.rows = [*rows]
    assert report.bound(conv) is None
    assert report.ratio(lrlc) == 2.0
    peaks = {"bandwidth": conv["bytes_needed"] / 0.1, "float32": conv["flops"] / 0.2}
    report.rows += [
        Row("Peaks", name, {"name": name, "per_second": rate}) for name, rate in peaks.items()
    ]
    assert report.bound(conv) == pytest.approx(0.2)
    text = markdown(report)
    assert "40%" in text
    assert "essentials" in text
    assert len(plot(report).axes) == 1


def test_examples_in_docstrings():
    results = doctest.testmod(reports)
    assert results.attempted
    assert not results.failed


def test_the_peak_of_a_slow_device_stops_at_a_small_size(monkeypatch):
    monkeypatch.setattr(speed, "fastest", lambda _: 10.0)
    sizes = dataclasses.replace(speed.QUICK, matrices=(8, 64, 10**6))
    assert speed.peak("float32", sizes).values["per_second"] == pytest.approx(2 * 8**3 / 10)


@pytest.mark.parametrize("precision", ["float32", slow("bfloat16_products")])
def test_the_products_of_others_are_ours(precision):
    batch, *size, _ = speed.QUICK.product
    x = np.random.default_rng(0).standard_normal((batch, *size), np.float32)
    found = {}
    for name, product in speed.PRODUCTS.items():
        function, params = product(speed.QUICK, precision, None)
        found[name] = np.asarray(function(params, x))
    for name in ("ConvLocal", "einsum"):
        np.testing.assert_allclose(found[name], found["ours"], atol=3e-3)


@pytest.mark.slow
def test_a_quick_check_passes(tmp_path):
    answer = call(tmp_path, "check_device", "--quick", "results_dir=found")
    (path,) = (tmp_path / "found" / "benchmarks").glob("*.json")
    values = json.loads(path.read_text())
    assert {row["section"] for row in values["rows"]} == set(SECTIONS)
    assert not values["not_measured"]
    assert values["finished"]
    assert path.with_suffix(".md").read_text() in answer.stdout
    for name in (path.with_suffix(".md"), path.with_suffix(".png"), path):
        assert str(name.relative_to(tmp_path)) in answer.stdout
    repeated = [row for row in values["rows"] if row["section"] == REPEATABILITY]
    assert repeated[0]["values"]["together"] < 1e-4


@pytest.mark.usefixtures("wrong")
def test_a_wrong_layer_has_exit_status_1(tmp_path, monkeypatch):
    def plan(these):
        return [item for item in items(these) if item.title.startswith("conv, ")][:1]

    monkeypatch.setattr(check_device, "items", plan)
    answer = here(tmp_path, "check_device", "--quick", "results_dir=found", status=1)
    assert "more than" in answer.stderr.splitlines()[-1]
    assert "FAILED" in answer.stdout.split("##")[-1]


def test_an_error_of_the_layer_is_a_reason_in_one_line():
    row = attempted(Item(CORRECTNESS, "broken", fails(ValueError("first\nsecond"))))
    assert "\n" not in row.failure
