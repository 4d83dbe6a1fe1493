"""CelebA with 60 photographs, MNIST with 70 images."""

import hashlib

import numpy as np
import pytest

from lrlc_jax.data.sources import celeba, mnist
from tests.data.examples import COUNT, declare, lists


def shrink_celeba(monkeypatch):
    """Expect 60 photographs, and the lists of the examples."""
    monkeypatch.setattr(celeba, "COUNT", COUNT)
    monkeypatch.setattr(celeba, "LABELLED", COUNT // 3)
    monkeypatch.setattr(celeba, "COUNTS", {"train": 40, "validation": 10, "test": 10})
    for file in celeba.ROWS_SHA256:
        rows = lists()[f"{file}.txt"].replace(b"\r\n", b"\n")
        monkeypatch.setitem(celeba.ROWS_SHA256, file, hashlib.sha256(rows).hexdigest())


@pytest.fixture
def small_celeba(monkeypatch):
    """CelebA with 60 photographs."""
    shrink_celeba(monkeypatch)


def shrink_mnist(monkeypatch):
    """Expect 60 and 10 images of zeros; the four files, unpacked."""
    monkeypatch.setattr(mnist, "COUNTS", {"train": 60, "test": 10})
    declare(monkeypatch, "mnist", validation_size=5, fingerprint=None)
    files = {}
    for name, count in (("train", 60), ("t10k", 10)):
        for kind, shape in (("images-idx3", (count, 28, 28)), ("labels-idx1", (count,))):
            header = bytes((0, 0, 8, len(shape))) + b"".join(n.to_bytes(4, "big") for n in shape)
            content = files[f"{name}-{kind}-ubyte"] = header + bytes(int(np.prod(shape)))
            sha256 = hashlib.sha256(content).hexdigest()
            monkeypatch.setitem(mnist.SHA256, f"{name}-{kind}-ubyte", sha256)
    return files


@pytest.fixture
def small_mnist(monkeypatch):
    """MNIST with 70 images; its four files, unpacked."""
    return shrink_mnist(monkeypatch)
