"""Devices that programs are compiled for without having them, and their compilers."""

import contextlib
import dataclasses
import importlib.metadata
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
from jax.experimental import topologies
from jax.sharding import AbstractDevice, AbstractMesh, AxisType, SingleDeviceSharding

from lrlc_jax.errors import RunError
from lrlc_jax.layers.ops.target import Target

FOLDER = pathlib.Path(__file__).resolve().parent
PACKAGES = {"gpu": "jax-cuda13-plugin", "tpu": "libtpu"}  # the compilers
BFLOAT16, FLOAT32, TF32 = "bfloat16", "float32", "tf32"
EXACT_PASSES = 6  # a TPU computes an exact float32 product as six of bfloat16
ALLOCATED = {"gpu": 0.75, "tpu": 1.0}  # share of the memory that JAX gives to programs
# libtpu otherwise looks for its own machine, and refuses a second process.
TPU_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


@dataclasses.dataclass(frozen=True)
class Device:
    """A GPU or TPU; the numbers are those of its data sheet, without sparsity.

    Attributes:
        title: name in reports.
        platform: ``gpu`` or ``tpu``.
        kind: its name in JAX.
        topology: its name for the compiler.
        bandwidth: of the main memory, in bytes per second.
        memory: size of the main memory in bytes.
        peaks: floating-point operations per second, by the type of the products.
        cores: number of multiprocessors or tensor cores.
    """

    title: str
    platform: str
    kind: str
    topology: str
    bandwidth: float
    memory: int
    peaks: Mapping[str, float]
    cores: int

    @property
    def target(self) -> Target:
        """The device as the layers see it."""
        return Target(self.platform, self.kind, int(self.memory * ALLOCATED[self.platform]))

    def peak(self, precision: str) -> float:
        """Floating-point operations per second in a precision of the network."""
        return self.peaks.get(precision, self.peaks[BFLOAT16])


def tpu(name: str, kind: str, bandwidth: float, memory: int, peak: float) -> Device:
    """A TPU with this peak for products in bfloat16."""
    peaks = {BFLOAT16: peak, FLOAT32: peak / EXACT_PASSES}
    return Device(f"TPU {name}", "tpu", kind, f"{name}:2x2", bandwidth, memory, peaks, cores=1)


DEVICES = {
    "h100": Device(
        title="NVIDIA H100 SXM, 80 GB",
        platform="gpu",
        kind="NVIDIA H100 80GB HBM3",
        topology="h100",
        bandwidth=3.35e12,
        memory=79 * 2**30,
        peaks={FLOAT32: 67e12, TF32: 495e12, BFLOAT16: 989e12},
        cores=132,
    ),
    "a100": Device(
        title="NVIDIA A100 SXM, 80 GB",
        platform="gpu",
        kind="NVIDIA A100-SXM4-80GB",
        topology="a100",
        bandwidth=2.04e12,
        memory=79 * 2**30,
        peaks={FLOAT32: 19.5e12, TF32: 156e12, BFLOAT16: 312e12},
        cores=108,
    ),
    "v5e": tpu("v5e", "TPU v5 lite", 0.819e12, 16 * 2**30, 197e12),
    "v6e": tpu("v6e", "TPU v6 lite", 1.64e12, 32 * 2**30, 918e12),
}


def compiler_version(platform: str) -> dict[str, str]:
    """Package and version of the compiler for a platform.

    Raises:
        RunError: if it is not installed.
    """
    package = PACKAGES[platform]
    try:
        return {package: importlib.metadata.version(package)}
    except importlib.metadata.PackageNotFoundError:
        raise RunError(
            f"The compiler for a {platform.upper()} ({package}) is not installed here; "
            "`make compile-for` installs it in an environment of its own."
        ) from None


def sharding_on(device: Device) -> SingleDeviceSharding:
    """Placement of a program's arrays on the device, which only its compiler knows.

    Raises:
        RunError: if its compiler is not installed.
    """
    compiler_version(device.platform)
    update: Any = jax.config.update
    update("jax_platforms", "cpu")  # nothing runs on a device
    if device.platform == "tpu":
        os.environ.update(TPU_ENVIRONMENT)
        topology = topologies.get_topology_desc(device.topology, platform="tpu")
    else:
        description = (FOLDER / f"{device.topology}.txtpb").read_text()
        topology = topologies.get_topology_desc(
            device.topology, platform="cuda", target_config=description, topology="1x1x1"
        )
    return SingleDeviceSharding(topology.devices[0])


def abstract_device(device: Device) -> contextlib.AbstractContextManager[Any]:
    """Tells Pallas the kind of GPU, which it asks for when it lowers a kernel."""
    if device.platform == "tpu":
        return contextlib.nullcontext()
    described = AbstractDevice(
        device_kind=device.kind, num_cores=device.cores, platform=device.platform
    )
    mesh = AbstractMesh((1,), ("x",), axis_types=(AxisType.Auto,), abstract_device=described)
    return jax.sharding.use_abstract_mesh(mesh)
