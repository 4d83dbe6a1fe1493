"""W&B mirrors the files on disk, and none of its failures loses a run."""

import json
import os
import pathlib
import re
import struct
import sys
from unittest import mock

import numpy as np
import pytest
import wandb
import yaml
from matplotlib.figure import Figure
from wandb.proto import wandb_internal_pb2
from wandb.wandb_agent import Agent

from lrlc_jax.data.dataset import DatasetConfig
from lrlc_jax.errors import InputError
from lrlc_jax.experiments import record as records
from lrlc_jax.experiments.config import Config
from lrlc_jax.experiments.execute import execute
from lrlc_jax.experiments.study import Loader
from lrlc_jax.layers import ConvConfig, LRLCConfig
from lrlc_jax.networks import NetworkConfig
from lrlc_jax.report import figures
from lrlc_jax.report.tables import Table
from lrlc_jax.signals import Stopped
from lrlc_jax.tracking import Tracker, TrackerConfig, WandbTracker, make_tracker, run_name
from lrlc_jax.training.train import ProtocolConfig
from tests.conftest import ROOT
from tests.experiments.examples import example
from tests.test_config import composed

pytestmark = [
    pytest.mark.filterwarnings("default"),
    pytest.mark.usefixtures("optax_types", "quick_compilation"),
]


RUN_ID = "0123456789abcdef-5-7"
SEEDS = (5, 6, 7)
BLOCK = 2**15


@pytest.fixture(autouse=True)
def no_environment(monkeypatch):
    """Without the W&B settings of the machine, and with a session of its own."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    wandb.teardown()
    yield
    wandb.teardown()


def config(folder, mode=None, **changes):
    tracker = TrackerConfig(name="wandb", mode=mode)
    return Config(
        **{"layer": LRLCConfig(), "tracker": tracker, "results_dir": str(folder), **changes}
    )


def metrics(value=0.1):
    names = ("train_loss", "train_accuracy", "validation_loss", "validation_accuracy")
    return {name: np.array([value, 0.2, 0.3], np.float32) for name in names}


def files_of(record, folder):
    """The files of a record, as a run leaves them."""
    path = records.write(record, folder)
    others = [path.with_suffix(f".{kind}.safetensors") for kind in ("predictions", "weights")]
    for other in others:
        other.write_bytes(other.name.encode())
    return [path, *others]


TABLE = Table("Table", ["On a subset."], ["Layer", "Test"], [["LRLC", "99"]])


def picture(folder):
    """A PNG file."""
    path = folder / "records" / "figure.png"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(figures.png(Figure(figsize=(1, 1))))
    return path


def use(tracker, folder, earlier=()):
    record = example()
    files = files_of(record, folder)
    tracker.start_run(config(folder), RUN_ID, SEEDS, earlier)
    tracker.epoch(1 + len(earlier), metrics())
    tracker.finish_run(record, files)


def use_all(tracker, folder):
    use(tracker, folder)
    tracker.finish_study({"table": TABLE}, {"figure": picture(folder)})


def messages(path):
    """The messages in a file of W&B: a log in LevelDB's format, after a header of 7 bytes."""
    data, position, message = path.read_bytes(), 7, b""
    while position + 7 <= len(data):
        if (left := BLOCK - position % BLOCK) < 7:  # no place for the header of a part
            position += left
            continue
        length, kind = struct.unpack_from("<HB", data, position + 4)
        position += 7
        message += data[position : position + length]
        position += length
        if kind in (1, 4):  # a whole message, or the last part of one
            yield wandb_internal_pb2.Record.FromString(message)
            message = b""


class Offline:
    """What `wandb sync` would upload of an offline run."""

    def __init__(self, folder):
        (path,) = folder.glob("*.wandb")
        self.config, self.summary, self.steps, self.artifacts = {}, {}, {}, {}
        for message in messages(path):
            if message.HasField("run"):
                self.run = message.run
            for update in [*message.run.config.update, *message.config.update]:
                self.config[update.key] = json.loads(update.value_json)
            for update in message.summary.update:
                key = "/".join(update.nested_key) or update.key
                self.summary[key] = json.loads(update.value_json)
            if message.HasField("history"):
                values = {
                    "/".join(item.nested_key) or item.key: json.loads(item.value_json)
                    for item in message.history.item
                }
                assert message.history.step.num not in self.steps
                self.steps[message.history.step.num] = values
            if message.HasField("artifact"):
                artifact = message.artifact
                self.artifacts[artifact.type] = artifact


def offline(folder):
    """The offline runs of a folder, in order of time."""
    wandb.teardown()  # writes what is left
    runs = map(Offline, (folder / "wandb").glob("offline-run-*"))
    return sorted(runs, key=lambda run: run.run.start_time.ToNanoseconds())


def test_off_by_default():
    assert type(make_tracker(Config())) is Tracker


def test_offline_keeps_runs_in_the_results_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "")
    tracker = make_tracker(config(tmp_path), "quick")
    use_all(tracker, tmp_path)
    assert not tracker.broken
    assert len(offline(tmp_path)) == 2


def test_without_an_account_it_goes_on_offline_with_a_warning(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(wandb, "login", lambda **_: False)
    tracker = make_tracker(config(tmp_path, "online"), "quick")
    use_all(tracker, tmp_path)
    assert "offline" in capsys.readouterr().err
    assert not tracker.broken


@pytest.mark.slow
def test_without_a_network_it_goes_on_offline_with_one_warning(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # no server
    monkeypatch.setattr("lrlc_jax.tracking.CONNECT_SECONDS", 3)
    tracker = make_tracker(config(tmp_path, "online"), "quick")
    use_all(tracker, tmp_path)
    assert capsys.readouterr().err.count("wandb sync") == 1
    assert not tracker.broken
    assert len(offline(tmp_path)) == 2


def test_after_its_first_error_the_run_goes_on_with_one_warning(tmp_path, monkeypatch, capsys):
    def fail(**_):
        raise RuntimeError("no space\nleft")

    monkeypatch.setattr(wandb, "init", fail)
    tracker = WandbTracker(config(tmp_path), "quick")
    use_all(tracker, tmp_path)
    (line,) = capsys.readouterr().err.splitlines()
    assert "no space left" in line
    (path,) = (tmp_path / "records").glob("*.json")
    assert json.loads(pathlib.Path(path).read_text())["identity"] == example().identity


class FakeRun:
    """A W&B run that keeps its steps, and may break at one."""

    def __init__(self, arguments, breaks_at=None, starting_step=0):
        self.arguments, self.breaks_at = arguments, breaks_at
        self.starting_step, self.config = starting_step, {}
        self.steps, self.summary, self.artifacts, self.finished = [], {}, [], False

    def log(self, metrics, step=None):
        assert metrics
        if step is not None and step == self.breaks_at:
            raise ConnectionError("the server has gone")
        self.steps.append(step)

    def log_artifact(self, artifact):
        self.artifacts.append(artifact)

    def finish(self, exit_code=0):
        self.finished, self.exit_code = True, exit_code


def training(folder, **changes):
    settings = {
        "layer": LRLCConfig(at=3, rank=2),
        "dataset": DatasetConfig(train_size=100),
        "protocol": ProtocolConfig(epochs=4, seeds=2),
        "tracker": TrackerConfig(name="wandb"),
        "results_dir": str(folder),
    }
    return Config(**{**settings, **changes})


def test_an_error_during_a_run_does_not_change_its_metrics(tmp_path, monkeypatch, capsys):
    runs = []

    def init(**arguments):
        runs.append(FakeRun(arguments, breaks_at=3))
        return runs[-1]

    monkeypatch.setattr(wandb, "init", init)
    config = training(tmp_path / "broken")
    broken = execute([Loader().job(config)], make_tracker(config, "quick"))
    assert capsys.readouterr().err.count("the server has gone") == 1
    assert runs[0].steps == [1, 2]
    config = training(tmp_path / "without", tracker=TrackerConfig())
    without = execute([Loader().job(config)], make_tracker(config))
    (ours,), (theirs,) = broken.done, without.done
    assert (ours.epochs, ours.final) == (theirs.epochs, theirs.final)
    assert records.find(ours.identity, tmp_path / "broken").records == ours.records


def test_a_run_is_resumed_under_its_identity_and_in_its_studys_group(tmp_path, monkeypatch):
    runs = []

    def init(**arguments):
        runs.append(FakeRun(arguments))
        return runs[-1]

    monkeypatch.setattr(wandb, "init", init)
    config = training(tmp_path)

    class StopsAfterTwo(WandbTracker):
        def epoch(self, epoch, metrics):
            super().epoch(epoch, metrics)
            if epoch == 2:
                raise Stopped("here")

    stopped = execute([Loader().job(config)], StopsAfterTwo(config, "table1"))
    assert len(stopped.pending) == 1
    assert runs[0].finished
    done = execute([Loader().job(config)], WandbTracker(config, "table1"))
    assert [run.steps for run in runs] == [[1, 2], [1, 2, 3, 4]]  # offline: all of them again
    assert runs[0].arguments["id"] == runs[1].arguments["id"]
    for run in runs:
        assert run.arguments["id"].startswith(done.done[0].identity)
        assert run.arguments["group"] == "table1"
        # An upload would append the second run to the first, whose epochs it repeats.
        assert "resume" not in run.arguments


def test_the_results_of_a_study_are_one_wandb_run_however_often_they_are_written(
    tmp_path, monkeypatch
):
    arguments = []
    monkeypatch.setattr(wandb, "login", lambda **_: True)
    monkeypatch.setattr(wandb, "init", lambda **given: arguments.append(given) or FakeRun(given))
    tracker = WandbTracker(config(tmp_path, "online"), "quick")
    for _ in range(2):
        tracker.finish_study({"quick-digits": TABLE}, {"figure": picture(tmp_path)})
    tracker.finish_study({"quick-mnist": TABLE}, {})
    assert not tracker.broken
    first, again, other = (given["id"] for given in arguments)
    assert first == again != other
    assert {given["resume"] for given in arguments} == {"allow"}


def test_an_offline_run_has_all_settings_metrics_and_files(tmp_path):
    network = NetworkConfig(precision="bfloat16")
    settings = config(tmp_path, network=network, protocol=ProtocolConfig(learning_rate=0.5))
    tracker, record = make_tracker(settings, "quick"), example(network=network)
    tracker.start_run(settings, RUN_ID, SEEDS)
    tracker.epoch(1, metrics())
    tracker.finish_run(record, files_of(record, tmp_path))
    assert not tracker.broken
    (run,) = offline(tmp_path)
    assert (run.run.run_id, run.run.run_group, run.run.project) == (RUN_ID, "quick", "lrlc_jax")
    assert run.config["layer"] == settings.layer.canonical()
    for section in ("dataset", "network", "protocol"):
        assert run.config[section] == vars(getattr(settings, section))
    assert (run.config["run_id"], run.config["seeds"]) == (RUN_ID, [*SEEDS])
    assert run.config["identity"] == record.identity
    assert run.config["data"]["fingerprint"] == "f00d"
    for name, values in metrics().items():
        by_seed = {f"{name}/seed{s}": v for s, v in zip(SEEDS, values.tolist(), strict=True)}
        assert {key: run.steps[1][key] for key in by_seed} == pytest.approx(by_seed)
        assert {key for key in run.steps[1] if key.startswith(name)} == {*by_seed, f"{name}/mean"}
    assert run.summary["final/validation_accuracy"] == pytest.approx(0.91)
    assert {*run.artifacts} == {"record", "predictions", "model"}
    for path in files_of(record, tmp_path):
        contents = [artifact.manifest.contents for artifact in run.artifacts.values()]
        assert str(path) in {entry.local_path for entries in contents for entry in entries}


@pytest.mark.parametrize(
    "changed",
    [
        {"layer": LRLCConfig(rank=5)},
        {"layer": ConvConfig()},
        {"dataset": DatasetConfig(train_size=100)},
        {"dataset": DatasetConfig(translate=12)},
        {"network": NetworkConfig(precision="bfloat16")},
        {"network": NetworkConfig(pooling="max")},
        {"protocol": ProtocolConfig(epochs=3)},
        {"protocol": ProtocolConfig(learning_rate=0.5)},
    ],
)
def test_the_names_of_different_runs_differ(tmp_path, changed):
    given = config(tmp_path)
    names = {
        run_name(given, SEEDS),
        run_name(given, (1, 5)),
        run_name(config(tmp_path, **changed), SEEDS),
    }
    assert len(names) == 3
    elsewhere = DatasetConfig(source="files", path="/data", cache_dir="/cache")
    assert run_name(config(tmp_path, dataset=elsewhere), SEEDS) in names


def test_a_resumed_run_is_whole_offline_and_has_no_step_twice_online(tmp_path, monkeypatch):
    first, second = (make_tracker(config(tmp_path)) for _ in range(2))
    first.start_run(config(tmp_path), RUN_ID, SEEDS)
    for epoch in (1, 2):
        first.epoch(epoch, metrics(epoch))
    first.stop()
    use(second, tmp_path, [metrics(1), metrics(2)])
    part, whole = offline(tmp_path)
    assert (part.run.run_id, [*part.steps]) == (RUN_ID, [1, 2])
    assert (whole.run.run_id, [*whole.steps]) == (RUN_ID, [1, 2, 3])
    for step in (1, 2):
        assert whole.steps[step]["train_loss/seed5"] == step == part.steps[step]["train_loss/seed5"]

    run = FakeRun({}, starting_step=3)  # as W&B resumes it online, after step 2
    monkeypatch.setattr(wandb, "login", lambda **_: True)
    monkeypatch.setattr(wandb, "init", lambda resume, **_: run if resume == "allow" else None)
    tracker = make_tracker(config(tmp_path, "online"))
    use(tracker, tmp_path, [metrics(1), metrics(2)])
    use(tracker, tmp_path, [metrics(1)])  # from an older checkpoint
    assert not tracker.broken
    assert run.steps == [3]


def test_a_run_that_failed_does_not_get_the_metrics_of_the_next_one(tmp_path):
    tracker = make_tracker(config(tmp_path), "quick")
    tracker.start_run(config(tmp_path), "of-a-failed-run", SEEDS)
    use(tracker, tmp_path)
    assert not tracker.broken
    failed, run = offline(tmp_path)
    assert (failed.run.run_id, failed.steps) == ("of-a-failed-run", {})
    assert (run.run.run_id, [*run.steps]) == (RUN_ID, [1])


def test_the_environment_of_wandb_applies_unless_a_setting_says_otherwise(tmp_path, monkeypatch):
    given = []
    monkeypatch.setattr(wandb, "init", lambda **arguments: given.append(arguments) or FakeRun({}))
    monkeypatch.setattr(wandb, "login", lambda **_: True)
    for name, value in {
        "WANDB_MODE": "online",
        "WANDB_PROJECT": "ours",
        "WANDB_ENTITY": "us",
        "WANDB_RUN_GROUP": "Monday",
        "WANDB_DIR": str(tmp_path / "elsewhere"),
        "WANDB_NAME": "first try",
    }.items():
        monkeypatch.setenv(name, value)
    use(make_tracker(config(tmp_path)), tmp_path)
    explicit = TrackerConfig("wandb", mode="offline", project="mine", entity="me")
    use(make_tracker(config(tmp_path, tracker=explicit)), tmp_path)
    use(make_tracker(config(tmp_path), "quick"), tmp_path)
    one, other, in_study = given
    for name, by_environment, by_settings in (
        ("mode", "online", "offline"),
        ("project", "ours", "mine"),
        ("entity", "us", "me"),
        ("dir", str(tmp_path / "elsewhere"), str(tmp_path / "elsewhere")),
        ("group", "Monday", "Monday"),
        ("name", "first try", "first try"),
    ):
        assert (one[name], other[name]) == (by_environment, by_settings)
    assert in_study["name"] == f"first try {run_name(config(tmp_path), SEEDS)}"


def test_a_wrong_mode_in_the_environment_is_refused_by_name(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "onlin")
    with pytest.raises(InputError, match=r"WANDB_MODE 'onlin'.*'online'"):
        make_tracker(config(tmp_path))
    make_tracker(Config())  # without W&B it does not matter


def test_a_disabled_wandb_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path / "wandb_dir"))
    use_all(make_tracker(config(tmp_path)), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"records"}


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    """The sweep of the documentation, and the environment of an agent of it."""
    text = (ROOT / "docs" / "tracking.md").read_text()
    sweep = yaml.safe_load(re.search(r"```yaml\n(.*?)```", text, re.DOTALL)[1])
    monkeypatch.chdir(ROOT)
    environment = {
        "PATH": f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}",
        "WANDB_MODE": "offline",
        "WANDB_DIR": str(tmp_path),
        "WANDB_SWEEP_ID": "sweep7",
    }
    with mock.patch.dict("os.environ", environment):  # the agent changes it, too
        yield sweep


def test_every_value_of_a_sweep_is_valid(sweep):
    for name, parameter in sweep["parameters"].items():
        for value in parameter["values"]:
            composed(f"{name}={value}")


@pytest.mark.slow
def test_an_agent_of_a_sweep_gets_its_run_with_the_metric(tmp_path, sweep):
    assert sweep["metric"] == {"name": "final/validation_accuracy", "goal": "maximize"}
    first = {name: p["values"][0] for name, p in sweep["parameters"].items()}
    tiny = {"protocol.epochs": 2, "protocol.seeds": 2, "dataset.train_size": 100}
    values = {**first, **tiny, "results_dir": str(tmp_path)}
    agent = Agent(api=None, queue=None)
    agent._sweep_command = sweep["command"]
    arguments = {name: {"value": value} for name, value in values.items()}
    agent._command_run({"run_id": "chosen8", "program": sweep["program"], "args": arguments})
    assert agent._run_processes["chosen8"].wait(timeout=200) == 0
    (run,) = offline(tmp_path)
    (path,) = (tmp_path / "records").glob("*.json")
    final = records.read(path).final["validation_accuracy"]
    assert (run.run.run_id, run.run.sweep_id) == ("chosen8", "sweep7")
    assert run.summary["final/validation_accuracy"] == pytest.approx(sum(final) / len(final))
    assert {name: run.config[name] for name in values} == values
    assert run.config["layer_settings"]["rank"] == first["layer.rank"]
    assert run.config["protocol"]["epochs"] == 2


def test_a_run_on_record_counts_in_a_sweep_and_nowhere_else(tmp_path, monkeypatch):
    record = example()
    make_tracker(config(tmp_path)).known_run(config(tmp_path), RUN_ID, record, [])
    assert not (tmp_path / "wandb").exists()
    for name, value in {"SWEEP_ID": "sweep7", "RUN_ID": "chosen8", "MODE": "offline"}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    three = config(tmp_path, protocol=ProtocolConfig(seeds=3))
    tracker = make_tracker(three)
    # A part of the seeds, trained now: the agent's one run gets all of them at the end.
    tracker.start_run(three, RUN_ID, [2])
    tracker.epoch(1, {name: values[:1] for name, values in metrics().items()})
    tracker.finish_run(example(seeds=[2], validation=(0.1,), test=(0.1,)), [])
    assert not offline(tmp_path)
    for _ in range(2):  # once, however often
        tracker.known_run(three, RUN_ID, record, files_of(record, tmp_path))
    assert not tracker.broken
    (run,) = offline(tmp_path)
    assert run.run.run_id == "chosen8"
    assert run.summary["final/validation_accuracy"] == pytest.approx(0.91)
    assert run.steps[1]["train_loss/seed2"] == record.epochs["train_loss"][0][2]
