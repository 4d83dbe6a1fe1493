"""CelebA in every published form: equal faces and splits, and notes on missing data."""

import io
import lzma
import sys
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from lrlc_jax.data import DatasetConfig, faces
from lrlc_jax.data.cache import read_source
from lrlc_jax.data.order import by_person, divide
from lrlc_jax.data.places import on_disk, walk
from lrlc_jax.data.sources import celeba
from lrlc_jax.errors import InputError
from tests.conftest import shared
from tests.data.examples import COUNT, config, jpeg, lists, name, photographs, write, zipped

pytestmark = pytest.mark.usefixtures("small_celeba")


def prepared(path):
    return read_source(config(path))


def pack(path, files):
    path.write_bytes(zipped(files, zipfile.ZIP_STORED))
    return path


def as_kaggle(files):
    """The lists in Kaggle's form, which lacks the persons."""
    _, columns, *rows = files["list_attr_celeba.txt"].decode().splitlines()
    table = [["image_id", *columns.split()], *map(str.split, rows)]
    parts = map(str.split, files["list_eval_partition.txt"].decode().splitlines())
    lists = {"list_attr_celeba": table, "list_eval_partition": [["image_id", "partition"], *parts]}
    return {
        f"{name}.csv": "".join(f"{','.join(row)}\n" for row in table).encode()
        for name, table in lists.items()
    }


def forms(folder):
    """The same data in each form that the reader takes."""
    inside = {f"img_align_celeba/{n}": c for n, c in photographs().items()}
    yield write(folder / "flat", lists() | photographs())
    yield write(folder / "system", lists() | inside)
    whole = write(folder / "zip in a folder", {f"Anno/{n}": c for n, c in lists().items()})
    pack(whole / "img_align_celeba.zip", inside)
    yield whole
    yield pack(folder / "lists inside.zip", lists() | inside)
    (folder / "linked").mkdir()
    for link, target in (("here", folder / "system"), ("loop", folder / "linked")):
        (folder / "linked" / link).symlink_to(target)
    yield folder / "linked"
    write(folder / "beside", lists())
    yield pack(folder / "beside" / "img.zip", inside)
    kaggle = as_kaggle(lists()) | {f"img_align_celeba/{n}": c for n, c in inside.items()}
    yield write(folder / "kaggle", kaggle)
    yield pack(folder / "archive.zip", kaggle)
    ends = {n: c.replace(b"\n", b"\r\n") for n, c in lists().items()}
    torchvision = write(
        folder / "torchvision", {f"celeba/{n}": c for n, c in (ends | inside).items()}
    )
    pack(torchvision / "celeba" / "img_align_celeba.zip", inside)
    yield torchvision


def test_every_form_is_the_same_data(tmp_path):
    found = [prepared(form) for form in forms(tmp_path)]
    assert len(found) == 9
    assert len({dataset.fingerprint for dataset in found}) == 1
    dataset = found[0]
    assert {k: len(v) for k, v in dataset.splits.items()} == celeba.COUNTS
    assert dataset.complete
    assert not dataset.notes
    assert (dataset.image_shape, dataset.num_classes) == ((32, 32, 3), 2)


def test_labels_persons_and_splits_stay_with_their_faces(tmp_path):
    dataset = prepared(write(tmp_path / "a", lists() | photographs()))
    parts = ["train"] * 40 + ["validation"] * 10 + ["test"] * 10
    for number, part in enumerate(parts, start=1):
        expected, _ = faces.face(jpeg(number), "")
        split = dataset.splits[part]
        (place,) = np.flatnonzero((split.images == expected).all(axis=(1, 2, 3)))
        assert split.labels[place] == (number % 3 == 0)
        assert split.persons[place] == 1 + (number - 1) // 3


def test_missing_photographs_and_half_sizes_are_noted(tmp_path):
    some = photographs([*range(1, 31), *range(41, 46)], half=range(1, 11))
    dataset = prepared(write(tmp_path / "a", lists() | some))
    assert not dataset.complete
    assert dataset.notes == (
        "PARTIAL: 35 of 60 images",
        "10 images made from photographs at half size",
    )
    assert {k: len(v) for k, v in dataset.splits.items()} == {
        "train": 30,
        "validation": 5,
        "test": 0,
    }


def test_a_photograph_at_full_size_is_preferred(tmp_path):
    full, half = jpeg(1), jpeg(1, half=True)
    for order in ("ab", "ba"):
        files = {f"{order[0]}/{name(1)}": full, f"{order[1]}/{name(1)}": half}
        folder = write(tmp_path / order, lists() | files)
        dataset = prepared(folder)
        np.testing.assert_array_equal(dataset.train.images[0], faces.face(full, "")[0])
        assert dataset.notes == ("PARTIAL: 1 of 60 images",)


def test_faces_at_full_and_half_size_are_aligned():
    full, from_half = (faces.face(jpeg(5, half), "") for half in (False, True))
    assert (full[1], from_half[1]) == (False, True)
    difference = np.abs(full[0].astype(int) - from_half[0]).mean()
    for axis in (0, 1):  # the crops agree to a fraction of a pixel
        shifted = np.roll(full[0].astype(int), 1, axis)
        assert difference < np.abs(shifted - full[0]).mean() / 3


def test_a_face_is_the_authors_within_one_grey_level():
    with np.load(shared("golden", "preprocess.npz")) as arrays:
        image, expected = arrays["celeba/image_uint8"], 255 * arrays["celeba/resized"]
    pixels = faces.to_pixels(image)
    # Theirs leave the range of grey levels a little, in 5 of 1,000 values.
    assert np.abs(pixels - expected.clip(0, 255)).max() <= 0.5 + 1e-3


def test_no_person_is_in_two_splits(tmp_path):
    official = prepared(write(tmp_path / "a", lists() | photographs()))
    divided = by_person(official)
    persons = [set(split.persons.tolist()) for split in divided.splits.values()]
    assert all(persons)
    assert sum(map(len, persons)) == len(set.union(*persons)) == COUNT // 3
    assert sum(map(len, divided.splits.values())) == COUNT
    assert divided.notes == ("split by person, not the official split",)
    assert divided.fingerprint != official.fingerprint


def test_additional_photographs_move_nobody_to_another_split(tmp_path):
    some = {n: c for n, c in photographs().items() if n != name(7)}
    few = by_person(prepared(write(tmp_path / "a", lists() | some)))
    all_ = by_person(prepared(write(tmp_path / "b", lists() | photographs())))
    for part, split in few.splits.items():
        assert set(split.persons.tolist()) <= set(all_.splits[part].persons.tolist())


def test_partial_data_with_a_small_split_are_split_by_person(tmp_path, monkeypatch):
    some = photographs(range(1, COUNT))
    dataset = prepared(write(tmp_path / "a", lists() | some))
    assert divide(dataset, None).notes[-1] == "split by person, not the official split"
    assert divide(dataset, "official") is dataset
    monkeypatch.setattr("lrlc_jax.data.order.ENOUGH", 9)
    assert divide(dataset, None) is dataset
    monkeypatch.undo()


def test_complete_data_are_split_officially(tmp_path):
    dataset = prepared(write(tmp_path / "a", lists() | photographs()))
    assert divide(dataset, None) is dataset
    assert len(divide(dataset, "person").train) != 40


def test_an_impossible_split_is_refused(tmp_path):
    some = photographs(range(1, 41))
    dataset = prepared(write(tmp_path / "a", lists() | some))
    with pytest.raises(InputError, match=r"40 training, 0 validation and 0 test .*split=person"):
        divide(dataset, "official")
    nobody = {k: v for k, v in lists().items() if k != "identity_CelebA.txt"}
    unknown = prepared(write(tmp_path / "b", nobody | some))
    with pytest.raises(InputError, match=r"identity_CelebA\.txt"):
        divide(unknown, None)
    one = prepared(write(tmp_path / "c", lists() | photographs([1])))
    with pytest.raises(InputError, match="too few persons"):
        divide(one, None)


def test_several_threads_keep_the_order(tmp_path, monkeypatch):
    forms = [write(tmp_path / "a", lists() | photographs())]
    write(tmp_path / "b", lists())
    forms.append(pack(tmp_path / "b" / "img.zip", photographs()))
    alone = prepared(forms[0])
    monkeypatch.setattr(faces, "CHUNK", 7)
    monkeypatch.setattr(faces, "cores", lambda: 4)
    for form in forms:
        found = prepared(form)
        assert found.fingerprint == alone.fingerprint
        np.testing.assert_array_equal(found.train.persons, alone.train.persons)


def cut(folder):
    with Image.open(io.BytesIO(jpeg(3))) as image:
        image.crop((0, 0, 80, 80)).save(folder / name(3))


def link(folder):
    (folder / name(3)).unlink()
    (folder / name(3)).symlink_to(folder / "nowhere.jpg")


def edit(old, new="", file="list_attr_celeba.txt"):
    def damage(folder):
        text = (folder / file).read_text()
        assert old in text
        (folder / file).write_text(text.replace(old, new, 1))

    return damage


PARTITION = "list_eval_partition.txt"


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda d: (d / name(3)).write_bytes(jpeg(3)[:1500]), r"000003\.jpg is a damaged picture"),
        (cut, r"000003\.jpg has 80x80 pixels"),
        (link, r"000003\.jpg"),
        (lambda d: (d / name(61)).write_bytes(jpeg(61)), r"000061\.jpg"),
        (
            lambda d: [p.unlink() for p in d.glob("*.jpg")],
            "contains no photographs .* dataset.path must be",
        ),
        (lambda d: (d / PARTITION).unlink(), r"lacks list_eval_partition"),
        (edit("9.jpg 0", "9.jpg 1", PARTITION), rf"{PARTITION} is not the published list"),
        (edit(f"{name(60)}  1  1\n"), r"list_attr_celeba\.txt .* 19 of 59 photographs"),
        (edit("Male", "Mole"), r"list_attr_celeba\.txt .* 0 of 0"),
        (edit("9.jpg  1  1", "9.jpg  1"), r"list_attr_celeba\.txt is damaged"),
        (edit("9.jpg  1  1", "9.jpg  1 one"), r"list_attr_celeba\.txt is damaged"),
        (edit("9.jpg  1  1", "9.jpg  1 -1"), r"list_attr_celeba\.txt .* 19 of 60 photographs"),
        (edit(name(9), name(99)), r"list_attr_celeba\.txt is damaged"),
        (lambda d: (d / "list_attr_celeba.txt").write_bytes(b""), r"list_attr_celeba\.txt is"),
        (lambda d: (d / "list_attr_celeba.txt").write_text(name(1)), r"list_attr_celeba\.txt is"),
    ],
)
def test_the_damaged_file_is_named(tmp_path, damage, words):
    folder = write(tmp_path / "a", lists() | photographs())
    damage(folder)
    with pytest.raises(InputError, match=words):
        prepared(folder)


def test_no_photograph_is_found_twice(tmp_path):
    folder = write(tmp_path / "a", lists() | photographs())
    (folder / "loop").symlink_to(folder)
    assert len(list(walk(folder))) == COUNT + 3


def test_a_bad_zip_is_named(tmp_path):
    folder = write(tmp_path / "a", lists())
    path = pack(folder / "img.zip", {"../000001.jpg": jpeg(1)})
    with pytest.raises(InputError, match=r"outside of its folder \(\.\./000001\.jpg\)"):
        prepared(folder)
    path.write_bytes(b"PK nothing")
    with pytest.raises(InputError, match=r"img\.zip cannot be read"):
        prepared(folder)
    content = pack(path, photographs()).read_bytes()
    start = content.index(jpeg(30))
    path.write_bytes(content[: start + 500] + b"damage" + content[start + 506 :])
    with pytest.raises(InputError, match=r"000030\.jpg in .*img\.zip cannot be read"):
        prepared(folder)
    with pytest.raises(InputError, match=r"dataset\.path is .*none"):
        prepared(tmp_path / "none")


@pytest.mark.slow
def test_the_published_lists_have_the_known_counts(monkeypatch, tmp_path):
    monkeypatch.undo()
    folder = shared("data", "celeba")
    files = {
        file: lzma.decompress((folder / f"{file}.xz").read_bytes())
        for file in ("list_eval_partition.txt", "identity_CelebA.txt")
    }

    def rows_of(files):
        write(tmp_path, files)
        places = {file.partition(".")[0]: on_disk(tmp_path / file) for file in files}
        return celeba.read_lists(places, tmp_path)

    male = lzma.decompress((folder / "male.csv.xz").read_bytes()).decode().splitlines()[1:]
    rows = "".join(f"{k} {2 * int(v) - 1}\n" for k, v in (row.split(",") for row in male))
    files["list_attr_celeba.txt"] = f"{len(male)}\nMale\n{rows}".encode()
    labels, parts, persons = np.transpose(list(rows_of(files).values()))
    assert sum(labels) == celeba.LABELLED
    assert np.bincount(parts).tolist() == list(celeba.COUNTS.values())
    assert len(set(persons)) == 10_177
    theirs = rows_of(as_kaggle(files))
    np.testing.assert_array_equal(
        list(theirs.values()), np.stack([labels, parts, 0 * parts - 1], 1)
    )
    first = lzma.decompress((folder / "list_attr_celeba_first20000.txt.xz").read_bytes())
    with pytest.raises(InputError, match=r"of 20,000 photographs .* of 202,599"):
        rows_of(files | {"list_attr_celeba.txt": first})


class Builder:
    """Stands for the builder of tensorflow-datasets with a prepared CelebA."""

    def __init__(self, lost=0):
        self.numbers = {"train": range(1, 41 - lost), "validation": range(41, 51)}
        self.numbers["test"] = range(51, 61)
        self.info = SimpleNamespace(
            splits={n: SimpleNamespace(num_examples=len(v)) for n, v in self.numbers.items()}
        )

    def is_prepared(self):
        return True

    def as_data_source(self, split, decoders):
        assert set(decoders) == {"image"}
        return [
            {
                "image": jpeg(n),
                "attributes": {"Male": n % 3 == 0},
                "identity": {"Identity_No": 1 + (n - 1) // 3},
            }
            for n in reversed(self.numbers[split])
        ]


def from_tfds(monkeypatch, builder):
    module = SimpleNamespace(
        builder=lambda *_, **__: builder, decode=SimpleNamespace(SkipDecoding=object)
    )
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", module)
    return read_source(DatasetConfig("celeba", "tfds"))


def test_tensorflow_datasets_give_the_same_data(tmp_path, monkeypatch):
    theirs = from_tfds(monkeypatch, Builder())
    ours = prepared(write(tmp_path / "a", lists() | photographs()))
    assert theirs.fingerprint == ours.fingerprint
    for part, split in ours.splits.items():
        np.testing.assert_array_equal(split.persons, theirs.splits[part].persons)
    with pytest.raises(InputError, match=r"train of celeb_a .* 39 images instead of 40"):
        from_tfds(monkeypatch, Builder(lost=1))
