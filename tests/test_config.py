"""The YAML files and the settings of the package agree; bad values are refused by name."""

import dataclasses
import re

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from lrlc_jax.data.sources import SOURCES
from lrlc_jax.errors import InputError
from lrlc_jax.experiments.config import SECTIONS, Config, StudyConfig, layer_config, parse
from lrlc_jax.experiments.study import load_studies
from lrlc_jax.layers import LAYERS, LRLCConfig
from lrlc_jax.networks import PAPER_NETWORK, NetworkConfig
from lrlc_jax.training.train import PAPER_PROTOCOL
from tests.conftest import ROOT

CONFIGS = ROOT / "configs"
SCHEMAS = {**SECTIONS, "study": StudyConfig}
MENU = [
    (path.parent.name, path.stem)
    for group in ("layer", "dataset", "network", "protocol", "tracker")
    for path in sorted((CONFIGS / group).glob("*.yaml"))
]


def composed(*overrides):
    with initialize_config_dir(version_base="1.3", config_dir=str(CONFIGS)):
        return parse(OmegaConf.to_container(compose("config", overrides=list(overrides))))


def choice(group, name):
    return OmegaConf.to_container(OmegaConf.load(CONFIGS / group / f"{name}.yaml"))


def test_without_overrides_a_command_has_the_defaults_of_the_package():
    assert composed() == Config(layer=LRLCConfig())


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_of_the_menu_has_the_defaults_of_its_settings(name):
    assert composed(f"layer={name}").layer == LAYERS[name]()


@pytest.mark.parametrize(("group", "name"), MENU)
def test_every_choice_is_valid_and_named_as_its_file(group, name):
    section = getattr(composed(f"{group}={name}"), group)
    if group not in ("dataset", "network"):
        assert section.name == name


@pytest.mark.parametrize(
    ("group", "name"), [*MENU, *(("study", s.name) for s in load_studies(CONFIGS))]
)
def test_a_choice_names_only_what_it_changes(group, name):
    values = choice(group, name)
    schema = LAYERS[name] if group == "layer" else SCHEMAS[group]
    defaults = dataclasses.asdict(schema())
    for setting in values.keys() - {"defaults", "name", "tables", "figures"}:
        assert values[setting] != defaults[setting], setting


def test_every_layer_and_every_data_set_is_in_the_menu():
    assert {name for group, name in MENU if group == "layer"} == set(LAYERS)
    names = {
        choice("dataset", name).get("name", name) for group, name in MENU if group == "dataset"
    }
    assert names == set(SOURCES)


def test_translated_celeba_differs_from_celeba_in_nothing_else():
    plain, translated = (composed(f"dataset={d}").dataset for d in ("celeba", "translated_celeba"))
    assert translated == dataclasses.replace(plain, translate=48)


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.yaml")), ids=lambda p: p.stem)
def test_a_config_opens_with_what_it_is_and_the_command_that_runs_it(path):
    head = re.match(r"(?:#.*\n)+", path.read_text())
    assert head
    assert "python scripts/" in head.group()


def test_the_papers_network_and_protocol_are_the_papers():
    assert composed().network == NetworkConfig() == PAPER_NETWORK
    assert dataclasses.asdict(PAPER_NETWORK) == {
        "channels": 64,
        "kernel_size": 3,
        "strides": [1, 1, 1],
        "padding": "valid",
        "pooling": "average",
        "blur": False,
        "batch_norm": True,
        "batch_norm_group": None,
        "precision": "float32",
    }
    assert composed("protocol=paper").protocol == PAPER_PROTOCOL
    assert dataclasses.asdict(PAPER_PROTOCOL) == {
        "name": "paper",
        "epochs": 150,
        "warmup_epochs": 10,
        "batch_size": 512,
        "learning_rate": 0.01,
        "seeds": 10,
        "first_seed": 0,
        "data_parallel": 1,
        "validate_every": 1,
        "adam_epsilon": 1e-8,
        "weight_decay": 0.0,
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
        ({"network": {"batch_norm_group": 0}}, "network.batch_norm_group is 0"),
        ({"network": {"batch_norm_group": 5, "batch_norm": False}}, "batch_norm is false"),
        ({"network": {"batch_norm_group": 8}}, "batch_size, which is 50"),
        (
            {"network": {"batch_norm_group": 10}, "protocol": {"data_parallel": 2}},
            "batch_size / protocol.data_parallel, which is 25",
        ),
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
        ({"protocol": {"data_parallel": 3}}, "protocol.data_parallel is 3"),
        ({"protocol": {"name": "a\nb"}}, "protocol.name is"),
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


@pytest.mark.parametrize("task", ["place", "rule", "invariant"])
def test_a_control_task_brings_its_torus_and_a_command_may_choose_another_padding(task):
    config = composed(f"dataset=control_{task}")
    assert (config.dataset.name, config.dataset.control) == ("digits", task)
    assert config.network == composed("network=control").network != PAPER_NETWORK
    assert config.network.padding == "circular"
    assert composed(f"dataset=control_{task}", "network.padding=valid").network.padding == "valid"
    assert config.protocol == composed().protocol


@pytest.mark.parametrize("study", ["control", "control_place", "control_rule", "control_invariant"])
def test_the_control_studies_bring_their_torus_and_protocol(study):
    with initialize_config_dir(version_base="1.3", config_dir=str(CONFIGS)):
        values = OmegaConf.to_container(compose("sweep", overrides=[f"study={study}"]))
    found = parse({k: v for k, v in values.items() if k not in ("study", "worker", "dry_run")})
    assert found.network == composed("network=control").network
    assert found.protocol == composed("protocol=control").protocol
    assert found.dataset == composed().dataset
