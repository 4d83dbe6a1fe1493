"""What exactly produced a record: code, versions, device."""

import functools
import hashlib
import importlib.metadata
import pathlib
import platform
import subprocess
from collections.abc import Sequence
from typing import Any

import lrlc_jax
from lrlc_jax.experiments.record import Record
from lrlc_jax.files import cores

PACKAGE = pathlib.Path(lrlc_jax.__file__).resolve().parent
PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")

# What may change a figure in its last digits, besides code, versions and machine.
HOW_IT_RAN = ("source", "seeds_at_once", "product_way")


def _git(*arguments: str) -> str | None:
    try:
        answer = subprocess.run(
            ["git", "-C", str(PACKAGE), *arguments],
            capture_output=True,
            text=True,
            check=True,
            timeout=20,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()


@functools.cache
def code() -> dict[str, Any]:
    """Version, git revision and whether its tree was changed, and a hash of the package's source.

    Revision and dirty are null where the package does not lie in a git checkout of its own.
    """
    digest = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*.py")):
        digest.update(path.relative_to(PACKAGE).as_posix().encode() + b"\0")
        digest.update(path.read_bytes() + b"\0")
    tracked = _git("ls-files", "--error-unmatch", "__init__.py") is not None
    status = _git("status", "--porcelain", "--", ".", "../configs", "../scripts")
    return {
        "version": lrlc_jax.__version__,
        "revision": _git("rev-parse", "HEAD") if tracked else None,
        "dirty": bool(status) if tracked and status is not None else None,
        "source_sha256": digest.hexdigest(),
    }


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that compute the figures."""
    found = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {"python": platform.python_version(), **found}


def machine() -> dict[str, Any]:
    """The device that computes, and what it stands in."""
    import jax  # noqa: PLC0415 (reports read this module's neighbours without jax)

    device = jax.devices()[0]
    return {
        "backend": jax.default_backend(),
        "device": device.device_kind,
        "devices": jax.device_count(),
        "processor": _processor(),
        "cores": cores(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def _processor() -> str:
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def differences(records: Sequence[Record]) -> dict[str, list[str]]:
    """What the records say of how they came about that is not the same in all of them.

    Returns:
        The value in each record by the name of what differs, such as ``versions.jax``.
    """
    found = {}
    for section in ("code", "versions", "machine", "config"):
        parts = [getattr(record, section) for record in records]
        for key in dict.fromkeys(key for part in parts for key in part):
            values = [str(part.get(key)) for part in parts]
            if len(set(values)) > 1 and (section != "config" or key in HOW_IT_RAN):
                found[f"{section}.{key}"] = [v[:12] if section == "code" else v for v in values]
    return found
