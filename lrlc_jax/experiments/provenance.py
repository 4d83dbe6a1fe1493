"""Provenance of a record: code, versions, machine."""

import functools
import hashlib
import importlib.metadata
import pathlib
import platform
import subprocess
from collections.abc import Sequence
from typing import Any

import jax

import lrlc_jax
from lrlc_jax.experiments.record import Record
from lrlc_jax.files import cores

PACKAGE = pathlib.Path(lrlc_jax.__file__).resolve().parent
PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")

FOLDERS = ("../configs", "../scripts", "../benchmarks")  # with code and settings, too

# Settings in ``Record.config`` that may change the last digits of metrics.
ROUNDING = ("source", "seeds_at_once", "product_way")


@functools.cache
def code() -> dict[str, Any]:
    """Version, git revision, whether files are changed ("dirty"), and a hash of the source.

    Revision and "dirty" are None outside of a git checkout of this package.
    """
    digest = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*.py")):
        digest.update(path.relative_to(PACKAGE).as_posix().encode() + b"\0")
        digest.update(path.read_bytes() + b"\0")
    tracked = git("ls-files", "--error-unmatch", "__init__.py") is not None
    changes = git("status", "--porcelain", "--", ".", *FOLDERS)
    return {
        "version": lrlc_jax.__version__,
        "revision": git("rev-parse", "HEAD") if tracked else None,
        "dirty": bool(changes) if tracked and changes is not None else None,
        "source_sha256": digest.hexdigest(),
    }


def git(*arguments: str) -> str | None:
    """Output of a git command in the folder of the package; None if it fails."""
    command = ["git", "-C", str(PACKAGE), *arguments]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that compute the metrics."""
    found = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {"python": platform.python_version(), **found}


def machine() -> dict[str, Any]:
    """The accelerator or CPU that computes, and its host."""
    device = jax.devices()[0]
    return {
        "backend": jax.default_backend(),
        "device": device.device_kind,
        "devices": jax.device_count(),
        "processor": processor(),
        "cores": cores(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def processor() -> str:
    """Model name of the CPU."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def differences(records: Sequence[Record]) -> dict[str, list[str]]:
    """The provenance that differs between records.

    Returns:
        One value for each record, by names such as ``versions.jax``.
    """
    found = {}
    for section in ("code", "versions", "machine", "config"):
        parts = [getattr(record, section) for record in records]
        for key in dict.fromkeys(key for part in parts for key in part):
            values = [str(part.get(key)) for part in parts]
            if len(set(values)) > 1 and (section != "config" or key in ROUNDING):
                found[f"{section}.{key}"] = [v[:12] if section == "code" else v for v in values]
    return found
