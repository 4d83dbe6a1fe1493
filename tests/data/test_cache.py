"""Prepared data: whole or absent, verified, replaced only on request."""

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from concurrent import futures

import numpy as np
import pytest

from lrlc_jax import signals
from lrlc_jax.data import DatasetConfig, cache, load
from lrlc_jax.data.cache import cache_path, cached, exclusive, prepare, read_source
from lrlc_jax.errors import InputError, RunError
from lrlc_jax.files import sha256_of
from tests.conftest import ROOT
from tests.data.examples import config, declare, lists, photographs, write

pytestmark = pytest.mark.usefixtures("small_celeba")


@pytest.fixture
def settings(tmp_path):
    """CelebA's files in one folder, and another folder for prepared data."""
    files = write(tmp_path / "files", lists() | photographs())
    return config(files, cache_dir=str(tmp_path / "cache"))


def same(first, second):
    assert first.fingerprint == second.fingerprint
    for name, split in first.splits.items():
        for what, array in vars(split).items():
            np.testing.assert_array_equal(array, getattr(second.splits[name], what))


def test_a_data_set_is_prepared_once_and_then_read(settings):
    first = load(settings)
    shutil.rmtree(settings.path)
    same(first, load(settings))
    same(first, load(DatasetConfig("celeba", cache_dir=settings.cache_dir)))
    assert os.listdir(settings.cache_dir) == ["celeba"]


def test_the_manifest_names_source_and_files(settings):
    load(settings)
    folder = cache_path(settings)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["path"] == settings.path
    assert manifest["dataset"]["fingerprint"] == load(settings).fingerprint
    assert set(manifest["files"]) | {"manifest.json"} == set(os.listdir(folder))


def flip_a_bit(folder):
    path = folder / "train-images.npy"
    content = bytearray(path.read_bytes())
    content[5000] ^= 1
    path.write_bytes(content)


def change_a_label(folder):
    np.save(folder / "test-labels.npy", 1 - np.load(folder / "test-labels.npy"))


def truncate(folder):
    path = folder / "validation-images.npy"
    path.write_bytes(path.read_bytes()[:-1])


def lose_a_file(folder):
    (folder / "train-labels.npy").unlink()


def lose_the_manifest(folder):
    (folder / "manifest.json").unlink()


def edit_the_manifest(folder):
    path = folder / "manifest.json"
    path.write_text(path.read_text().replace('"complete": true', '"complete": false'))


def empty_the_manifest(folder):
    (folder / "manifest.json").write_text("[]")


@pytest.mark.parametrize(
    ("damage", "file"),
    [
        (flip_a_bit, "train-images.npy"),
        (change_a_label, "test-labels.npy"),
        (truncate, "validation-images.npy"),
        (lose_a_file, "train-labels.npy"),
        (lose_the_manifest, "manifest.json"),
        (edit_the_manifest, "manifest.json"),
        (empty_the_manifest, "manifest.json"),
    ],
)
def test_damage_is_refused_and_repaired_on_request(settings, damage, file):
    whole = load(settings)
    arrays = {name: split.images.copy() for name, split in whole.splits.items()}
    damage(cache_path(settings))
    for attempt in (load, prepare):
        with pytest.raises(InputError, match=rf"{re.escape(file)}.*rebuild=true"):
            attempt(settings)
    mended = prepare(settings, rebuild=True)
    assert mended.fingerprint == whole.fingerprint
    for name, images in arrays.items():
        np.testing.assert_array_equal(mended.splits[name].images, images)


def test_a_folder_of_another_data_set_is_refused(settings, monkeypatch):
    load(settings)
    folder = cache_path(settings)
    shutil.copytree(folder, folder.with_name("mnist"))
    with pytest.raises(InputError, match="celeba"):
        load(DatasetConfig("mnist", cache_dir=settings.cache_dir))
    declare(monkeypatch, "celeba", fingerprint="0" * 32)
    with pytest.raises(InputError, match="fingerprint"):
        load(settings)


@pytest.mark.parametrize("published", [True, False])
@pytest.mark.parametrize("claim", [None, {"levels": 1}, {"num_classes": 3}, {"complete": 0.5}])
def test_a_manifest_that_claims_other_than_its_arrays_is_refused(
    settings, monkeypatch, published, claim
):
    whole = load(settings)
    declare(monkeypatch, "celeba", fingerprint=whole.fingerprint if published else None)
    path = cache_path(settings) / "train-images.npy"
    manifest = json.loads(path.with_name("manifest.json").read_text())
    if claim is None:  # other images, under the published fingerprint
        np.save(path, 255 - whole.train.images)
        manifest["files"][path.name]["sha256"] = sha256_of(path)
    else:
        manifest["dataset"] |= claim
    manifest["checksum"] = cache.checksum(manifest)
    path.with_name("manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=r"fingerprint|does not describe"):
        load(settings)


def test_another_format_is_refused(settings, monkeypatch):
    load(settings)
    monkeypatch.setattr(cache, "FORMAT", cache.FORMAT + 1)
    with pytest.raises(InputError, match="format 1"):
        load(settings)


def test_prepared_data_of_another_path_are_refused(settings, tmp_path, monkeypatch):
    load(settings)
    other = config(tmp_path / "other", cache_dir=settings.cache_dir)
    with pytest.raises(InputError, match=r"files.*dataset\.path.*other"):
        load(other)
    # Data with the published fingerprint are equal for every path.
    declare(monkeypatch, "celeba", fingerprint=load(settings).fingerprint)
    same(load(other), load(settings))


def test_unpublished_data_are_not_kept(settings, monkeypatch):
    declare(monkeypatch, "celeba", fingerprint="0" * 32)
    with pytest.raises(InputError, match="fingerprint"):
        load(settings)
    assert cached(settings) is None


def test_downloaded_files_in_the_place_of_prepared_data_are_kept(settings):
    settings.cache_dir = os.path.dirname(settings.path)
    os.rename(settings.path, cache_path(settings))
    settings.path = str(cache_path(settings))
    for attempt in (load, lambda settings: prepare(settings, rebuild=True)):
        with pytest.raises(InputError, match=r"celeba"):
            attempt(settings)
    assert set(lists()) < set(os.listdir(settings.path))


def test_a_worker_waits_for_the_one_that_prepares(settings, monkeypatch, capsys):
    monkeypatch.setattr(cache, "LOOK_EVERY", 0.01)
    with futures.ThreadPoolExecutor() as threads:
        with exclusive(cache_path(settings)):
            waiting = threads.submit(load, settings)
            while "waiting for process" not in (said := capsys.readouterr().err):
                assert not waiting.done(), said
            assert cached(settings) is None
        whole = waiting.result()
    with exclusive(cache_path(settings)):
        same(load(settings), whole)  # reading goes on beside it


def test_of_several_workers_one_prepares_and_all_go_on(settings, monkeypatch):
    monkeypatch.setattr(cache, "LOOK_EVERY", 0.01)
    prepared = []

    def read(config):
        prepared.append(config)
        return read_source(config)

    monkeypatch.setattr(cache, "read_source", read)
    with futures.ThreadPoolExecutor(4) as threads:
        found = list(threads.map(load, [settings] * 4))
    assert len(prepared) == 1
    assert len({dataset.fingerprint for dataset in found}) == 1
    assert os.listdir(settings.cache_dir) == ["celeba"]


def test_a_signal_ends_the_wait(settings, monkeypatch):
    monkeypatch.setattr(signals, "_signalled", [])
    monkeypatch.setattr(cache, "LOOK_EVERY", 0.01)
    with exclusive(cache_path(settings)):
        threading.Timer(0.1, signal.raise_signal, [signal.SIGTERM]).start()
        with pytest.raises(signals.Stopped, match="SIGTERM"):
            load(settings)


def test_a_disk_with_too_little_space_is_refused_before_writing(settings, monkeypatch, tmp_path):
    status = os.statvfs(ROOT)
    small = os.statvfs_result((*status[:4], 0, *status[5:]))
    monkeypatch.setattr(os, "statvfs", lambda _: small)
    with pytest.raises(RunError, match="0 MiB"):
        load(settings)
    (tmp_path / "new").mkdir()
    with pytest.raises(RunError, match="0 MiB"):
        cache.write(load(DatasetConfig()), tmp_path / "new" / "digits", None)
    monkeypatch.undo()
    assert not cache_path(settings).exists()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES])
def test_a_failed_write_leaves_nothing(settings, monkeypatch, number):
    def fail(*_, **__):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(cache.np, "save", fail)
        with pytest.raises(RunError, match=rf"{os.strerror(number)}.*dataset\.cache_dir"):
            load(settings)
    assert cached(settings) is None
    assert not os.listdir(settings.cache_dir)
    assert load(settings)


def test_a_folder_that_cannot_be_made_is_named(settings):
    settings.cache_dir = "/proc/none"
    with pytest.raises(InputError, match=r"/proc/none.*dataset\.cache_dir"):
        load(settings)
    settings.cache_dir = "~nobody-of-this-name/cache"
    with pytest.raises(InputError, match=r"dataset\.cache_dir is '~nobody"):
        load(settings)


def test_a_process_killed_at_any_step_leaves_nothing_or_all(tmp_path):
    files = write(tmp_path / "files", lists() | photographs([1, 41, 51]))
    program = ["-m", "tests.data.dies_at_every_step", str(files), str(tmp_path / "cache")]
    answer = subprocess.run(
        [sys.executable, *program], capture_output=True, text=True, cwd=ROOT, check=False
    )
    *deaths, conclusion = answer.stdout.splitlines() or [answer.stderr[-2000:]]
    assert conclusion == "always absent or whole", answer.stderr[-2000:]
    assert all(int(line.split()[1]) > 20 for line in deaths)
