import contextlib
import dataclasses
import json
import os
import pathlib
import signal
import sys

import jax
import pytest
import yaml
from flax import nnx

from benchmarks import process
from benchmarks.cases import QUICK, Case, Group, Settings, cases, groups, reference
from benchmarks.driver import Driver, plan, run
from benchmarks.peers import PEERS
from benchmarks.plot import figure
from benchmarks.report import load, markdown, sections
from benchmarks.results import ratios
from benchmarks.settings import check, to_keep
from benchmarks.work import forward, training
from lrlc_jax.errors import InputError, RunError
from lrlc_jax.experiments.config import layer_config
from lrlc_jax.networks import NetworkFactory, products
from lrlc_jax.report.figures import pdf, png
from tests.conftest import ROOT

CONV, LRLC = {"name": "conv"}, {"name": "lrlc", "at": 3, "rank": 2}


def settings(**changes) -> Settings:
    values = yaml.safe_load((ROOT / "configs" / "benchmark.yaml").read_text())
    found = check({**values, **changes}, changes, PEERS)
    assert found.layers[0] == CONV
    return found


def tiny(**changes) -> Settings:
    """Two cases of a training step, on small images."""
    few = {
        "quick": True,
        "batch_size": 4,
        "image_shapes": [[8, 8, 1]],
        "layers": [CONV, LRLC],
        "peers": [],
        "tasks": ["training_step"],
    }
    return settings(**{**few, **changes})


def ignore(_text, _weight):
    pass


@contextlib.contextmanager
def silent(_total):
    yield ignore


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    path = tmp_path_factory.mktemp("benchmarks") / "benchmark.json"
    return run(tiny(rounds=2), path, silent), path


@pytest.mark.parametrize("quick", [False, True])
def test_each_case_has_one_row_and_its_reference_beside_it(quick):
    these = settings(quick=quick)
    found = cases(these, list(PEERS))
    made = plan(these, list(PEERS))
    rows = [case for group in made for case in group.subjects]
    assert all(rows.count(case) == 1 for case in found)
    assert all(case in found or case == reference(case, CONV) for case in rows)
    assert len({repr(case) for case in rows}) == len(rows)
    for group in made:
        assert len({repr(case) for case in group.cases}) == len(group.cases)
        for case in group.subjects:
            assert case in group.cases
            assert group.cases[0] == reference(case, CONV)
            assert group.cases[0].image_shape == case.image_shape
            assert dataclasses.replace(case, framework="ours") in group.cases
        if not quick:
            assert len(group.cases) <= 3


def test_the_full_run_has_every_case_that_was_asked_for():
    found = {
        (c.framework, c.layer["name"], c.layer.get("at"), c.layer.get("rank"), c.image_shape)
        for c in cases(settings(), list(PEERS))
        if c.task == "training_step"
    }
    for shape in [(28, 28, 1), (32, 32, 3), (48, 48, 3)]:
        for place in (3, "all"):
            assert all(("ours", "lrlc", place, k, shape) in found for k in (1, 4, 10, 30))
        assert all(("ours", "lrlc_input_dependent", 3, k, shape) in found for k in (4, 10))
    assert all((peer, "lrlc", 3, 10, (32, 32, 3)) in found for peer in PEERS)


def test_a_case_alone_is_its_own_reference():
    case = Case("ours", CONV, (8, 8, 1), 4, "inference")
    (group,) = groups([case], CONV)
    assert group.cases == group.subjects == (case,)


def test_what_the_command_line_gives_is_not_changed_by_quick():
    assert tiny(rounds=3).rounds == 3
    quick = settings(quick=True)
    assert (quick.rounds, list(quick.peers)) == (QUICK["rounds"], ["jax_naive"])


@pytest.mark.parametrize(
    "layer", [{"name": "conv"}, {"name": "lrlc", "at": "all", "rank": 30}], ids=str
)
def test_multiply_adds_are_those_counted_by_hand(layer):
    factory = NetworkFactory((32, 32, 3), 10, layer_config(layer))
    first, second, third = 30 * 30 * 27 * 64, 28 * 28 * 576 * 64, 26 * 26 * 576 * 64
    found = products(lambda: factory(nnx.Rngs(0)))
    assert forward(found) == first + second + third == 55_376_640
    assert training(found) == 2 * first + 3 * second + 3 * third


def test_ratios_are_those_of_the_rounds_per_image(measured):
    conv, lrlc = measured[0].cases
    conv = dataclasses.replace(conv, seconds=[1.0, 4.0, 2.0], images=8)
    lrlc = dataclasses.replace(lrlc, seconds=[2.0, 4.0, 8.0], images=16)
    assert ratios(lrlc, conv) == [1.0, 0.5, 2.0]
    assert ratios(conv, conv) == [1.0] * 3
    assert ratios(lrlc, dataclasses.replace(conv, problem="it died")) == []


def test_a_run_writes_its_samples_and_what_they_were_taken_with(measured):
    benchmark, path = measured
    conv, lrlc = benchmark.cases
    assert (conv.reference, lrlc.reference) == (True, False)
    for result in (conv, lrlc):
        assert len(result.seconds) == 2
        assert result.problem is None
        assert result.images == 4
        assert result.peak_bytes > 0
        assert result.compile_seconds > 0
    assert conv.multiply_adds == 4 * (2 * 36 * 9 * 64 + 3 * (16 + 4) * 576 * 64)
    assert lrlc.multiply_adds == conv.multiply_adds
    assert lrlc.parameters > conv.parameters
    values = json.loads(path.read_text())
    assert values["versions"]["jax"]
    assert values["machine"]["device"]
    assert len(values["code"]["source_sha256"]) == 64
    assert set(values["peak"]) == {"start", "end"}
    assert "path" not in values["settings"]["dataset"]


def test_the_file_leads_to_the_same_table_and_plot(measured):
    benchmark, path = measured
    again = load(path)
    assert again == benchmark
    text = markdown(again)
    assert text == markdown(benchmark)
    assert "LRLC (third layer), rank 2" in text
    assert "Training step: 8x8x1, batch 4" in text
    assert png(figure(again)).startswith(b"\x89PNG")
    assert pdf(figure(again)).startswith(b"%PDF")


def test_a_file_that_is_not_whole_gets_one_sentence(measured, tmp_path):
    _, path = measured
    text = path.read_text()
    values = json.loads(text)
    early = json.dumps({**values, "cases": []})
    older = json.loads(text)
    del older["settings"]["precision"]
    values["cases"][0]["seconds"] = [0.1]
    odd = json.dumps(values)
    contents = ["{", "[]", '{"schema": 99}', '{"schema": 1}', text[:-9], early, odd]
    contents.append(json.dumps(older))
    for number, content in enumerate(contents):
        bad = tmp_path / f"{number}.json"
        bad.write_text(content)
        with pytest.raises(InputError, match=str(bad)):
            load(bad)


def test_a_case_that_fails_or_dies_leaves_the_rest(measured, tmp_path, monkeypatch):
    layers = CONV, {"name": "nothing"}, LRLC
    found = [Case("ours", layer, (8, 8, 1), 4, "training_step") for layer in layers]
    (group,) = groups(found, CONV, together=None)
    ask = process.Worker.ask

    def kill_lrlc(self, line):
        if line == "go" and "lrlc" in self.request:
            os.kill(self.process.pid, signal.SIGKILL)
        return ask(self, line)

    monkeypatch.setattr(process.Worker, "ask", kill_lrlc)
    these = tiny(rounds=1)
    fine, unknown, killed = Driver(these, {}, ignore).group(1, group)
    assert fine.problem is None
    assert len(fine.seconds) == 1
    assert unknown.problem.startswith("There is no layer 'nothing'")
    assert "its process was killed" in killed.problem
    results = [fine, unknown, killed]
    benchmark = dataclasses.replace(measured[0], cases=results, settings=to_keep(these))
    path = tmp_path / "failed.json"
    benchmark.write(path)
    assert load(path).failed == [unknown, killed]
    assert "FAILED: There is no layer 'nothing'" in markdown(load(path))
    assert png(figure(load(path)))
    assert [row.ratios for row in sections(benchmark)[0].rows] == [[1.0], [], []]


def test_a_worker_ends_with_its_driver():
    with process.worker(sys.executable, {"peak": 10_000, "precision": "float32"}) as one:
        one.process.stdin.write(one.request.encode() + b"\n")
        one.process.stdin.close()
        assert one.process.wait(timeout=60) == 0


def test_peers_that_are_not_installed_are_left_out_in_one_sentence(monkeypatch, tmp_path):
    monkeypatch.setattr(process, "PEERS_PYTHON", pathlib.Path("/none"))
    pythons, (sentence,) = process.interpreters(settings())
    assert list(pythons) == ["jax_naive"]
    assert "PyTorch" in sentence
    assert "make peers" in sentence
    with pytest.raises(InputError, match="peers_python is"):
        process.interpreters(settings(peers_python=str(tmp_path / "python")))


def test_an_epoch_without_its_data_is_left_out(tmp_path):
    these = tiny(
        tasks=["epoch"],
        few_layers=[CONV],
        dataset={"name": "mnist", "source": "files", "cache_dir": str(tmp_path)},
    )
    (group,) = plan(these, [])
    (result,) = Driver(these, {}, ignore).group(1, group)
    assert result.left_out
    assert "dataset.path" in result.problem


@pytest.mark.parametrize(
    ("task", "batch", "images"), [("inference", 2, 2), ("seeds", 4, 8), ("epoch", 200, 400)]
)
def test_every_other_task_can_be_timed(task, batch, images):
    these = tiny(dataset={"name": "digits"})
    shape = None if task == "epoch" else (8, 8, 1)
    case = Case("ours", LRLC, shape, batch, task, 2 if task == "seeds" else 1)
    (result,) = Driver(these, {}, ignore).group(1, Group((case,), (case,)))
    assert result.problem is None
    assert result.images == images
    assert result.multiply_adds > 0


def test_a_whole_run_says_what_it_spent_outside_of_its_programs(tmp_path):
    path = tmp_path / "benchmark.json"
    measured = run(tiny(tasks=["run"], dataset={"name": "digits"}), path, silent)
    (result,) = measured.cases
    assert result.problem is None
    assert 0 < result.outside_share < 1
    assert load(path).cases == measured.cases
    table = markdown(measured)
    assert "A run under the quick protocol, one seed: digits" in table
    assert "Outside programs, %" in table
    assert f"{100 * result.outside_share:.2f}" in table


def test_another_precision_and_another_way_are_measured_and_said(tmp_path):
    path = tmp_path / "benchmark.json"
    these = tiny(precision="bfloat16", product_way="patches", layers=[CONV])
    text = markdown(run(these, path, silent))
    assert not load(path).failed
    assert "Precision: bfloat16. Our products: patches." in text


@pytest.mark.skipif(jax.default_backend() == "gpu", reason="a GPU has TF32")
def test_what_the_device_cannot_compute_in_is_refused(tmp_path):
    with pytest.raises(RunError, match="precision is tf32, and JAX computes on"):
        run(tiny(precision="tf32"), tmp_path / "benchmark.json", silent)


@pytest.mark.parametrize(("precision", "override"), [("float32", "0"), ("tf32", None)])
def test_in_float32_no_framework_takes_tf32_unasked(monkeypatch, precision, override):
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE", raising=False)
    given = {}
    monkeypatch.setattr(process.subprocess, "Popen", lambda *_, **options: given.update(options))
    process.Worker(sys.executable, {"precision": precision}).said.close()
    assert given["env"].get("NVIDIA_TF32_OVERRIDE") == override
