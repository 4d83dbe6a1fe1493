"""A record is enough to repeat its run, and the repetition is compared with it."""

import dataclasses
import runpy

import pytest

from lrlc_jax.data import DatasetConfig
from lrlc_jax.data.order import BY_PERSON
from lrlc_jax.errors import InputError, RunError
from lrlc_jax.experiments import record as records
from lrlc_jax.experiments.config import Config, parse
from lrlc_jax.experiments.execute import execute
from lrlc_jax.experiments.identity import canonical
from lrlc_jax.experiments.reproduce import differences, override, reproduce, settings_of
from lrlc_jax.experiments.statistics import DIFFERENT, EQUAL, WITHIN_NOISE
from lrlc_jax.experiments.study import Loader
from lrlc_jax.layers import LAYERS, LRLCConfig
from lrlc_jax.networks import NetworkConfig
from lrlc_jax.tracking import Tracker
from lrlc_jax.training.train import ProtocolConfig
from tests.conftest import ROOT
from tests.experiments.examples import example

pytestmark = pytest.mark.usefixtures("optax_types", "quick_compilation")


def config_of(record):
    return parse(settings_of(record))


def run_of(record):
    """The identifying settings of the configuration that a record leads to."""
    dataset = record.run["dataset"]
    return canonical(config_of(record), dataset["fingerprint"], dataset["train_size"])


VARIED = {
    "conv": {},
    "coord_conv": {},
    "wide_conv": {"at": [1, 3], "rank": 2},
    "spatial_bias": {"at": "all", "sharing": "row"},
    "locally_connected": {"at": 2, "fan_in": "position"},
    "lrlc": {
        "at": [2],
        "rank": 3,
        "sharing": "full",
        "normalization": "norm",
        "weights_init": "random",
        "use_spatial_bias": False,
    },
    "lrlc_input_dependent": {"at": 1, "normalization": "none", "use_spatial_bias": False},
    "lrlc_mixed": {
        "rank": 2,
        "kernel_sizes": [3, [1, 5]],
        "dilations": 2,
        "input_dependent": True,
        "sharing": "full",
    },
}


def record_of(config, **data):
    """A record of this configuration."""
    base = example()
    data = base.data | data
    run = canonical(config, "f00d", data["train"])
    how = base.config | {
        "protocol": config.protocol.name,
        "source": config.dataset.source,
        "validate_every": config.protocol.validate_every,
    }
    return dataclasses.replace(base, run=run, config=how, data=data)


@pytest.mark.parametrize("name", LAYERS)
def test_a_record_leads_to_the_settings_of_its_layer_and_protocol(name):
    layers = [LAYERS[name](), LAYERS[name](**VARIED[name])]
    for layer in layers:
        config = Config(
            layer=layer, protocol=ProtocolConfig("mine", 7, 2, 20, 0.03, 3, validate_every=4)
        )
        record = record_of(config)
        assert run_of(record) == record.run
        assert config_of(record).protocol == config.protocol


@pytest.mark.parametrize(
    "config",
    [
        Config(
            network=NetworkConfig(
                32, 5, [1, 2, 1], "same", "max", True, False, precision="bfloat16"
            )
        ),
        Config(dataset=DatasetConfig("mnist", "files", translate=48)),
        Config(dataset=DatasetConfig("celeba", "tfds", translate=48, translate_train="fresh")),
        Config(dataset=DatasetConfig("cifar10", "files", train_size=100)),
    ],
)
def test_a_record_leads_to_the_settings_of_its_network_and_data(config):
    train = config.dataset.train_size or 400
    record = record_of(config, train=train)
    assert run_of(record) == record.run
    found = config_of(record).dataset
    assert (found.name, found.source) == (config.dataset.name, config.dataset.source)
    assert (found.translate, found.train_size) == (
        config.dataset.translate,
        config.dataset.train_size,
    )


def test_each_published_record_leads_to_its_own_run():
    for path in (ROOT / "results" / "published" / "records").glob("*.json"):
        record = records.read(path)
        assert run_of(record) == record.run


def test_a_note_tells_a_split_by_person():
    celeba = Config(dataset=DatasetConfig("celeba", "files"))
    assert config_of(record_of(celeba, notes=[BY_PERSON])).dataset.split == "person"
    assert config_of(record_of(celeba, notes=["PARTIAL: 1 of 2"])).dataset.split == "official"


def test_settings_that_change_rounding_are_kept_on_the_same_device():
    how = example().config | {"seeds_at_once": 2, "product_way": "columns"}
    record = dataclasses.replace(example(), config=how)
    same, other = (parse(settings_of(record, device)) for device in ("cpu", "a GPU"))
    assert (same.seeds_at_once, same.product_way) == (2, "columns")
    assert (other.seeds_at_once, other.product_way) == (None, None)


def test_settings_outside_of_the_identity_can_be_changed():
    settings = settings_of(example())
    given = ["dataset.path=/a b/1e3", "results_dir=2024", "seeds_at_once=2", "tracker=wandb"]
    given += ["tracker.mode=online", "dataset.cache_dir=null", "protocol.data_parallel=5"]
    config = override(settings, given)
    assert config.dataset.path == "/a b/1e3"
    assert (config.results_dir, config.seeds_at_once) == ("2024", 2)
    assert (config.tracker.name, config.tracker.mode) == ("wandb", "online")
    assert config.protocol.data_parallel == 5
    assert canonical(config, "f00d", 400) == canonical(parse(settings), "f00d", 400)
    assert settings == settings_of(example())


@pytest.mark.parametrize(
    ("given", "words"),
    [
        *(
            (given, given.partition("=")[0])
            for given in (
                "layer.rank=5",
                "dataset.translate=48",
                "dataset.train_size=100",
                "dataset.split=null",
                "protocol.seeds=2",
                "network.precision=bfloat16",
            )
        ),
        ("layer=conv", "layer"),
        ("dataset=mnist", "dataset"),
        ("protocol=paper", "protocol"),
        ("dataset.pth=x", "'dataset.path'"),
        ("trackr=wandb", "'tracker'"),
        ("results_dir.x=1", "'results_dir'"),
        ("seeds_at_once=[", "seeds_at_once"),
        ("conv", "name=value"),
    ],
)
def test_no_other_setting_can_be_changed(given, words):
    with pytest.raises(InputError, match=words):
        override(settings_of(example()), [given])


def test_differences_of_provenance_are_named():
    other = dataclasses.replace(example(), machine={"device": "gpu"}, versions={"python": "4"})
    assert differences([example(), other]) == {
        "machine.device": ["cpu", "gpu"],
        "versions.python": ["3", "4"],
    }


def with_run(record, **changes):
    run = record.run | changes
    return dataclasses.replace(record, run=run)


def snapshot(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_run_is_repeated_from_its_record_and_compared(tmp_path, capsys):
    config = Config(
        dataset=DatasetConfig(train_size=100),
        layer=LRLCConfig(rank=2, at=1),
        network=NetworkConfig(channels=4),
        protocol=ProtocolConfig(epochs=3, seeds=2, validate_every=2),
        results_dir=str(tmp_path / "results"),
    )
    (run,) = execute([Loader().job(config)], Tracker()).done
    ((record,), (path,)) = run.records, run.paths
    with pytest.raises(RunError):
        reproduce(path, ["budget_minutes=0"])
    comparison, lines = reproduce(path)
    assert comparison.verdict == EQUAL
    assert lines[-1].startswith(EQUAL)
    again = tmp_path / "results" / "reproductions" / "records" / path.name
    assert records.read(again).digest == record.digest
    assert str(again) in "\n".join(lines)

    before = snapshot(tmp_path)
    assert reproduce(path)[0].verdict == EQUAL
    assert snapshot(tmp_path) == before  # not trained again
    with pytest.raises(InputError, match="results_dir"):
        reproduce(path, [f"results_dir={tmp_path / 'results'}"])

    there = [f"results_dir={tmp_path / 'results' / 'reproductions'}"]
    loss = [value + 1e-6 for value in record.final["test_loss"]]
    noisy = dataclasses.replace(record, final=record.final | {"test_loss": loss})
    assert reproduce(records.write(noisy, tmp_path / "noisy"), there)[0].verdict == WITHIN_NOISE
    older = records.write(with_run(record, training=1), tmp_path / "older")
    comparison, lines = reproduce(older, there)
    assert comparison.verdict == EQUAL
    assert any("version 1" in line for line in lines)
    other = with_run(record, dataset=record.run["dataset"] | {"fingerprint": "beef"})
    with pytest.raises(InputError, match="beef"):
        reproduce(records.write(other, tmp_path / "other"))

    capsys.readouterr()
    script = runpy.run_path(str(ROOT / "scripts" / "reproduce.py"))["main"]
    script([str(path)])
    assert capsys.readouterr().out.splitlines()[-1].startswith(EQUAL)
    loss = [value + 9 for value in record.final["test_loss"]]
    raised = dataclasses.replace(record, final=record.final | {"test_loss": loss})
    with pytest.raises(RunError):  # exit status 1
        script([str(records.write(raised, tmp_path / "raised")), *there])
    assert capsys.readouterr().out.splitlines()[-1].startswith(DIFFERENT)
    for arguments in ([], [str(tmp_path / "none.json")], [str(path), "layer.rank=5"]):
        with pytest.raises(InputError):  # exit status 2
            script(arguments)
