"""A record is enough to run it again, and what comes out is told from noise."""

import dataclasses
import runpy

import numpy as np
import pytest
from scipy import stats

from lrlc_jax.data.dataset import DatasetConfig
from lrlc_jax.data.order import BY_PERSON
from lrlc_jax.errors import InputError
from lrlc_jax.experiments import record as records
from lrlc_jax.experiments.compare import (
    DIFFERENT,
    EQUAL,
    WITHIN_NOISE,
    compare,
    holm,
    largest_difference,
    welch,
)
from lrlc_jax.experiments.config import Config, parse
from lrlc_jax.experiments.plan import canonical, identity
from lrlc_jax.experiments.provenance import differences
from lrlc_jax.experiments.reproduce import default_folder, override, settings_of
from lrlc_jax.layers import LAYERS
from lrlc_jax.networks import NetworkConfig
from lrlc_jax.training.train import ProtocolConfig
from tests.conftest import ROOT
from tests.experiments.examples import example
from tests.test_commands import TINY, call, snapshot


def config_of(record):
    return parse(settings_of(record))


def run_again(record):
    """The canonical settings of the configuration that a record leads to."""
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
    """What a record of this configuration says of it."""
    base = example()
    data = base.data | data
    run = canonical(config, "f00d", data["train"])
    how = base.config | {"protocol": config.protocol.name, "source": config.dataset.source}
    return dataclasses.replace(base, identity=identity(run), run=run, config=how, data=data)


@pytest.mark.parametrize("name", LAYERS)
def test_every_kind_of_layer_comes_back_from_its_record(name):
    layers = [LAYERS[name](), LAYERS[name](**VARIED[name])]
    for layer in layers:
        config = Config(layer=layer, protocol=ProtocolConfig("mine", 7, 2, 20, 0.03, 3))
        record = record_of(config)
        assert run_again(record) == record.run
        assert config_of(record).protocol == config.protocol


@pytest.mark.parametrize(
    "config",
    [
        Config(network=NetworkConfig(32, 5, [1, 2, 1], "same", "max", True, False, "bfloat16")),
        Config(dataset=DatasetConfig("mnist", "files", translate=48)),
        Config(dataset=DatasetConfig("celeba", "tfds", translate=48, translate_train="fresh")),
        Config(dataset=DatasetConfig("cifar10", "files", train_size=100)),
    ],
)
def test_network_and_data_come_back_too(config):
    train = config.dataset.train_size or 400
    record = record_of(config, train=train)
    assert run_again(record) == record.run
    found = config_of(record).dataset
    assert (found.name, found.source) == (config.dataset.name, config.dataset.source)
    assert (found.translate, found.train_size) == (
        config.dataset.translate,
        config.dataset.train_size,
    )


def test_the_published_records_lead_back_to_themselves():
    for path in (ROOT / "results" / "published" / "records").iterdir():
        record = records.read(path)
        assert run_again(record) == record.run


def test_a_split_by_person_is_known_by_its_note():
    celeba = Config(dataset=DatasetConfig("celeba", "files"))
    assert config_of(record_of(celeba, notes=[BY_PERSON])).dataset.split == "person"
    assert config_of(record_of(celeba, notes=["PARTIAL: 1 of 2"])).dataset.split == "official"
    assert config_of(record_of(Config())).dataset.split is None


def test_what_changes_figures_by_rounding_is_as_it_was_on_the_same_device():
    how = example().config | {"seeds_at_once": 2, "product_way": "columns"}
    record = dataclasses.replace(example(), config=how)
    same, other = (parse(settings_of(record, device)) for device in ("cpu", "a GPU"))
    assert (same.seeds_at_once, same.product_way) == (2, "columns")
    assert (other.seeds_at_once, other.product_way) == (None, "columns")


def test_only_where_things_are_and_how_it_runs_can_be_given():
    settings = settings_of(example())
    given = ["dataset.path=/a b/1e3", "results_dir=2024", "seeds_at_once=2", "tracker=wandb"]
    config = parse(override(settings, [*given, "tracker.mode=online", "dataset.cache_dir=null"]))
    assert config.dataset.path == "/a b/1e3"
    assert (config.results_dir, config.seeds_at_once) == ("2024", 2)
    assert (config.tracker.name, config.tracker.mode) == ("wandb", "online")
    before = canonical(parse(settings), "f00d", 400)
    assert canonical(config, "f00d", 400) == before
    assert settings == settings_of(example())


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("layer.rank=5", "layer.rank is part of what was run"),
        ("layer=conv", "layer is part of what was run"),
        ("dataset=mnist", "dataset is part of what was run"),
        ("dataset.translate=48", "dataset.translate is part of what was run"),
        ("protocol.seeds=2", "protocol.seeds is part of what was run"),
        ("network.precision=bfloat16", "network.precision is part of what was run"),
        ("dataset.pth=x", "did you mean 'dataset.path'"),
        ("trackr=wandb", "did you mean 'tracker'"),
        ("conv", "a setting is given as name=value"),
    ],
)
def test_nothing_else_can_be_given(given, words):
    with pytest.raises(InputError, match=words):
        override(settings_of(example()), [given])


def test_reproductions_are_kept_beside_the_records(tmp_path):
    for folder in ("records", "conflicts"):
        assert default_folder(tmp_path / folder / "x.json") == tmp_path / "reproductions"
    assert default_folder(tmp_path / "x.json") == tmp_path / "reproductions"


def with_final(record, **final):
    return dataclasses.replace(record, final=record.final | final)


def test_equal_is_every_figure_and_nothing_but_figures():
    one = example()
    other = dataclasses.replace(one, machine={"device": "gpu"}, time={}, versions={"python": "4"})
    assert compare(one, other).verdict == EQUAL
    assert largest_difference(one, other)[0] == 0
    assert differences([one, other]) == {
        "machine.device": ["cpu", "gpu"],
        "versions.python": ["3", "4"],
    }
    epochs = one.epochs | {"train_loss": [[0.5, 0.5, 0.5000001]]}
    last_digit = dataclasses.replace(one, epochs=epochs)
    assert compare(one, last_digit).verdict == WITHIN_NOISE
    difference, figure = largest_difference(one, last_digit)
    assert difference == pytest.approx(1e-7)
    assert figure == "train loss of seed 2 in epoch 1"


def test_a_shift_in_any_of_the_figures_is_found():
    one = example()
    noise = np.array([-1e-4, 0.0, 1e-4])
    for name in ("validation_accuracy", "validation_loss", "test_accuracy", "test_loss"):
        start = with_final(one, **{name: (0.5 + noise).tolist()})
        found = compare(start, with_final(one, **{name: (0.6 + noise).tolist()}))
        assert found.verdict == DIFFERENT, name
        assert min(found.p, key=found.p.get) == name
        assert "Welch's t-test over 3 seeds" in found.test


def test_seeds_that_failed_in_one_and_not_in_the_other_are_a_difference():
    failed = example(test=(0.9, None, 0.8), validation=(0.9, None, 0.9), failed={"1": 4})
    found = compare(example(), failed)
    assert found.verdict == DIFFERENT
    assert "none and 1" in found.reason
    later = dataclasses.replace(failed, failed={"1": 5})
    assert compare(failed, later).verdict == WITHIN_NOISE
    assert "over 2 seeds" in compare(failed, later).test
    gone = example(test=(None,) * 3, failed={"0": 1, "1": 1, "2": 1})
    found = compare(gone, dataclasses.replace(gone, failed={"0": 1, "1": 2, "2": 1}))
    assert (found.verdict, found.test) == (WITHIN_NOISE, "")


def test_networks_of_different_size_are_a_difference():
    found = compare(example(), dataclasses.replace(example(), parameters=7))
    assert found.verdict == DIFFERENT
    assert "1,040 and 7 parameters" in found.reason


def test_one_seed_is_tested_by_the_images_that_it_gets_right():
    one = example(validation=(0.95,), test=(0.95,))
    near = example(validation=(0.95,), test=(0.952,))
    far = example(validation=(0.95,), test=(0.90,))
    found = compare(one, near)
    assert found.verdict == WITHIN_NOISE
    assert "two-proportion z-test on 900 images (test accuracy)" in found.test
    assert "one seed does not say how validation loss and test loss vary" in found.test
    assert set(found.p) == {"validation_accuracy", "test_accuracy"}
    assert compare(one, far).verdict == DIFFERENT


def test_figures_without_any_variance_are_compared_as_what_they_are():
    one = example(test=(0.9, 0.9, 0.9))
    image = example(test=(0.9 + 1 / 900,) * 3)
    many = example(test=(0.95,) * 3)
    assert compare(one, image).verdict == WITHIN_NOISE
    assert compare(one, many).verdict == DIFFERENT
    loss = with_final(one, test_loss=[0.4] * 3)
    assert compare(one, loss).verdict == DIFFERENT
    assert compare(one, with_final(one, test_loss=[0.3000001] * 3)).verdict == WITHIN_NOISE
    perfect = example(test=(1.0, 1.0, 1.0))
    assert compare(perfect, with_final(perfect, train_loss=[0.1, 0.1, 0.2])).p["test_loss"] == 1


def test_the_p_of_welchs_test_is_that_of_scipy():
    rng = np.random.default_rng(0)
    for sizes in ((2, 2), (3, 10), (10, 10)):
        a, b = (rng.normal(size=size) for size in sizes)
        expected = stats.ttest_ind(a, b, equal_var=False).pvalue
        assert welch(a.tolist(), b.tolist()) == pytest.approx(expected, rel=1e-9)


def test_the_difference_that_is_said_to_be_found_is_found_and_a_smaller_one_is_not():
    rng = np.random.default_rng(0)
    one = with_final(example(), test_accuracy=rng.normal(0.9, 0.01, 3).tolist())
    least = compare(one, with_final(one, train_loss=[9.0] * 3)).least
    for share, verdict in ((0.99, WITHIN_NOISE), (1.01, DIFFERENT)):
        shifted = [value - share * least for value in one.final["test_accuracy"]]
        found = compare(one, with_final(one, test_accuracy=shifted))
        assert found.verdict == verdict
        assert found.least == pytest.approx(least)


def test_holms_correction_keeps_the_order_and_never_exceeds_1():
    corrected = holm({"a": 0.9, "b": 0.001, "c": 0.4, "d": 0.002})
    assert corrected == pytest.approx({"b": 0.004, "d": 0.006, "c": 0.8, "a": 0.9})
    assert max(holm({"a": 0.9, "b": 0.8}).values()) == 1


def draws(rng, images, shift=0.0):
    """Figures of 10 seeds: accuracies as shares of the images, losses in 7 digits."""
    accuracy = np.clip(np.round(images * rng.normal(0.95 + shift, 0.01, 10)) / images, 0, 1)
    loss = [float(f"{value:.7g}") for value in rng.normal(0.2, 0.02, 10)]
    return accuracy.tolist(), loss


def drawn(rng, base, shift=0.0):
    validation, test = draws(rng, 497), draws(rng, 900, shift)
    return with_final(
        base,
        validation_accuracy=validation[0],
        validation_loss=validation[1],
        test_accuracy=test[0],
        test_loss=test[1],
    )


def test_noise_alone_is_called_different_in_1_of_100_cases_and_a_shift_is_found():
    rng = np.random.default_rng(1)
    base = example(test=(0.9,) * 10, validation=(0.9,) * 10)
    pairs = 3000
    called = sum(
        compare(drawn(rng, base), drawn(rng, base)).verdict == DIFFERENT for _ in range(pairs)
    )
    # four independent figures: 1 %; of 3,000 cases 30, give or take three deviations of 5.4
    assert 14 <= called <= 46
    found = sum(
        compare(drawn(rng, base), drawn(rng, base, 0.03)).verdict == DIFFERENT for _ in range(200)
    )
    assert found >= 190  # a shift of three deviations


def test_a_record_is_reproduced_by_one_command(tmp_path, capsys):
    call(tmp_path, "train", "layer=lrlc", "layer.rank=2", "layer.at=1", *TINY)
    (path,) = (tmp_path / "results" / "records").iterdir()
    record = records.read(path)
    answer = call(tmp_path, "reproduce", str(path), "budget_minutes=0", status=1)
    assert "No verdict yet: stopped" in answer.stderr
    answer = call(tmp_path, "reproduce", str(path))
    assert answer.stdout.splitlines()[-1].startswith("equal: ")
    again = tmp_path / "results" / "reproductions" / "records" / path.name
    assert records.read(again).digest == record.digest
    assert f"{again}, now" in answer.stdout

    script = runpy.run_path(str(ROOT / "scripts" / "reproduce.py"))["reproduce"]

    def reproduce(path, **settings):
        status = script([str(path), *(f"{name}={value}" for name, value in settings.items())])
        return status, capsys.readouterr().out

    before = snapshot(tmp_path)
    status, text = reproduce(path)
    assert (status, snapshot(tmp_path)) == (0, before)
    assert f"{again}, on record" in text
    with pytest.raises(InputError, match="cannot be compared with itself"):
        reproduce(path, results_dir=tmp_path / "results")

    raised = with_final(record, test_loss=[loss + 9 for loss in record.final["test_loss"]])
    aside = tmp_path / "results" / "conflicts" / raised.file_name
    aside.parent.mkdir()
    aside.write_text(records.dumps(raised))
    status, text = reproduce(aside)
    assert status == 1
    assert text.splitlines()[-1].startswith("different: ")
    assert "Welch's t-test over 2 seeds" in text

    older = with_run(record, training=1)
    path = records.write(older, tmp_path / "older")
    status, text = reproduce(path, results_dir=tmp_path / "results")
    assert status == 0
    assert "The record is of version 1 of the training" in text
    assert text.splitlines()[-1].startswith("equal: ")

    other_data = with_run(record, dataset=record.run["dataset"] | {"fingerprint": "beef"})
    path = records.write(other_data, tmp_path / "other")
    with pytest.raises(InputError, match="is not what the record was trained on"):
        reproduce(path)


def with_run(record, **changes):
    run = record.run | changes
    return dataclasses.replace(record, run=run, identity=identity(run))


def test_what_cannot_be_reproduced_gets_one_sentence(tmp_path):
    path = str(records.write(example(), tmp_path))
    for arguments, words in (
        ([], "arguments are required: RECORD"),
        ([str(tmp_path / "none.json")], "cannot be read"),
        ([path, "layer.rank=5"], "layer.rank is part of what was run"),
    ):
        answer = call(tmp_path, "reproduce", *arguments, status=2)
        assert words in answer.stderr
        assert len(answer.stderr.splitlines()) == 1
