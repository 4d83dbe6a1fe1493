import dataclasses
import doctest
import functools
import json
import os
import signal
import subprocess
import sys

import jax
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from benchmarks import driver, ours, peers, worker
from benchmarks.cases import Case, Settings, cases, groups
from benchmarks.driver import Worker, environment, interpreters, measure, run
from benchmarks.peers import PEERS
from benchmarks.report import Result
from lrlc_jax.errors import InputError
from lrlc_jax.experiments.config import typed
from tests.conftest import ROOT

CONV, LRLC = {"name": "conv"}, {"name": "lrlc", "at": 3, "rank": 2}


@functools.cache
def composed(*overrides):
    with initialize_config_dir(version_base="1.3", config_dir=str(ROOT / "configs")):
        return OmegaConf.to_container(compose("benchmark", list(overrides)))


def settings(*overrides, **changes) -> Settings:
    return typed(Settings, {**composed(*overrides), **changes})


def case_of(layer, task="training_step", framework="ours", batch=4, seeds=1):
    return Case(framework, layer, (8, 8, 1), batch, task, seeds)


@pytest.mark.parametrize("overrides", [(), ("benchmark=quick",)])
def test_each_case_is_measured_beside_its_reference(overrides):
    these = settings(*overrides)
    found, planned = cases(these, PEERS), groups(these, PEERS)
    measured = {repr(case) for group in planned for case in group}
    assert {repr(case) for case in found} <= measured
    for group in planned:
        reference = group[0]
        assert (reference.framework, reference.layer, reference.seeds) == ("ours", CONV, 1)
        assert len({repr(case) for case in group}) == len(group)
        for case in group:
            assert case.ours in group
            assert case.section == reference.section
        assert these.quick or len(group) <= 3  # large cases share the memory


def test_the_full_run_has_every_rank_shape_and_peer():
    found = [
        (c.framework, c.layer["name"], c.layer.get("at"), c.layer.get("rank"), c.image_shape)
        for c in cases(settings(), PEERS)
    ]
    for shape in [(28, 28, 1), (32, 32, 3), (48, 48, 3)]:
        assert {("ours", "lrlc", at, k, shape) for at in (3, "all") for k in (1, 4, 10, 30)} <= {
            *found
        }
    assert {(peer, "lrlc", 3, 10, (32, 32, 3)) for peer in PEERS} <= {*found}


def test_quick_leaves_given_settings_alone():
    quick = settings("benchmark=quick", "rounds=3", "batch_size=8")
    assert (quick.quick, quick.rounds, quick.batch_size, quick.peers) == (True, 3, 8, ["jax_naive"])


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"rounds": 0}, "rounds"),
        ({"rounds": "many"}, "rounds"),
        ({"quick": "perhaps"}, "quick"),
        ({"tasks": ["epoch"]}, "training_step"),
        ({"tasks": []}, "tasks"),
        ({"tasks": "seeds"}, "tasks"),
        ({"peers": ["torhc"]}, "'torch'"),
        ({"precision": "float16"}, "bfloat16"),
        ({"precision": "bfloat16"}, "peers"),
        ({"product_way": "column"}, "'columns'"),
        ({"image_shapes": [[32, 32]]}, "image_shapes"),
        ({"image_shape": [32, 32, 0]}, "image_shape"),
        ({"seeds": [0]}, "seeds"),
        ({"layers": [{"name": "lrcl"}]}, "'lrlc'"),
        ({"layers": [{"name": "lrlc", "at": 4}]}, "layer.at"),
        ({"peer_layers": [{"name": "coord_conv"}]}, "conv"),
        ({"peer_layers": [{**LRLC, "sharing": "full"}]}, "sharing"),
        ({"results_dir": ""}, "results_dir"),
    ],
)
def test_a_wrong_setting_is_named(changes, named):
    with pytest.raises(InputError, match=named):
        settings(**changes)


@pytest.fixture(scope="module")
def measured():
    """A group with a case that fails, and a case whose process is killed in its first round."""
    wrong = {**LRLC, "normalization": "other"}
    group = [case_of(layer) for layer in (CONV, wrong, LRLC)]
    # Three requests, two warm-ups, the first round of the convolution.
    killer = iter([False] * 6 + [True])

    def ask(self, line, ask=Worker.ask):
        if next(killer, False):
            os.kill(self.process.pid, signal.SIGKILL)
        return ask(self, line)

    these = settings("benchmark=quick", rounds=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Worker, "ask", ask)
        patch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
        return these, measure(group, these, {}, {})


@pytest.mark.slow
def test_a_case_that_fails_or_dies_leaves_the_others(measured):
    _, (conv, wrong, killed) = measured
    assert "normalization" in wrong.problem
    assert "memory" in killed.problem
    assert conv.problem is None
    assert len(conv.seconds) == 2
    assert conv.peak_bytes > 0
    assert conv.compile_seconds > 0
    assert conv.ratios == [1.0, 1.0]
    assert (killed.ratios, wrong.ratios) == ([], [])


@pytest.mark.slow
def test_json_and_tables_after_each_group_survive_an_interruption(measured, tmp_path, monkeypatch):
    these, results = measured
    found = iter([results])

    def one_group(*_):
        try:
            return next(found)
        except StopIteration:
            raise KeyboardInterrupt from None

    path = tmp_path / "benchmark.json"
    monkeypatch.setattr(driver, "measure", one_group)
    with pytest.raises(KeyboardInterrupt):
        run(these, path)
    values = json.loads(path.read_text())
    assert values["finished"] is None
    (entries,) = values["groups"]
    assert [len(entry["seconds"]) for entry in entries] == [2, 0, 0]
    assert entries[2]["case"]["layer"] == LRLC
    assert len(values["code"]["source_sha256"]) == 64
    assert values["versions"]["jax"]
    assert values["machine"]["device"]
    assert not {"results_dir", "peers_python"} & set(values["settings"])
    table = path.with_suffix(".md").read_text()
    assert "Incomplete" in table
    assert all(result.problem in table for result in results if result.problem)
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_ratios_are_per_image_and_round():
    conv = Result(case_of(CONV), seconds=[1.0, 4.0, 2.0])
    lrlc = Result(case_of(LRLC, batch=4, seeds=2), seconds=[2.0, 4.0, 8.0])
    assert lrlc.relative_to(conv) == [1.0, 0.5, 2.0]
    assert lrlc.relative_to(dataclasses.replace(conv, problem="failed")) == []


class FakeWorker:
    """Answers at once: the convolution takes 1 s, ours 2 s, a peer 6 s."""

    def __init__(self, *_):
        self.seconds = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def ask(self, line):
        if not line:
            return {"seconds": self.seconds, "peak_bytes": 1, "memory": "process"}
        case = json.loads(line)["case"]
        ours_or_peer = 2.0 if case["framework"] == "ours" else 6.0
        self.seconds = 1.0 if case["layer"] == CONV else ours_or_peer
        return {"versions": {}}


def test_a_peer_is_compared_with_ours_too(monkeypatch, tmp_path):
    monkeypatch.setattr(driver, "Worker", FakeWorker)
    monkeypatch.setattr(ours, "start", lambda _: {})
    few = {"layers": [CONV], "peer_layers": [LRLC], "tasks": ["training_step"]}
    path = tmp_path / "benchmark.json"
    measured = run(settings("benchmark=quick", product_way="patches", **few), path)
    ((conv, ours_too, peer),) = measured.groups
    assert (conv.ratios, ours_too.ratios, peer.ratios) == ([1.0], [2.0], [6.0])
    assert peer.ratios_to_ours == [3.0]
    assert measured.finished
    assert not measured.failed
    table = path.with_suffix(".md").read_text()
    row = next(line for line in table.splitlines() if "Algorithm 1" in line)
    assert {"6.00", "3.00"} <= set(row.replace("|", " ").split())
    assert "patches" in table


@pytest.mark.usefixtures("optax_types", "quick_compilation")
@pytest.mark.parametrize(
    ("task", "seeds", "precision"), [("seeds", 2, "bfloat16"), ("inference", 1, "float32")]
)
def test_each_task_runs_again_and_again(task, seeds, precision):
    case = case_of(LRLC, task, seeds=seeds)
    request = {"case": json.loads(json.dumps(dataclasses.asdict(case)))}
    request |= {"block_seconds": 0.0, "precision": precision, "product_way": None}
    timed = ours.compiled(request)
    timed.block()
    timed.block()
    assert timed.compile_seconds > 0


def test_a_worker_ends_with_its_driver():
    with Worker(sys.executable, "float32") as one:
        one.process.stdin.close()
        assert one.process.wait(timeout=60) == 0
        one.process.stdin = None


def test_a_worker_of_our_interpreter_sees_our_import_path(tmp_path, monkeypatch):
    (tmp_path / "carried_module.py").touch()
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    command = [sys.executable, "-P", "-c", "import carried_module, benchmarks.worker"]
    assert not subprocess.run(command, check=False, env=environment(sys.executable, "")).returncode
    assert str(tmp_path) not in environment("/other/python", "")["PYTHONPATH"]


def test_missing_peers_are_left_out_by_name(monkeypatch, tmp_path):
    missing = dataclasses.replace(PEERS["torch"], module="no_such_framework")
    monkeypatch.setitem(PEERS, "torch", missing)
    pythons, (sentence,) = interpreters(settings(peers=["jax_naive", "torch"]))
    assert list(pythons) == ["jax_naive"]
    assert missing.title in sentence
    with pytest.raises(InputError, match="peers_python"):
        interpreters(settings(peers=["torch"], peers_python=str(tmp_path / "python")))


@pytest.mark.skipif(jax.default_backend() == "gpu", reason="a GPU has TF32")
def test_a_precision_that_the_device_lacks_is_refused(tmp_path):
    with pytest.raises(InputError, match="tf32"):
        run(settings(precision="tf32"), tmp_path / "benchmark.json")


def test_float32_excludes_tf32_in_all_frameworks(monkeypatch):
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE", raising=False)
    assert environment(sys.executable, "float32")["NVIDIA_TF32_OVERRIDE"] == "0"
    assert "NVIDIA_TF32_OVERRIDE" not in environment(sys.executable, "tf32")


def test_a_block_has_as_many_steps_as_fit(monkeypatch):
    monkeypatch.setattr(worker, "seconds_of", lambda call: call() or 0.3)
    calls = []
    block = worker.timed(lambda: calls.append(1), 2.0, 0.0, steps=2)
    assert block.repeats == 2 * 7
    calls.clear()
    block.block()
    assert len(calls) == 7
    assert worker.timed(lambda: None, 0.0, 0.0).repeats == 1


def test_examples_in_docstrings():
    results = doctest.testmod(peers)
    assert results.attempted
    assert not results.failed
