"""Published files in a folder or a ``tar.gz``, and their checksums."""

import hashlib
import pathlib
import tarfile
import zlib
from collections.abc import Collection

from lrlc_jax.errors import InputError


def collect(path: pathlib.Path, wanted: Collection[str]) -> dict[str, bytes]:
    """The contents of the wanted files, by name; missing files are left out.

    Args:
        path: a ``tar.gz``; or a folder with the files, with folders of them, or with a ``tar.gz``.
        wanted: file names without folders.

    Raises:
        InputError: if the path cannot be read, or an archive has a member outside of its folder.
    """
    try:
        if path.is_file():
            return from_tar(path, wanted)
        files = [p for p in (*path.glob("*"), *path.glob("*/*")) if p.name in wanted]
        if files:
            return {file.name: file.read_bytes() for file in sorted(files)}
        found: dict[str, bytes] = {}
        for archive in sorted(path.glob("*.tar.gz")):
            found = found or from_tar(archive, wanted)
        return found
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error}).") from None


def from_tar(path: pathlib.Path, wanted: Collection[str]) -> dict[str, bytes]:
    """The contents of the wanted files of a ``tar.gz``, read in one pass."""
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(path, "r:gz") as archive:
            for member in archive:
                check_inside(member.name, path)
                name = pathlib.PurePosixPath(member.name).name
                regular = member.isfile() and name in wanted  # links may point anywhere
                content = archive.extractfile(member) if regular else None
                if content is not None:
                    found[name] = content.read()
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise InputError(f"{path} is damaged or no tar.gz ({error}); download it again.") from None
    return found


def check_inside(member: str, path: pathlib.Path) -> None:
    """Refuse an archive with a member outside of the archive's folder.

    Raises:
        InputError: naming the member.
    """
    place = pathlib.PurePosixPath(member.replace("\\", "/"))
    if place.is_absolute() or ".." in place.parts:
        raise InputError(
            f"{path} has a member outside of its folder ({member}); do not trust it: download it "
            "again."
        )


def check_published(content: bytes, algorithm: str, published: str, what: str) -> None:
    """Refuse a file with another checksum than the published one.

    Raises:
        InputError: naming the file.
    """
    if hashlib.new(algorithm, content, usedforsecurity=False).hexdigest() != published:
        raise InputError(
            f"{what} is not the published file (its {algorithm} differs); download it again."
        )
