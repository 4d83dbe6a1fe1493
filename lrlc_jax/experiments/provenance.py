"""Provenance of a record: code, versions, machine."""

import functools
import hashlib
import importlib.metadata
import os
import pathlib
import platform
import subprocess
from collections.abc import Mapping
from typing import Any

import jax

import lrlc_jax
from lrlc_jax.machine import cores
from lrlc_jax.progress import one_line

PACKAGE = pathlib.Path(lrlc_jax.__file__).resolve().parent
PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")
# What may change rounding: variables of compilers and libraries (the last two are numbers of
# threads), and settings of JAX with their defaults. Training fixes the settings that change more
# (training.devices.fixed_settings).
OPTIONS = ("XLA_FLAGS", "LIBTPU_INIT_ARGS", "NVIDIA_TF32_OVERRIDE", "NPROC", "PJRT_NPROC")
SETTINGS = {
    "jax_disable_most_optimizations": False,
    "jax_optimization_level": "UNKNOWN",
    "jax_exec_time_optimization_effort": 0.0,
}
FOLDERS = ("../configs", "../scripts", "../benchmarks")  # also checked for changes


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
    """The accelerator or CPU that computes, its host, and what was set that may change rounding."""
    values = jax.config.values
    changed = {k: values[k] for k in SETTINGS if values.get(k, SETTINGS[k]) != SETTINGS[k]}
    return {
        "backend": jax.default_backend(),
        "device": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
        "processor": processor(),
        "cores": cores(),
        "system": f"{platform.system()} {platform.machine()}",
        **{name.lower(): one_line(os.environ[name]) for name in OPTIONS if os.environ.get(name)},
        **({"jax_settings": changed} if changed else {}),
    }


def processor() -> str:
    """Model name of the CPU."""
    path = pathlib.Path("/proc/cpuinfo")  # Linux only
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.split(":", 1)[1] for line in lines if line.startswith("model name")]
    return one_line(names[0] if names else platform.processor())


def device_name(machine: Mapping[str, Any]) -> str:
    """Name of the accelerator, or of the processor without one."""
    device, processor = machine["device"], machine.get("processor")
    return f"{device} ({processor})" if device == "cpu" and processor else str(device)
