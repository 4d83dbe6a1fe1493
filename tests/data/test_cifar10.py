"""CIFAR-10 in each published form; hostile pickles are refused."""

import hashlib
import io
import os
import pickle
import struct

import numpy as np
import pytest

from lrlc_jax.data import DatasetConfig
from lrlc_jax.data.cache import read_source
from lrlc_jax.data.source import Location
from lrlc_jax.data.sources import cifar10
from lrlc_jax.data.sources.cifar10 import unpickle
from lrlc_jax.errors import InputError
from tests.data.examples import declare, gzipped, tarred, zipped

NAMES = list(cifar10.BINARY_SHA1)
COUNT = 40


@pytest.fixture
def small(monkeypatch):
    """Batches of 40 random images in both forms, and their checksums as the published ones."""
    rng = np.random.default_rng(0)
    files = {}
    for name in NAMES:
        planes = rng.integers(0, 256, (COUNT, 3072), np.uint8)
        labels = rng.integers(0, 10, COUNT, np.uint8)
        binary = np.concatenate([labels[:, None], planes], axis=1).tobytes()
        python = python_2_pickle(planes, labels.tolist())
        files[f"{name}.bin"], files[name] = binary, python
        monkeypatch.setitem(cifar10.BINARY_SHA1, name, hashlib.sha1(binary).hexdigest())
        monkeypatch.setitem(cifar10.PYTHON_MD5, name, hashlib.md5(python).hexdigest())
    declare(monkeypatch, "cifar10", validation_size=20, fingerprint=None)
    return files


class Python2Pickler(pickle._Pickler):
    """Writes strings as Python 2 did, whose strings were bytes."""

    dispatch = pickle._Pickler.dispatch.copy()

    def save_string(self, value):
        content = value if isinstance(value, bytes) else value.encode()
        short = len(content) < 256
        size = bytes([len(content)]) if short else struct.pack("<i", len(content))
        self.write((pickle.SHORT_BINSTRING if short else pickle.BINSTRING) + size + content)
        self.memoize(value)

    dispatch[bytes] = dispatch[str] = save_string


def python_2_pickle(planes, labels):
    out = io.BytesIO()
    Python2Pickler(out, 2).dump({"data": planes, "labels": labels})
    return out.getvalue().replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")


def write(folder, files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)


def pack(path, files):
    path.write_bytes(gzipped(tarred(files)))


def read(path):
    return read_source(DatasetConfig("cifar10", "files", str(path)))


def form(files, binary, folder=""):
    return {folder + n: c for n, c in files.items() if n.endswith(".bin") == binary}


def test_every_form_is_the_same_data(small, tmp_path):
    write(tmp_path / "bin", form(small, True))
    write(tmp_path / "above" / "cifar-10-batches-py", form(small, False))
    pack(tmp_path / "cifar-10-binary.tar.gz", form(small, True, "cifar-10-batches-bin/"))
    (tmp_path / "held").mkdir()
    pack(tmp_path / "held" / "python.tar.gz", form(small, False, "cifar-10-batches-py/"))
    write(tmp_path / "tars" / "in" / "folders", {"a.tar": tarred(form(small, True))})
    write(tmp_path, {"a.zip": zipped(form(small, False, "cifar-10-batches-py/"))})
    # torchvision keeps its archive, and puts other data sets beside it.
    root = tmp_path / "root"
    write(root / "cifar-10-batches-py", form(small, False))
    pack(root / "cifar-10-python.tar.gz", form(small, False, "cifar-10-batches-py/"))
    write(root / "SVHN", {"train_32x32.mat": b"", "data_batch_1": b"another one"})
    names = ("bin", "above", "cifar-10-binary.tar.gz", "held", "tars", "a.zip", "root")
    found = [read(tmp_path / name) for name in names]
    assert len({dataset.fingerprint for dataset in found}) == 1
    dataset = found[0]
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (180, 20, 40)
    assert dataset.scaling == (1 / 255, 0)


def test_planes_become_channels(small, tmp_path):
    write(tmp_path, form(small, True))
    row = np.frombuffer(small["test_batch.bin"], np.uint8)[:3073]
    (image,) = [
        i
        for i in cifar10.from_files(Location(tmp_path)).splits["test"].images
        if np.array_equal(i[..., 2].ravel(), row[2049:])
    ]
    np.testing.assert_array_equal(image[..., 0].ravel(), row[1:1025])
    np.testing.assert_array_equal(image[0, :, 1], row[1025:1057])


class Hostile:
    def __reduce__(self):
        return os.system, ("touch /tmp/owned",)


@pytest.mark.parametrize(
    "content",
    [
        pickle.dumps(Hostile(), protocol=2),
        pickle.dumps({b"data": eval, b"labels": []}, protocol=2),
        b"cbuiltins\nexec\n(S'1/0'\ntR.",
        b"cnumpy.core.multiarray\nscalar\n.",
        b"",
        b"\x80\x02",
    ],
)
def test_a_hostile_or_damaged_pickle_does_nothing(content, monkeypatch):
    called = []
    # The pickle names the function by its own module, posix, and not by os.
    monkeypatch.setattr(f"{os.system.__module__}.system", called.append)
    with pytest.raises(InputError, match="mine is not a pickle of plain arrays"):
        unpickle(content, "mine")
    assert not called


def test_arrays_lists_and_bytes_are_read(small):
    values = unpickle(small["data_batch_1"], "mine")
    assert values[b"data"].shape == (COUNT, 3072)
    assert len(values[b"labels"]) == COUNT


def test_other_files_are_refused_by_name(small, tmp_path):
    files = form(small, True)
    with pytest.raises(InputError, match=r"needs dataset\.path: .*data_batch_1\.bin"):
        read_source(DatasetConfig("cifar10", "files"))
    with pytest.raises(InputError, match=r"dataset\.path is .*none"):
        read(tmp_path / "none")
    write(tmp_path / "a", {k: v for k, v in files.items() if k != "data_batch_3.bin"})
    with pytest.raises(InputError, match=r"lacks data_batch_3\.bin; dataset\.path must be"):
        read(tmp_path / "a")
    write(tmp_path / "b", files | {"data_batch_2.bin": files["data_batch_2.bin"][:-1]})
    with pytest.raises(InputError, match=r"data_batch_2\.bin is not the published file"):
        read(tmp_path / "b")
    pack(tmp_path / "c.tar.gz", files)
    whole = (tmp_path / "c.tar.gz").read_bytes()
    (tmp_path / "c.tar.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"c\.tar\.gz cannot be read"):
        read(tmp_path / "c.tar.gz")
    for outside in (
        "../data_batch_1.bin",
        "/data_batch_1.bin",
        "a/../../b",
        "..\\data_batch_1.bin",
    ):
        pack(tmp_path / "d.tar.gz", {outside: b""})
        with pytest.raises(InputError, match="outside of its folder"):
            read(tmp_path / "d.tar.gz")
