"""CelebA with 60 photographs."""

import hashlib

import pytest

from lrlc_jax.data.sources import celeba
from tests.data.examples import COUNT, lists


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
