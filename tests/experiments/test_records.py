"""Records are written once, whole, and believed only if they are what they say."""

import dataclasses
import functools
import json
import os
import pathlib
import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrlc_jax.data.dataset import DatasetConfig
from lrlc_jax.errors import InputError
from lrlc_jax.experiments import identity as identities
from lrlc_jax.experiments import record as records
from lrlc_jax.experiments.config import SECTIONS, Config, StudyConfig
from lrlc_jax.experiments.identity import canonical, identity
from lrlc_jax.experiments.statistics import best, describe, mean_over_seeds
from lrlc_jax.experiments.study import study_layers
from lrlc_jax.layers import LAYERS, ConvConfig, LRLCConfig
from lrlc_jax.networks import NetworkConfig
from lrlc_jax.training.train import PAPER_PROTOCOL, ProtocolConfig
from tests.conftest import ROOT
from tests.experiments.examples import example, forged, pool

OLD = ROOT / "tests" / "experiments" / "records_of_schema_1"


def run_of(**changes):
    config = dataclasses.replace(Config(layer=LRLCConfig()), **changes)
    return identity(canonical(config, "f00d", 400))


@pytest.mark.parametrize(
    "change",
    [
        {"layer": LRLCConfig(rank=5)},
        {"layer": LRLCConfig(at=2)},
        {"layer": LRLCConfig(normalization="norm")},
        {"layer": ConvConfig()},
        {"network": NetworkConfig(padding="same")},
        {"network": NetworkConfig(batch_norm_group=5)},
        {"protocol": ProtocolConfig(epochs=7)},
        {"protocol": ProtocolConfig(adam_epsilon=1e-7)},
        {"protocol": ProtocolConfig(weight_decay=0.1)},
        {"protocol": ProtocolConfig(learning_rate=0.02)},
    ],
)
def test_what_determines_the_figures_is_in_the_identity(change):
    assert run_of(**change) != run_of()


@pytest.mark.parametrize(
    "change",
    [
        {"results_dir": "elsewhere"},
        {"seeds_at_once": 3},
        {"product_way": "patches"},
        {"layer": LRLCConfig(at=[3])},
        {"protocol": ProtocolConfig(name="mine")},
        {"protocol": ProtocolConfig(data_parallel=2)},
        {"protocol": ProtocolConfig(seeds=3)},
        {"protocol": ProtocolConfig(first_seed=3)},
        {"seeds_per_visit": 1},
        {"keep": "weights"},
        {"network": NetworkConfig(kernel_size=[3, 3, 3])},
        {"dataset": DatasetConfig(path="somewhere")},
    ],
)
def test_where_and_how_it_runs_is_not(change):
    assert run_of(**change) == run_of()


def test_data_and_its_size_are_in_the_identity():
    config = Config()
    one = identity(canonical(config, "f00d", 400))
    assert identity(canonical(config, "beef", 400)) != one
    assert identity(canonical(config, "f00d", 399)) != one


def test_all_is_the_list_of_all_positions():
    assert run_of(layer=LRLCConfig(at="all")) == run_of(layer=LRLCConfig(at=[3, 1, 2]))


def test_a_record_comes_back_as_it_was(tmp_path):
    record = example()
    path = records.write(record, tmp_path)
    assert records.read(path) == record
    assert records.find(record.identity, tmp_path).records == (record,)
    assert records.find("0" * 16, tmp_path) is None
    assert [p.name for p in path.parent.iterdir()] == [record.file_name]


def test_the_parameters_that_a_wide_convolution_matches_are_kept(tmp_path):
    plain, wide = example(), dataclasses.replace(example("wide_conv"), matched_parameters=999)
    assert records.read(records.write(wide, tmp_path)) == wide
    assert "matched_parameters" not in records.dumps(plain)


def test_a_record_is_never_overwritten(tmp_path):
    path = records.write(example(), tmp_path)
    before = path.read_bytes()
    records.write(dataclasses.replace(example(), parameters=1), tmp_path)
    assert path.read_bytes() == before


def test_hidden_files_are_no_records(tmp_path):
    path = records.write(example(), tmp_path)
    path.with_name(".x.json").write_text("{")
    path.with_name(f".#{path.name}").symlink_to("gone")
    assert records.files_in(tmp_path) == [path]
    assert len(records.read_records(tmp_path).runs) == 1


def test_a_failed_seed_is_null_in_valid_json(tmp_path):
    record = example(test=(0.9, None, 0.8), failed={"1": 4})
    text = records.write(record, tmp_path).read_text()
    assert "NaN" not in text
    assert json.loads(text)["final"]["test_accuracy"] == [0.9, None, 0.8]


def change(path, **values):
    content = json.loads(path.read_text())
    content.update(values)
    path.write_text(json.dumps(content))


def tamper(section, name, value):
    def act(path):
        content = json.loads(path.read_text())
        content[section][name] = value
        path.write_text(json.dumps(content))

    return act


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda p: p.write_text(p.read_text()[:-9]), "is not valid JSON"),
        (lambda p: p.write_text(""), "is not valid JSON"),
        (lambda p: p.write_bytes(b"\xff\xfe"), "is not valid JSON"),
        (lambda p: p.write_text("[1]"), "is not a record"),
        (lambda p: change(p, schema=99), "has schema 99"),
        (lambda p: (p.unlink(), os.mkfifo(p)), "is not a regular file"),
        (lambda p: change(p, surprise=1), "surprise"),
        (tamper("run", "layer", {"name": "lrlc", "rank": 30}), "does not match its digest"),
        (tamper("final", "test_loss", [0.3, 0.3, 0.31]), "does not match its digest"),
        (lambda p: change(p, digest=None), "does not match its digest"),
        (lambda p: change(p, identity="0" * 16), "does not match its digest"),
        (lambda p: p.write_text("[" * 10**5), "is not valid JSON"),
        (lambda p: p.write_text(p.read_text().replace("0.91", "NaN")), "is not valid JSON"),
        (lambda p: p.write_text(p.read_text().replace("0.91", "1" + "0" * 400)), "valid JSON"),
        (lambda p: p.write_text(p.read_text().replace("0.91", "1e400")), "is too large"),
        (tamper("config", "deep", json.loads("[" * 500 + "]" * 500)), "levels of nested values"),
        (tamper("machine", "device", "cpu\n\\input{x}"), "line breaks"),
        (tamper("versions", "\x1b[2J", "1"), "control characters"),
        (tamper("versions", "jax", "\ud800"), "control characters"),
    ],
)
def test_a_damaged_record_is_named(tmp_path, damage, words):
    path = records.write(example(), tmp_path)
    damage(path)
    with pytest.raises(InputError, match=words) as caught:
        records.read_records(tmp_path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("run.dataset.name", "../../x"),
        ("run.dataset.translate", "../../x"),
        ("run.dataset.train_size", "../../x"),
        ("run.dataset.fingerprint", "../../x"),
        ("run.layer.rank", "../../x"),
        ("run.layer.at", ["../../x"]),
        ("run.layer.name", "../../x"),
        ("run.protocol.epochs", "../../x"),
        ("run.protocol.epochs", 41),
        ("run.protocol.learning_rate", -1.0),
        ("run.network.padding", "x"),
        ("run.training", None),
        ("config.devices", "many"),
        ("data.train", 401),
        ("data.validation", 0),
        ("data.image_shape", [8, 8]),
        ("data.notes", "PARTIAL"),
        ("code", []),
        ("versions.jax", 1),
        ("machine", {}),
        ("time.wall_seconds", -1.0),
        ("time.wall_seconds", 1e308),
        ("time.started", 5),
        ("seeds", [0, 1]),
        ("seeds", [0, 1, 1]),
        ("seeds", [0, 1, -2]),
        ("seeds", [0, 1, 2**32]),
        ("seeds", [0, 1, "2"]),
        ("failed", {"1": 2}),
        ("failed", {"7": 2}),
        ("parameters", True),
        ("matched_parameters", "many"),
        ("epochs", {name: rows[1:] for name, rows in example().epochs.items()}),
        ("epochs.train_loss", [[0.5, None, 0.5]] * 40),
        ("final", {}),
        *(("final.test_accuracy", [0.1, odd, 0.3]) for odd in (True, 5.0, -5, None, "1", 1e308)),
        ("final.test_loss", [0.1, -0.1, 0.3]),
        ("final", example().final | {"../x": [0.1, 0.2, 0.3]}),
        ("files", {"weights": {"sha256": "0" * 64}}),
        ("files", {"../x": {"sha256": "0" * 64, "bytes": 1}}),
    ],
)
def test_a_record_with_a_wrong_value_is_refused_even_if_its_digest_fits(tmp_path, place, value):
    content = json.loads(records.dumps(example()))
    assert records.read(forged(tmp_path, content)) == example()
    *parents, last = place.split(".")
    functools.reduce(dict.__getitem__, parents, content)[last] = value
    path = forged(tmp_path, content)
    with pytest.raises(InputError, match=r"is not valid|cannot be read") as caught:
        records.read(path)
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 400 + len(str(path))


def validated_in(record, epochs, every=1):
    """The record with values of validation in these epochs only, as with ``validate_every``."""
    rows = {
        name: [
            [None] * 3 if name.startswith("validation_") and number not in epochs else row
            for number, row in enumerate(by_epoch, start=1)
        ]
        for name, by_epoch in record.epochs.items()
    }
    config = record.config | {"validate_every": every}
    return dataclasses.replace(record, epochs=rows, config=config)


def test_epochs_lack_values_of_validation_where_the_protocol_has_none(tmp_path):
    record = validated_in(example(), {7, 14, 21, 28, 35, 40}, every=7)
    path = records.write(record, tmp_path)
    assert records.read(path) == record
    for name, number in (("validation_loss", 7), ("validation_accuracy", 40), ("train_loss", 1)):
        content = json.loads(records.dumps(record))
        content["epochs"][name][number - 1] = [0.5, None, 0.5]
        with pytest.raises(InputError, match=f"epochs.{name} lacks a value in epoch {number}"):
            records.read(forged(tmp_path, content))
    for epochs, number in ((range(1, 40), 40), ({14, 21, 28, 35, 40}, 7)):
        forgery = json.loads(records.dumps(validated_in(example(), {*epochs}, every=7)))
        with pytest.raises(InputError, match=f"validation_loss lacks a value in epoch {number}"):
            records.read(forged(tmp_path, forgery))
    forgery["time"]["sessions"] = 2  # of which the first had another interval
    assert records.read(forged(tmp_path, forgery)).epochs == forgery["epochs"]


def test_records_of_a_run_may_have_validation_in_different_epochs(tmp_path):
    every, some = example(), validated_in(example(), {20, 40}, every=20)
    for record in (every, some):
        records.write(record, tmp_path)
    (run,) = records.read_records(tmp_path).runs.values()
    assert len(run.records) == 2
    rows = [[0.5] * 3] * 19 + [[0.6] * 3] + [[0.5] * 3] * 20
    other = dataclasses.replace(every, epochs=every.epochs | {"validation_loss": rows})
    records.write(validated_in(other, {20, 40}, every=20), tmp_path)
    assert records.read_records(tmp_path).conflicts


def test_a_record_of_a_version_with_validate_every_in_its_run_is_of_the_same_run(tmp_path):
    content = json.loads(records.dumps(validated_in(example(), {*range(0, 41, 4)})))
    content["run"]["protocol"]["validate_every"] = 4
    assert records.read(forged(tmp_path, content)).identity == example().identity


def test_equal_seeds_are_one_and_different_ones_a_conflict_of_their_run(tmp_path):
    record, other = example(), dataclasses.replace(example(), parameters=1)
    again = dataclasses.replace(record, machine={"device": "other"})
    path = records.write(record, tmp_path)
    path.with_name("copy.json").write_text(records.dumps(again))
    (run,) = records.read_records(tmp_path).runs.values()
    assert (run.seeds, run.final) == (record.seeds, record.final)
    records.write(other, tmp_path)
    found = records.read_records(tmp_path)
    assert not found.runs
    names = {"copy.json", other.file_name}  # the third agrees with the copy
    assert {path.name for path in found.conflicts[record.identity]} == names
    assert all(name in found.sentences[0] for name in names)
    with pytest.raises(InputError):
        records.find(record.identity, tmp_path)


def part(seeds, values, **changes):
    accuracy = tuple(values)
    return example(seeds=seeds, validation=accuracy, test=accuracy, **changes)


def test_the_seeds_of_several_records_are_pooled(tmp_path):
    values = [0.1, 0.2, 0.3, 0.4, 0.5]
    for seeds in ([3], [0, 4], [1, 2], [2, 3]):
        records.write(part(seeds, [values[seed] for seed in seeds]), tmp_path)
    run = records.find(example().identity, tmp_path)
    assert run.seeds == [0, 1, 2, 3, 4]
    assert run.final["test_accuracy"] == values
    assert run.epochs["train_loss"] == [[0.5] * 5] * 40
    assert run.has([1, 4])
    assert not run.has([1, 5])
    assert dataclasses.replace(run, only={1, 3}).final["test_accuracy"] == [0.2, 0.4]


@pytest.mark.parametrize(
    ("change", "conflict"),
    [
        ({}, False),
        ({"final": {"test_loss": [0.3, 0.31]}}, True),
        ({"epochs": {"train_loss": [[0.5, 0.51]] * 40}}, True),
        ({"final": {"test_more": [1.0, 2.0]}, "epochs": {"train_more": [[1.0, 2.0]] * 40}}, False),
        ({"failed": {"1": 1}}, True),
    ],
)
def test_only_values_of_the_same_seed_and_metric_can_conflict(tmp_path, change, conflict):
    one, two = part([0, 1], [0.1, 0.2]), part([1, 2], [0.2, 0.3])
    for name, values in change.items():
        changed = {k: v[::-1] if name == "final" else v for k, v in values.items()}
        if name == "epochs":
            changed = {k: [row[::-1] for row in rows] for k, rows in values.items()}
        two = dataclasses.replace(two, **{name: getattr(two, name) | changed})
    if change.get("failed"):
        lost = {k: [None, v[1]] for k, v in two.final.items()}
        two = dataclasses.replace(two, final=lost)
    for record in (one, two):
        records.write(record, tmp_path)
    assert bool(records.read_records(tmp_path).conflicts) == conflict


def test_a_seed_that_failed_alone_equals_one_that_failed_beside_others():
    def failing(seeds, failed, losses):
        base = part(seeds, [0.5] * len(seeds), failed=failed)
        return dataclasses.replace(base, epochs=base.epochs | {"train_loss": losses})

    beside = failing([0, 1], {"0": 2}, [[1.0, 1.0], [None, 0.9], [None, 0.8]])
    alone = failing([0], {"0": 2}, [[1.0], [None]])
    for files in ((alone, beside), (beside, alone)):
        assert not records.disagreeing([(pathlib.Path(str(i)), r) for i, r in enumerate(files)])
    run = records.Run((alone, failing([1], {}, [[1.0], [0.9], [0.8]])))
    assert run.epochs["train_loss"] == beside.epochs["train_loss"]
    assert run.failed == {"0": 2}


def test_records_lacking_a_metric_have_none_of_it_in_the_pool():
    one, two = part([0], [0.1]), part([1], [0.2])
    more = dataclasses.replace(two, final=two.final | {"test_margin": [3.0]})
    run = records.Run((one, more))
    assert run.final["test_margin"] == [None, 3.0]
    assert run.final["test_accuracy"] == [0.1, 0.2]


def test_a_new_setting_leaves_identities_alone_and_old_records_readable(tmp_path, monkeypatch):
    record = example()
    path = records.write(record, tmp_path)
    other = records.write(example(rank=2, test=(0.1, 0.2, 0.3)), tmp_path)

    monkeypatch.setitem(LAYERS, "lrlc", LRLCConfig)  # the new class registers itself

    @dataclasses.dataclass
    class NewProtocol(ProtocolConfig):
        momentum: float = 0.9

    @dataclasses.dataclass
    class NewLayer(LRLCConfig):
        name: str = "lrlc"
        tied: bool = False

    monkeypatch.setitem(SECTIONS, "protocol", NewProtocol)
    identities._completed.cache_clear()
    records._read.cache_clear()
    config = Config(layer=NewLayer(), protocol=NewProtocol())
    run = canonical(config, "f00d", 400)
    assert run["protocol"]["momentum"] == 0.9
    assert identity(run) == record.identity
    assert records.read(path).identity == record.identity
    assert records.read(path).run == run
    assert len(records.read_records(tmp_path).runs) == 2
    changed = canonical(
        dataclasses.replace(config, protocol=NewProtocol(momentum=0.5)), "f00d", 400
    )
    assert identity(changed) != record.identity
    new = dataclasses.replace(record, run=changed)
    new_path = records.write(new, tmp_path)
    monkeypatch.undo()  # an older version reads records of the newer one
    identities._completed.cache_clear()
    records._read.cache_clear()
    read = records.read(new_path)
    assert (read.run["protocol"]["momentum"], read.final) == (0.5, new.final)
    assert read.identity != record.identity
    assert records.read(other).identity == example(rank=2).identity
    identities._completed.cache_clear()
    records._read.cache_clear()


# Changing a default, or the form of settings, changes identities: then raise TRAINING_VERSION.
IDENTITIES = {
    "conv": Config(),
    "lrlc": Config(layer=LRLCConfig()),
    "mixed": Config(layer=LAYERS["lrlc_mixed"](kernel_sizes=[3, 3])),
    "paper": Config(protocol=PAPER_PROTOCOL, network=NetworkConfig(precision="bfloat16")),
    "moved": Config(dataset=DatasetConfig("celeba", "files", translate=48)),
}
STORED = {
    "conv": "0ba6fcd6c1c81918",
    "lrlc": "53c4f80d06de6998",
    "mixed": "5e0377b83ffaea04",
    "paper": "4cba104a6f24c136",
    "moved": "f1bcd8172f8046dd",
}


@pytest.mark.parametrize("name", IDENTITIES)
def test_identities_stay_as_they_are(name):
    assert identity(canonical(IDENTITIES[name], "f00d", 400)) == STORED[name]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (LAYERS["lrlc_mixed"](kernel_sizes=3), LAYERS["lrlc_mixed"](kernel_sizes=[3, 3])),
        (LAYERS["lrlc_mixed"](dilations=[1, 2]), LAYERS["lrlc_mixed"](dilations=[[1, 1], 2])),
        (LRLCConfig(rank=1), LAYERS["spatial_bias"](at=3)),
        (LAYERS["wide_conv"](rank=1), ConvConfig()),
    ],
)
def test_equivalent_layers_are_one_run(one, other):
    assert run_of(layer=one) == run_of(layer=other)


def test_records_of_schema_1_are_read_and_pooled_with_new_ones(tmp_path):
    folder = tmp_path / "records"
    shutil.copytree(OLD, folder)
    old = records.read_records(tmp_path)
    assert not old.conflicts
    assert all(run.seeds == list(range(10)) for run in old.runs.values())
    run = next(iter(old.runs.values()))
    first = run.first
    again = dataclasses.replace(
        first,
        seeds=[9, 10],
        failed={},
        final={name: [*values[-1:], 0.5] for name, values in first.final.items()},
        epochs={n: [[*row[-1:], 0.5] for row in rows] for n, rows in first.epochs.items()},
    )
    records.write(again, tmp_path)
    pooled = records.find(run.identity, tmp_path)
    assert pooled.seeds == list(range(11))
    assert pooled.final["test_loss"] == [*first.final["test_loss"], 0.5]
    damaged = next(folder.glob("*conv*.json"))
    damaged.write_text(damaged.read_text().replace('"batch_size": 50', '"batch_size": 51'))
    with pytest.raises(InputError, match="digest"):
        records.read(damaged)


def test_metrics_that_this_version_does_not_know_are_carried_along(tmp_path):
    record = example()
    more = dataclasses.replace(
        record,
        epochs=record.epochs | {"train_margin": [[0.5, None, 0.5]] * 40},
        final=record.final | {"test_margin": [0.1, 0.2, 0.3]},
    )
    assert records.read(records.write(more, tmp_path)) == more
    assert more.identity == record.identity


def test_a_folder_that_cannot_be_made_is_refused_before_any_work(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written to"):
        records.require_writable(str(tmp_path / "file"))


def test_a_mean_never_drops_a_failed_seed():
    assert mean_over_seeds([0.5, None, 0.7]) is None
    assert mean_over_seeds([]) is None


def test_the_rank_is_chosen_by_validation_accuracy_alone():
    low = pool(example(rank=2, validation=(0.8, 0.8, 0.8), test=(0.99, 0.99, 0.99)))
    high = pool(example(rank=4, validation=(0.9, 0.9, 0.9), test=(0.1, 0.1, 0.1)))
    failed = pool(example(rank=8, validation=(1.0, None, 1.0), failed={"1": 1}))
    assert best([low, high, failed]) is high
    assert best([failed]) is None


def test_equal_validation_chooses_the_smaller_network():
    small = pool(dataclasses.replace(example(rank=2), parameters=10))
    large = pool(dataclasses.replace(example(rank=4), parameters=20))
    assert best([large, small]) is small


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(300, 497), min_size=4, max_size=10), st.data())
def test_equal_counts_of_correct_images_are_a_tie(counts, data):
    """Also if the means of the rounded accuracies differ."""
    other = list(counts)
    i, j = data.draw(st.permutations(range(len(counts))))[:2]
    moved = data.draw(st.integers(0, min(497 - other[i], other[j])))
    other[i], other[j] = other[i] + moved, other[j] - moved

    def run(rank, correct):
        accuracies = tuple(float(f"{count / 497:.7g}") for count in correct)
        return pool(example(rank=rank, validation=accuracies, test=accuracies))

    small, large = run(2, counts), run(4, other)
    assert best([large, small]) is small
    assert best([large, run(2, [*counts[:-1], counts[-1] - 1])]) is large


def test_a_failed_run_is_described_as_such():
    assert "FAILED" in describe(example(failed={"1": 4}))
    assert "seed 1 in epoch 4" in describe(example(failed={"1": 4}))


def test_a_study_is_expanded_once_for_each_layer_position_and_rank():
    study = StudyConfig(
        runs=[{"layer": "conv"}, {"layer": "lrlc", "at": [1, "all"], "rank": [2, 4]}]
    )
    layers = study_layers(study, {"normalization": "norm", "rank": 3, "fan_in": "position"})
    assert [(x.name, getattr(x, "at", None), getattr(x, "rank", None)) for x in layers] == [
        ("conv", None, None),
        ("lrlc", 1, 2),
        ("lrlc", 1, 4),
        ("lrlc", "all", 2),
        ("lrlc", "all", 4),
    ]
    assert all(x.normalization == "norm" for x in layers[1:])


@pytest.mark.parametrize(
    ("runs", "words"),
    [
        ([], "has no runs"),
        ([{"layer": "lrcl"}], "did you mean 'lrlc'"),
        ([{"layer": "lrlc", "rnk": 2}], "did you mean 'layer.rank'"),
        ([{"layer": "lrlc", "rank": [2, 0]}], "layer.rank is 0"),
        ([{"layer": "conv", "name": "lrlc"}], "name beside its layer conv"),
    ],
)
def test_a_wrong_study_is_refused(runs, words):
    with pytest.raises(InputError, match=words):
        study_layers(StudyConfig(runs=runs), {})


@pytest.mark.parametrize("name", ["rank", "at"])
def test_a_file_name_has_settings_of_the_layer_only(name):
    record = example("conv")
    record.run["layer"][name] = "/../../../evil"
    assert "/" not in record.file_name


def test_a_record_of_schema_1_has_all_seeds_that_it_states(tmp_path):
    old = next(OLD.glob("*.json"))
    content = json.loads(old.read_text())
    content["run"]["protocol"]["seeds"] += 1
    content["identity"] = identities.hashed(content["run"])
    path = tmp_path / "a.json"
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match="number of seeds"):
        records.read(path)
