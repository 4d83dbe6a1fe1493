"""The menu of YAML files and the schema say the same, and bad values are refused by name."""

import dataclasses
import re

import pytest
from omegaconf import OmegaConf

from lrlc_jax.builders import BUILDERS
from lrlc_jax.data.dataset import DatasetConfig
from lrlc_jax.errors import InputError
from lrlc_jax.experiments.config import Config, layer_config, parse
from lrlc_jax.experiments.layers import expand
from lrlc_jax.experiments.menu import studies
from lrlc_jax.experiments.plan import members
from lrlc_jax.layers import combining, product
from lrlc_jax.layers.local import STARTS
from lrlc_jax.layers import LAYERS, LRLCConfig
from lrlc_jax.networks import PAPER_NETWORK, NetworkConfig
from lrlc_jax.tracking import TrackerConfig
from lrlc_jax.training.train import PAPER_PROTOCOL, ProtocolConfig
from tests.conftest import ROOT

CONFIGS = ROOT / "configs"


def menu(group):
    return {
        path.stem: OmegaConf.to_container(OmegaConf.load(path))
        for path in sorted((CONFIGS / group).glob("*.yaml"))
    }


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_in_the_menu_has_the_defaults_of_its_schema(name):
    assert menu("layer")[name] == dataclasses.asdict(LAYERS[name]())


def test_every_layer_has_a_menu_entry_and_a_builder():
    assert set(LAYERS) == set(menu("layer")) == set(BUILDERS)


def test_the_words_of_the_schema_are_those_of_the_layers():
    assert set(LRLCConfig.CHOICES["sharing"]) == set(combining.SHARINGS)
    assert set(LRLCConfig.CHOICES["normalization"]) == set(combining.NORMALIZATIONS)
    assert set(LAYERS["locally_connected"].CHOICES["fan_in"]) == set(STARTS)


def test_the_default_choices_have_the_defaults_of_the_schema():
    assert menu("protocol")["quick"] == dataclasses.asdict(ProtocolConfig())
    assert menu("dataset")["digits"] == dataclasses.asdict(DatasetConfig())
    assert menu("tracker")["none"] == dataclasses.asdict(TrackerConfig())
    assert menu("network")["paper"] == dataclasses.asdict(NetworkConfig())


def test_the_ways_of_a_product_are_those_that_there_are():
    assert Config.WAYS == product.WAYS


def test_the_paper_network_is_the_papers_and_the_default():
    assert NetworkConfig() == PAPER_NETWORK
    assert dataclasses.asdict(PAPER_NETWORK) == {
        "channels": 64,
        "kernel_size": 3,
        "strides": [1, 1, 1],
        "padding": "valid",
        "pooling": "average",
        "blur": False,
        "batch_norm": True,
        "precision": "float32",
    }


@pytest.mark.parametrize(
    ("group", "name"),
    [(g, n) for g in ("dataset", "network", "protocol", "tracker") for n in menu(g)],
)
def test_every_choice_is_valid(group, name):
    assert parse({group: menu(group)[name]})


def test_every_dataset_has_a_menu_entry():
    assert {entry["name"] for entry in menu("dataset").values()} == set(DatasetConfig.SOURCES)


def test_translated_celeba_differs_from_celeba_in_nothing_else():
    plain, translated = menu("dataset")["celeba"], menu("dataset")["translated_celeba"]
    assert translated == plain | {"translate": 48}


def test_every_study_expands():
    menu = studies(CONFIGS)
    for study in menu:
        assert all(expand(member, {}) for member in members(study, menu))


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.yaml")), ids=lambda p: p.stem)
def test_a_config_opens_with_what_it_is_and_the_command_that_runs_it(path):
    head = re.match(r"(?:#.*\n)+", path.read_text())
    assert head
    assert "python scripts/" in head.group()


def test_the_paper_protocol_is_the_papers():
    assert menu("protocol")["paper"] == dataclasses.asdict(PAPER_PROTOCOL)
    assert menu("protocol")["paper"] == {
        "name": "paper",
        "epochs": 150,
        "warmup_epochs": 10,
        "batch_size": 512,
        "learning_rate": 0.01,
        "seeds": 10,
        "data_parallel": 1,
    }


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"layer": {"name": "lrcl"}}, "did you mean 'lrlc'"),
        ({"layer": {"name": "lrlc", "rnk": 3}}, "did you mean 'layer.rank'"),
        ({"layer": {"name": "lrlc", "rank": 0}}, "layer.rank is 0"),
        ({"layer": {"name": "wide_conv", "rank": 0}}, "layer.rank is 0"),
        ({"layer": {"name": "lrlc_input_dependent", "sharing": "row"}}, "setting 'layer.sharing'"),
        ({"layer": {"name": "lrlc_mixed", "rank": 3}}, "layer.dilations is .* layer.rank is 3"),
        ({"layer": {"name": "lrlc_mixed", "kernel_sizes": [3, 0]}}, "layer.kernel_sizes is 0"),
        ({"layer": {"name": "lrlc_mixed", "kernel_sizes": [3, [3]]}}, "layer.kernel_sizes is"),
        ({"layer": {"name": "lrlc_mixed", "input_dependent": True}}, "set layer.sharing=full"),
        ({"network": {"padding": "reflct"}}, "did you mean 'reflect'"),
        ({"network": {"pooling": "sum"}}, "There is no network.pooling 'sum'"),
        ({"network": {"strides": [2, 2]}}, "network.strides is .2, 2.; give 3 numbers"),
        ({"network": {"strides": [2, 2, 0]}}, "network.strides is 0"),
        ({"network": {"channels": 0}}, "network.channels is 0"),
        ({"layer": {"name": "lrlc", "rank": "many"}}, r"layer\.rank"),
        ({"layer": {"name": "lrlc", "at": 0}}, "layer.at is 0"),
        ({"layer": {"name": "lrlc", "at": []}}, r"layer.at is \[\]"),
        ({"layer": {"name": "lrlc", "at": True}}, "layer.at is True"),
        ({"layer": {"name": "lrlc", "normalization": "sofmax"}}, "did you mean 'softmax'"),
        ({"dataset": {"name": "mnits"}}, "did you mean 'mnist'"),
        ({"dataset": {"name": "mnist", "source": "file"}}, "did you mean 'files'"),
        ({"dataset": {"train_size": 0}}, "dataset.train_size is 0"),
        ({"protocol": {"epochs": 2, "warmup_epochs": 3}}, "warmup_epochs is 3, more than"),
        ({"protocol": {"warmup_epochs": -1}}, "warmup_epochs is -1"),
        ({"protocol": {"seeds": 0}}, "protocol.seeds is 0"),
        ({"protocol": {"batch_size": 0}}, "protocol.batch_size is 0"),
        ({"protocol": {"data_parallel": 0}}, "protocol.data_parallel is 0"),
        ({"protocol": {"data_parallel": 3}}, "does not divide the 50 of protocol.batch_size"),
        ({"protocol": {"learning_rate": float("nan")}}, "learning_rate is nan"),
        ({"tracker": {"name": "wandb", "mode": "onlin"}}, "did you mean 'online'"),
        ({"seeds_at_once": 0}, "seeds_at_once is 0"),
        ({"product_way": "patch"}, "did you mean 'patches'"),
        ({"network": {"precision": "float16"}}, "did you mean 'bfloat16'"),
        ({"protocl": {}}, "did you mean 'protocol'"),
        ({"results_dir": ""}, "results_dir is empty"),
    ],
)
def test_a_wrong_value_is_refused_by_name(values, words):
    with pytest.raises(InputError, match=words):
        parse(values)


def test_parse_keeps_what_it_is_given():
    config = parse({"layer": {"name": "lrlc", "rank": 7, "at": [1, 3]}, "results_dir": "x"})
    assert config == Config(layer=LRLCConfig(rank=7, at=[1, 3]), results_dir="x")
    assert layer_config({"name": "lrlc", "at": "all"}).positions == (1, 2, 3)
