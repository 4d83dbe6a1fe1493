"""Predictions and weights are kept beside the record, verified, and enough to examine a network."""

import dataclasses
import json
import runpy

import jax
import numpy as np
import pytest

from lrlc_jax.data import DatasetConfig, load
from lrlc_jax.errors import InputError
from lrlc_jax.experiments import record as records
from lrlc_jax.experiments import trained
from lrlc_jax.experiments.config import Config
from lrlc_jax.experiments.evaluate import evaluate
from lrlc_jax.experiments.execute import execute
from lrlc_jax.experiments.study import Loader
from lrlc_jax.experiments.trained import file_of, predictions, trained_network
from lrlc_jax.layers import LAYERS, ConvConfig, LRLCConfig
from lrlc_jax.networks import NetworkConfig, NetworkFactory
from lrlc_jax.tracking import Tracker
from lrlc_jax.training.train import ProtocolConfig
from tests.commands import quick_compilation
from tests.conftest import ROOT
from tests.experiments.examples import forged
from tests.layers.examples import exhaustive

pytestmark = pytest.mark.usefixtures("optax_types", "quick_compilation")


def run(folder, layer, **changes):
    """The file of a tiny run's record."""
    settings = {
        "layer": layer,
        "dataset": DatasetConfig(train_size=100),
        "network": NetworkConfig(channels=4),
        "protocol": ProtocolConfig(epochs=2, seeds=2, first_seed=3),
    }
    config = Config(**{**settings, **changes}, results_dir=str(folder))
    (found,) = execute([Loader().job(config)], Tracker()).done
    return found.paths[0]


@pytest.fixture(scope="module")
def lrlc(tmp_path_factory):
    with jax.numpy_dtype_promotion("standard"), quick_compilation():
        return run(tmp_path_factory.mktemp("lrlc"), LRLCConfig())


@pytest.fixture
def copied(lrlc, tmp_path):
    """A copy of the record with its files."""
    for path in trained.files_beside(lrlc):
        (tmp_path / "records").mkdir(exist_ok=True)
        (tmp_path / "records" / path.name).write_bytes(path.read_bytes())
    return tmp_path / "records" / lrlc.name


OFTEN = ("lrlc", "lrlc_input_dependent", "locally_connected")


@pytest.mark.parametrize("name", [name if name in OFTEN else exhaustive(name) for name in LAYERS])
def test_an_evaluation_equals_the_record_of_every_layer(tmp_path, name):
    path = run(tmp_path, LAYERS[name](**({"at": 3} if name == "locally_connected" else {})))
    lines = evaluate(path)
    assert sum("equal to the record" in line for line in lines) == 2
    assert not any("DIFFERENT" in line for line in lines)


def test_an_evaluation_uses_the_weights(copied):
    values = trained.load_weights(copied, records.read(copied))
    changed = jax.tree.map(lambda leaf: leaf + 0.1, values)
    put(copied, "weights", trained.flat(changed))
    assert any("DIFFERENT FROM THE RECORD" in line for line in evaluate(copied))


def test_predictions_are_those_that_the_accuracies_count(lrlc):
    record, found = records.read(lrlc), predictions(lrlc)
    for split in ("validation", "test"):
        assert found[split].shape == (2, record.data[split])
        accuracies = [float(f"{mean:.7g}") for mean in found[split].mean(axis=1)]
        assert accuracies == record.final[f"{split}_accuracy"]
    size = file_of(lrlc, "predictions").stat().st_size
    assert size < 2 * (497 + 900) / 8 + 300  # one bit each, and a header


@pytest.mark.parametrize("seed", [None, 3, 4])
def test_a_network_for_a_notebook_makes_the_recorded_predictions(lrlc, seed):
    network = trained_network(str(lrlc), seed)
    data = load(DatasetConfig())
    factor, offset = data.scaling
    logits = network(data.test.images.astype(np.float32) * factor + offset, train=False)
    correct = np.argmax(logits, axis=-1) == data.test.labels
    assert np.mean(correct == predictions(lrlc)["test"][(seed or 3) - 3]) > 0.999


def test_a_seed_that_is_not_there_is_refused(lrlc):
    with pytest.raises(InputError, match="3-4, not 0"):
        trained_network(lrlc, 0)


@pytest.mark.parametrize("kind", trained.KINDS)
@pytest.mark.parametrize("damage", ["missing", "damaged"])
def test_a_file_that_is_gone_or_damaged_is_named(copied, kind, damage):
    file = file_of(copied, kind)
    if damage == "missing":
        file.unlink()
    else:
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content + b"0" * (kind == "weights"))  # tables compare sizes of weights
    folder = copied.parent.parent
    read = predictions if kind == "predictions" else trained_network
    with pytest.raises(InputError, match=f"{file.name} is {damage}"):
        read(copied)
    (sentence,) = trained.problems(records.read_records(folder).runs.values())
    assert file.name in sentence
    assert damage in sentence


def put(path, kind, arrays):
    """Replace a file beside a record, with the right checksum."""
    content = trained.numpy.save(arrays)
    file_of(path, kind).write_bytes(content)
    text = json.loads(path.read_text())
    digest = trained.hashlib.sha256(content).hexdigest()
    text["files"][kind] = {"sha256": digest, "bytes": len(content)}
    path.write_text(json.dumps(text))


@pytest.mark.parametrize("kind", trained.KINDS)
@pytest.mark.parametrize("change", ["seeds", "type", "axes"])
def test_files_of_other_seeds_or_images_are_named(copied, kind, change):
    arrays = trained.numpy.load(file_of(copied, kind).read_bytes())
    function = {
        "seeds": lambda v: v[:1],
        "type": lambda v: v.astype("int16"),
        "axes": lambda v: v.ravel(),
    }[change]
    put(copied, kind, {name: np.ascontiguousarray(function(v)) for name, v in arrays.items()})
    read = predictions if kind == "predictions" else trained_network
    with pytest.raises(InputError, match="of other seeds or images"):
        read(copied)
    (sentence,) = trained.problems(records.read_records(copied.parents[1]).runs.values())
    assert file_of(copied, kind).name in sentence


def test_a_network_that_does_not_fit_the_images_of_its_record_is_refused(copied):
    content = json.loads(copied.read_text())
    content["data"]["image_shape"] = [2, 2, 1]
    path = forged(copied.parents[1] / "other", content)
    file_of(path, "weights").write_bytes(file_of(copied, "weights").read_bytes())
    with pytest.raises(InputError, match="smaller than the kernel"):
        trained_network(path)


def test_a_record_without_one_of_its_seeds_does_not_fit_its_predictions(copied):
    content = json.loads(copied.read_text())
    content["seeds"].pop()
    content["final"] = {name: values[:-1] for name, values in content["final"].items()}
    content["epochs"] = {n: [row[:-1] for row in rows] for n, rows in content["epochs"].items()}
    path = forged(copied.parents[1] / "other", content)
    for kind in trained.KINDS:
        file_of(path, kind).write_bytes(file_of(copied, kind).read_bytes())
    (run,) = records.read_records(copied.parents[1] / "other").runs.values()
    assert len(trained.problems([run])) == 2


def test_weights_of_large_runs_are_not_kept_unless_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(trained, "SMALL_RUN", 1000)
    path = run(tmp_path / "large", ConvConfig())
    assert set(records.read(path).files) == {"predictions"}
    with pytest.raises(InputError, match="keep=weights"):
        trained_network(path)
    build = NetworkFactory((8, 8, 1), 10, ConvConfig(), NetworkConfig(channels=4))
    assert trained.keeps_weights(build, 1, "weights")
    assert not trained.keeps_weights(build, 1, "predictions")
    monkeypatch.setattr(trained, "SMALL_RUN", 4 * (build.parameters() + 3 * 2 * 4) * 5 + 1)
    assert trained.keeps_weights(build, 5, None)
    assert not trained.keeps_weights(build, 6, None)


def test_a_killed_write_leaves_no_record_without_its_files(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "write", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, ConvConfig())
    assert not list((tmp_path / "records").glob("*.json"))
    monkeypatch.undo()
    path = run(tmp_path, ConvConfig())
    assert sorted((tmp_path / "records").iterdir()) == sorted(trained.files_beside(path))


def test_other_images_of_the_same_shape_can_be_evaluated_and_no_others(lrlc, capsys):
    shifted = evaluate(lrlc, ["dataset.shift=[2,0]"])
    assert any("shifted" in line for line in shifted)
    assert not any("equal" in line or "DIFFERENT" in line for line in shifted)
    with pytest.raises(InputError, match="12x12x1"):
        evaluate(lrlc, ["dataset.translate=12"])
    with pytest.raises(InputError, match="layer"):
        evaluate(lrlc, ["layer.rank=2"])
    with pytest.raises(InputError, match="'mnist'"):
        evaluate(lrlc, ["dataset=mnst"])
    script = runpy.run_path(str(ROOT / "scripts" / "evaluate.py"))["main"]
    capsys.readouterr()
    script([str(lrlc)])
    assert capsys.readouterr().out.count("equal to the record") == 2
    for arguments in ([], [str(lrlc.with_name("none.json"))]):
        with pytest.raises(InputError):
            script(arguments)


def test_training_accuracy_at_the_end_is_that_of_the_network_on_its_training_images(lrlc):
    data = dataclasses.replace(load(DatasetConfig(train_size=100)))
    factor, offset = data.scaling
    network = trained_network(lrlc, 4)
    logits = network(data.train.images.astype(np.float32) * factor + offset, train=False)
    accuracy = np.mean(np.argmax(logits, axis=-1) == data.train.labels)
    final = records.read(lrlc).final
    assert final["train_at_end_accuracy"][1] == pytest.approx(accuracy)
    assert final["train_at_end_accuracy"] != final["train_accuracy"]


def test_weights_of_another_network_are_refused(copied):
    values = trained.numpy.load(file_of(copied, "weights").read_bytes())
    name = "params/layers/0/kernel"
    for changed in (
        {k: v for k, v in values.items() if k != name},
        values | {name: values[name][:, :1]},
    ):
        put(copied, "weights", changed)
        with pytest.raises(InputError, match=name):
            trained_network(copied)


def test_only_settings_of_data_and_speed_can_be_given(lrlc):
    lines = evaluate(lrlc, ["seeds_at_once=2", "product_way=patches", "dataset.train_size=10"])
    assert any("test accuracy" in line for line in lines)
    for given in ("results_dir=x", "tracker=wandb", "protocol.seeds=2", "x"):
        with pytest.raises(InputError):
            evaluate(lrlc, [given])
