"""Small data in CelebA's published forms."""

import dataclasses
import functools
import gzip
import io
import tarfile
import zipfile

import numpy as np
from PIL import Image

from lrlc_jax.data.dataset import DatasetConfig
from lrlc_jax.data.source import RawData, Source
from lrlc_jax.data.sources import SOURCES

COUNT = 60
PARTS = [0] * 40 + [1] * 10 + [2] * 10


def name(number):
    return f"{number:06d}.jpg"


@functools.cache
def jpeg(number, half=False):
    """A smooth coloured picture, different for each number."""
    rng = np.random.default_rng(number)
    small = Image.fromarray(rng.integers(0, 256, (7, 6, 3), np.uint8))
    out = io.BytesIO()
    small.resize((89, 109) if half else (178, 218), Image.Resampling.BICUBIC).save(out, "jpeg")
    return out.getvalue()


def lists():
    """The three lists, of 60 photographs of 20 persons; every third shows a man."""
    rows = "".join(f"{name(n)}  1 {1 if n % 3 == 0 else -1:2d}\n" for n in range(1, COUNT + 1))
    parts = "".join(f"{name(n)} {PARTS[n - 1]}\n" for n in range(1, COUNT + 1))
    persons = "".join(f"{name(n)} {1 + (n - 1) // 3}\n" for n in range(1, COUNT + 1))
    return {
        "list_attr_celeba.txt": f"{COUNT}\nYoung Male \n{rows}".encode(),
        "list_eval_partition.txt": parts.encode(),
        "identity_CelebA.txt": persons.encode(),
    }


def write(folder, files):
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    return folder


def tarred(files):
    """A tar of these files."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return out.getvalue()


def gzipped(content):
    """The same bytes at any time."""
    return gzip.compress(content, 1, mtime=0)


def zipped(files, method=zipfile.ZIP_DEFLATED):
    """A zip of these files."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content, method)
    return out.getvalue()


def photographs(numbers=range(1, COUNT + 1), half=()):
    return {name(n): jpeg(n, n in half) for n in numbers}


def config(path, **settings):
    return DatasetConfig("celeba", "files", str(path), **settings)


def declare(monkeypatch, name, **properties):
    """Change the declaration of a data set."""
    monkeypatch.setitem(SOURCES, name, dataclasses.replace(SOURCES[name], **properties))


def made_up(splits, **properties):
    """The arguments of ``build`` for a data set without a source."""
    defaults = {"num_classes": 3, "levels": 255, "scaled_to": (0.0, 1.0)}
    return Source("x", {}, **defaults | properties), "s", RawData(splits)
