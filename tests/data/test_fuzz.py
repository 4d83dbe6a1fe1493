"""Damaged or forged caches and archives give the same data, or are refused in a sentence.

LRLC_JAX_EXAMPLES is the number of examples of each test.
"""

import contextlib
import hashlib
import io
import json
import os

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lrlc_jax.data import DatasetConfig, Split, cache
from lrlc_jax.data.dataset import fingerprint
from lrlc_jax.errors import InputError, RunError
from tests.data.conftest import shrink_celeba, shrink_mnist
from tests.data.examples import declare, gzipped, lists, photographs, tarred, write, zipped

EXAMPLES = int(os.environ.get("LRLC_JAX_EXAMPLES", "100"))

many = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
values = st.recursive(
    scalars, lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(max_size=5), v, max_size=3)
)


@st.composite
def damaged(draw, content):
    """Content with up to three bytes changed, a part removed or doubled, or other content."""
    content = bytearray(content)
    place = draw(st.integers(0, len(content)))
    end = draw(st.integers(place, min(len(content), place + 600)))
    match draw(st.sampled_from(["bytes", "cut", "lose", "double", "insert", "other"])):
        case "bytes":
            for _ in range(draw(st.integers(1, 3))):
                content[draw(st.integers(0, len(content) - 1))] = draw(st.integers(0, 255))
        case "cut":
            del content[place:]
        case "lose":
            del content[place:end]
        case "double":
            content[end:end] = content[place:end]
        case "insert":
            content[place:place] = draw(st.binary(min_size=1, max_size=20))
        case "other":
            content = draw(st.binary(max_size=20))
    return bytes(content)


def replaced(value, draw):
    """JSON with one value, at any depth, removed or replaced."""
    inside = isinstance(value, dict | list) and len(value) > 0
    if not inside or draw(st.integers(0, 3)) == 0:
        return draw(values)
    keys = list(value) if isinstance(value, dict) else range(len(value))
    key = draw(st.sampled_from(keys))
    changed = value.copy()
    if draw(st.booleans()):
        changed[key] = replaced(value[key], draw)
    else:
        del changed[key]
    return changed


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A small published data set, prepared; the settings, and the files of the cache."""
    with pytest.MonkeyPatch.context() as patch:
        rng = np.random.default_rng(0)
        splits = {
            name: Split(
                rng.integers(0, 256, (count, 4, 4, 1), np.uint8),
                rng.integers(0, 10, count, np.int32),
            )
            for name, count in (("train", 9), ("validation", 4), ("test", 5))
        }
        declare(patch, "cifar10", fingerprint=fingerprint(*splits.values()))
        folder = tmp_path_factory.mktemp("cache")
        dataset = cache.Dataset(
            "cifar10",
            "files",
            10,
            255,
            (0.0, 1.0),
            **splits,
            full_train_size=9,
            fingerprint=fingerprint(*splits.values()),
        )
        cache.write(dataset, folder / "cifar10", "/somewhere")
        files = {path.name: path.read_bytes() for path in (folder / "cifar10").iterdir()}
        yield dataset, folder, files


def check_cache(dataset, folder, files):
    """The prepared data of these files are refused, or as they were."""
    write(folder / "cifar10", files)
    try:
        found = cache.cached(DatasetConfig("cifar10", "files", cache_dir=str(folder)))
    except (InputError, RunError):
        return
    for name, split in dataset.splits.items():
        for kind, array in vars(split).items():
            np.testing.assert_array_equal(array, getattr(found.splits[name], kind))
    fixed = [f for f in vars(dataset) if f not in (*dataset.splits, "source")]
    assert {f: getattr(found, f) for f in fixed} == {f: getattr(dataset, f) for f in fixed}


@many
@given(data=st.data())
def test_a_damaged_cache_is_refused(prepared, data):
    *_, files = prepared
    name = data.draw(st.sampled_from(sorted(files)))
    check_cache(*prepared[:2], files | {name: data.draw(damaged(files[name]))})


@st.composite
def forged_array(draw, files):
    """The name of an array, and a file with other values, or of another form; its shape."""
    name = draw(st.sampled_from([name for name in sorted(files) if name.endswith(".npy")]))
    array = np.load(io.BytesIO(files[name]))
    match draw(st.sampled_from(["value", "order", "form", "bytes"])):
        case "value":
            array.flat[draw(st.integers(0, array.size - 1))] = draw(st.integers(0, 20))
        case "order":
            array = array[::-1]
        case "form":
            dtype = draw(st.sampled_from(["u1", "<i4", ">i4", "<f4", "S3", "?"]))
            array = np.ones(draw(st.lists(st.integers(0, 5), max_size=4)), dtype)
    out = io.BytesIO()
    np.save(out, array)
    content = draw(st.just(out.getvalue()) | damaged(out.getvalue()))
    return name, content, list(array.shape)


forged_claim = st.sampled_from(
    [
        {"levels": 1},
        {"num_classes": 2},
        {"scaled_to": [0.0, 2.0]},
        {"complete": False},
        {"complete": 1},
        {"notes": ["PARTIAL"]},
        {"full_train_size": 8},
        {"fingerprint": "0" * 32},
        {"name": "mnist"},
        {"source": "builtin"},
        {"canvas": 48},
    ]
)


@many
@given(data=st.data())
def test_a_cache_with_a_forged_manifest_is_refused_or_the_same(prepared, data):
    *_, files = prepared
    manifest = json.loads(files["manifest.json"])
    if data.draw(st.booleans()):
        name, content, shape = data.draw(forged_array(files))
        files = files | {name: content}
        sha256 = hashlib.sha256(content).hexdigest()
        manifest["files"][name] = {"shape": shape, "sha256": sha256}
    if data.draw(st.booleans()):
        manifest["dataset"] |= data.draw(forged_claim)
    elif data.draw(st.booleans()):
        manifest = replaced(manifest, data.draw)
    if isinstance(manifest, dict):
        manifest["checksum"] = cache.checksum(manifest)
    check_cache(*prepared[:2], files | {"manifest.json": json.dumps(manifest).encode()})


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    """Small data of MNIST as one archive each, and their fingerprint."""
    with pytest.MonkeyPatch.context() as patch:
        files = shrink_mnist(patch)
        packed = {f"MNIST/raw/{name}.gz": gzipped(c) for name, c in files.items()}
        folder = tmp_path_factory.mktemp("archives")
        found = {
            "a.tar": tarred(files),
            "a.tgz": gzipped(tarred(files)),
            "a.tar.gz": gzipped(tarred(packed)),
            "a.zip": zipped(packed),
        }
        write(folder, found)
        whole = {read("mnist", folder / name).fingerprint for name in found}
        assert len(whole) == 1
        yield folder, found, whole.pop()


def read(name, path):
    return cache.read_source(DatasetConfig(name, "files", str(path)))


@many
@given(data=st.data())
def test_a_damaged_archive_is_refused_or_the_same(archives, data):
    folder, found, whole = archives
    name = data.draw(st.sampled_from(sorted(found)))
    write(folder, {name: data.draw(damaged(found[name]))})
    with contextlib.suppress(InputError):
        assert read("mnist", folder / name).fingerprint == whole


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    """Small data of CelebA in a zip, and their fingerprint."""
    with pytest.MonkeyPatch.context() as patch:
        shrink_celeba(patch)
        path = tmp_path_factory.mktemp("celeba") / "a.zip"
        content = zipped(lists() | photographs([1, 41, 51]))
        path.write_bytes(content)
        yield path, content, read("celeba", path)


@many
@given(data=st.data())
def test_a_damaged_zip_of_photographs_is_refused_or_the_same_or_has_fewer(faces, data):
    path, content, whole = faces
    path.write_bytes(data.draw(damaged(content)))
    try:
        found = read("celeba", path)
    except InputError:
        return
    for name, split in found.splits.items():
        theirs = {image.tobytes() for image in whole.splits[name].images}
        assert {image.tobytes() for image in split.images} <= theirs
    assert found.notes == whole.notes or found.notes < whole.notes
