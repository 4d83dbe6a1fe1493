"""CelebA, grown small."""

import hashlib

import pytest

from lrlc_jax.data.sources import celeba, celeba_lists
from tests.data.examples import COUNT, lists


def shrink_celeba(monkeypatch):
    """Let CelebA have 60 photographs, and its lists be those of the examples."""
    monkeypatch.setattr(celeba_lists, "COUNT", COUNT)
    monkeypatch.setattr(celeba, "COUNT", COUNT)
    monkeypatch.setattr(celeba_lists, "LABELLED", COUNT // 3)
    monkeypatch.setattr(celeba, "COUNTS", {"train": 40, "validation": 10, "test": 10})
    for file in ("list_eval_partition.txt", "identity_CelebA.txt"):
        md5 = hashlib.md5(lists()[file]).hexdigest()
        monkeypatch.setitem(celeba_lists.PUBLISHED_MD5, file, md5)


@pytest.fixture
def small_celeba(monkeypatch):
    """CelebA with 60 photographs."""
    shrink_celeba(monkeypatch)
