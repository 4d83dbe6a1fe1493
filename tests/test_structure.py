"""The house rules: data flows one way, and the layers stand alone."""

import ast
import pathlib
import subprocess
import sys

import pytest

from tests.conftest import ROOT

PACKAGE = ROOT / "lrlc_jax"

# A module may import from its own room and from rooms before it.
ORDER = [
    "errors",
    "system",
    "stopping",
    "progress",
    "layers",
    "config",
    "data",
    "analysis",
    "builders",
    "network",
    "conversion",
    "training",
    "study",
    "tracking",
    "report",
    "benchmark",
    "launch",
    "cli",
]


def room(name: str) -> str:
    return name.split(".")[1] if "." in name else ""


def imports(path: pathlib.Path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


MODULES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_module_imports_only_from_what_comes_before_it(path):
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    if parts == ("__init__",):
        return
    for name in imports(path):
        if name.startswith("lrlc_jax."):
            assert ORDER.index(room(name)) <= ORDER.index(parts[0]), f"{path} imports {name}"


def test_a_plan_and_a_report_need_no_device():
    code = (
        "import lrlc_jax.report.build, lrlc_jax.experiments.plan, sys; print('jax' in sys.modules)"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "False"


def test_the_layers_need_only_jax_and_flax():
    code = (
        "import lrlc_jax.layers, sys; print([m for m in ('hydra', 'omegaconf', 'wandb', 'sklearn',"
        " 'tensorflow_datasets', 'matplotlib') if m in sys.modules])"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "[]"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_module_has_one_subject(path):
    assert len(path.read_text().splitlines()) <= 320
