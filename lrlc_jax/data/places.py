"""Files in folders and archives: found at any depth, read within bounds of memory."""

import contextlib
import dataclasses
import functools
import gzip
import os
import pathlib
import tarfile
import threading
import zipfile
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import IO, TypeAlias, cast

from lrlc_jax.errors import InputError
from lrlc_jax.files import open_regular

LARGEST_FILE = 2**26  # unpacked bytes; the largest published file has 47,040,016
LARGEST_TAR = 2**28  # unpacked bytes that are read of headers and wanted files

GZIP = b"\x1f\x8b"  # first bytes
READING = threading.Lock()  # zipfile does not read in several threads at once


@dataclasses.dataclass(frozen=True)
class Place:
    """A file on disk or in an archive.

    Attributes:
        name: without folders.
        where: for error messages.
        open: opens it.
        lock: is held while it is read.
    """

    name: str
    where: str
    open: Callable[[], IO[bytes]]
    lock: contextlib.AbstractContextManager[object] = dataclasses.field(
        default_factory=contextlib.nullcontext
    )

    def read(self) -> bytes:
        """The content, without gzip.

        Raises:
            InputError: if it cannot be read, or is larger than every published file.
        """
        with self.lock, readable(self.where), self.open() as file, unpacked(file) as content:
            data = content.read(LARGEST_FILE + 1)
        if len(data) > LARGEST_FILE:
            raise InputError(
                f"{self.where} unpacks to more than {LARGEST_FILE:,} bytes, which no published "
                "file has; download it again."
            )
        return data


Members: TypeAlias = Callable[[pathlib.Path], Iterator[Place]]


@contextlib.contextmanager
def readable(where: pathlib.Path | str) -> Iterator[None]:
    """Turn exceptions of damaged files into an :class:`InputError`."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # damaged archives raise exceptions of many types
        if isinstance(error, OSError) and error.errno:  # of the disk, not of the content
            place = error.filename or where
            raise InputError(f"{place} cannot be read ({error.strerror}).") from None
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{where} cannot be read ({reason}); download it again.") from None


def unpacked(file: IO[bytes]) -> IO[bytes]:
    """The stream, unpacked if it is gzipped; the name does not tell, since browsers unpack."""
    start = cast("gzip.GzipFile", file).peek(len(GZIP))
    return cast("IO[bytes]", gzip.GzipFile(fileobj=file)) if start.startswith(GZIP) else file


def on_disk(path: pathlib.Path) -> Place:
    """A file on disk."""
    return Place(path.name, str(path), functools.partial(open_regular, path))


def zip_members(path: pathlib.Path) -> Iterator[Place]:
    """The files in a zip, which stays open while a place refers to it."""
    with readable(path):
        archive = zipfile.ZipFile(path)
        for member in archive.infolist():
            yield in_archive(path, member.filename, functools.partial(archive.open, member))


def tar_members(path: pathlib.Path) -> Iterator[Place]:
    """The files in a tar, gzipped or not; each must be read before the next one."""
    with (
        readable(path),
        open_regular(path) as file,
        unpacked(file) as stream,
        tarfile.open(fileobj=cast("IO[bytes]", Bounded(stream)), mode="r:") as archive,
    ):
        for member in archive:
            opener = cast("Callable[[], IO[bytes]]", functools.partial(archive.extractfile, member))
            place = in_archive(path, member.name, opener)
            if member.isfile():  # links may point anywhere
                yield place


def in_archive(path: pathlib.Path, member: str, opener: Callable[[], IO[bytes]]) -> Place:
    """A member of an archive; refuses one outside of the archive's folder."""
    inside = pathlib.PurePosixPath(member.replace("\\", "/"))
    if inside.is_absolute() or ".." in inside.parts:
        raise InputError(
            f"{path} has a member outside of its folder ({member}); it is not safe: download it "
            "again."
        )
    return Place(inside.name, f"{member} in {path}", opener, READING)


class Bounded:
    """The stream of a tar, whose headers may claim any size."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.seek, self.tell, self.stream, self.left = stream.seek, stream.tell, stream, LARGEST_TAR

    def read(self, size: int) -> bytes:
        """The next bytes, at most ``LARGEST_TAR`` in all."""
        self.left -= size
        if self.left < 0:
            raise ValueError(f"its files have more than {LARGEST_TAR:,} bytes")
        return self.stream.read(size)


ZIPS: Mapping[str, Members] = {".zip": zip_members}
ARCHIVES = {**ZIPS, ".tar": tar_members, ".tar.gz": tar_members, ".tgz": tar_members}


def walk(path: pathlib.Path, archives: Mapping[str, Members] = ARCHIVES) -> Generator[Place]:
    """All files in a folder at any depth, then those in its archives; or those in one archive.

    Args:
        path: a folder, or a file; one that is no archive is itself the only file.
        archives: how to read archives, by the end of their names.

    Raises:
        InputError: if a folder or archive cannot be read, or has a member outside of its folder.
    """
    packed: list[tuple[pathlib.Path, Members]] = []
    with readable(path):
        for file in [path] if path.is_file() else files_in(path):
            members = next(
                (read for end, read in archives.items() if file.name.endswith(end)), None
            )
            if members is None or not file.is_file():
                yield on_disk(file)
            else:
                packed.append((file, members))
    for file, members in packed:
        yield from members(file)


def files_in(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """All files in a folder, in the order of their names; each folder once despite links."""

    def refuse(error: OSError) -> None:
        raise error

    seen = set()
    for folder, folders, names in os.walk(path, onerror=refuse, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        yield from (pathlib.Path(folder, name) for name in sorted(names))
