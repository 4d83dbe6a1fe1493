"""CelebA's photographs where they lie: in folders and in zips."""

import functools
import io
import os
import pathlib
import re
import zipfile
import zlib
from collections.abc import Collection, Iterator, Sequence

from PIL import Image

from lrlc_jax.data.sources import faces
from lrlc_jax.data.sources.archive import check_inside
from lrlc_jax.data.sources.celeba_lists import ATTRIBUTES, PARTITION, PERSONS, Lists, read_lists
from lrlc_jax.data.sources.decode import Photograph
from lrlc_jax.errors import InputError

NAME = re.compile(r"[0-9]{6}\.jpg")
LISTS = (ATTRIBUTES, PARTITION, PERSONS)

# Where a file is: the zip that holds it ("" if none does), its path, and its size in bytes.
Place = tuple[str, str, int]


def find(path: pathlib.Path) -> tuple[dict[str, Place], Lists]:
    """Every photograph by its name, and what the lists say of it.

    Args:
        path: a folder with the photographs, in any folders or zips within it, and the lists; or a
            zip, with the lists in it or beside it.

    Raises:
        InputError: if there are no photographs, one that no list knows, or a damaged list or zip.
    """
    if not path.exists():
        raise InputError(f"dataset.path is {path}, where there is nothing.")
    found: dict[str, list[Place]] = {}
    for name, place in walk(path):
        found.setdefault(name, []).append(place)
    if path.is_file():
        for name in LISTS:
            beside = path.with_name(name)
            if name not in found and beside.is_file():
                found[name] = [("", str(beside), 0)]
    files = {name: read_file(found.pop(name)[0]) for name in LISTS if name in found}
    lists = read_lists(files, str(path))
    if not found:
        raise InputError(f"{path} holds no photographs of CelebA (000001.jpg and so on).")
    unknown = sorted(set(found) - set(lists.labels) | set(found) - set(lists.parts))
    if unknown:
        raise InputError(f"{ATTRIBUTES} in {path} does not have {unknown[0]}, which is there.")
    return {name: best(places) for name, places in sorted(found.items())}, lists


def wanted(name: str) -> bool:
    """Whether a file is a photograph or a list."""
    return name in LISTS or NAME.fullmatch(name) is not None


def walk(path: pathlib.Path) -> Iterator[tuple[str, Place]]:
    """Photographs and lists in a folder or a zip, and in the zips in a folder, by their names."""
    if path.is_file():
        yield from members(path)
        return

    def refuse(error: OSError) -> None:
        raise InputError(f"{error.filename} cannot be read ({error.strerror}).")

    seen = set()
    for folder, folders, names in os.walk(path, onerror=refuse, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:  # a link to where we have been
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        for name in sorted(names):
            file = os.path.join(folder, name)
            if name.endswith(".zip"):
                yield from members(pathlib.Path(file))
            elif wanted(name):
                try:
                    yield name, ("", file, os.path.getsize(file))
                except OSError as error:
                    refuse(error)


def members(path: pathlib.Path) -> Iterator[tuple[str, Place]]:
    """Photographs and lists in a zip."""
    for member in open_zip(str(path)).infolist():
        check_inside(member.filename, path)
        name = pathlib.PurePosixPath(member.filename).name
        if wanted(name):
            yield name, (str(path), member.filename, member.file_size)


def open_zip(path: str) -> zipfile.ZipFile:
    """A zip, kept open until it is changed."""
    try:
        return opened(path, os.stat(path).st_mtime_ns)
    except (zipfile.BadZipFile, OSError) as error:
        raise InputError(f"{path} is damaged or no zip ({error}); fetch it again.") from None


@functools.lru_cache(maxsize=8)
def opened(path: str, changed: int) -> zipfile.ZipFile:
    """A zip as it was when it was last changed."""
    del changed
    return zipfile.ZipFile(path)


def read_file(place: Place) -> bytes:
    """The content of a file, wherever it is."""
    archive, file, _ = place
    try:
        return open_zip(archive).read(file) if archive else pathlib.Path(file).read_bytes()
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError) as error:
        raise InputError(
            f"{file}{f' in {archive}' if archive else ''} cannot be read ({error}); fetch it again."
        ) from None


def best(places: Sequence[Place]) -> Place:
    """Of several pictures of one name, the aligned one at full size, or else at half size."""
    if len(places) == 1:
        return places[0]
    wanted = [size[::-1] for size in (faces.FULL, faces.HALF)]

    def rank(place: Place) -> int:
        try:
            with Image.open(io.BytesIO(read_file(place))) as picture:
                return wanted.index(picture.size) if picture.size in wanted else len(wanted)
        except OSError:
            return len(wanted)

    return min(places, key=rank)


def read(keys: Collection[tuple[str, str, int, int, int]]) -> Iterator[Photograph]:
    """The photographs at some places; each key is a place, the label and the person."""
    for archive, file, size, label, person in keys:
        yield Photograph(read_file((archive, file, size)), file, label, person)
