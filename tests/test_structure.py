"""Import order of the modules, and the dependencies of the layers."""

import ast
import importlib.metadata
import os
import shutil
import subprocess
import sys
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.conftest import ROOT

# A module imports from its own subpackage and from earlier ones. `layers.ops` counts as one, and so
# does a module directly in `lrlc_jax`.
ORDER = [
    "errors",
    "machine",
    "schema",
    "files",
    "signals",
    "streams",
    "progress",
    "layers.ops",
    "layers",
    "data",
    "networks",
    "analysis",
    "training",
    "tracking",
    "experiments",
    "report",
    "cli",
]
FOR_LAYERS = {"errors", "schema", "layers.ops", "layers"}


def subpackage(module: str) -> str:
    """The subpackage of a module's full name, such as ``lrlc_jax.layers.ops.product``."""
    parts = module.split(".")[1:]
    return "layers.ops" if parts[:2] == ["layers", "ops"] else parts[0] if parts else ""


def imports(tree: ast.AST):
    """The names that are imported at run time: blocks under TYPE_CHECKING do not count."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        yield from imports(node)


def modules() -> dict[str, set[str]]:
    """The imports of each module of the package, by full names."""
    found = {}
    for path in (ROOT / "lrlc_jax").rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = set(imports(ast.parse(path.read_text())))
    return found


def may_import(name: str, other: str) -> bool:
    """Whether a module may import a name."""
    if not other.startswith("lrlc_jax."):
        return other.partition(".")[0] != "benchmarks"
    ours, theirs = subpackage(name), subpackage(other)
    if {ours, theirs} - {*ORDER}:  # the package itself, or a subpackage that is not in ORDER
        return True
    in_layers = ours in FOR_LAYERS
    return ORDER.index(theirs) <= ORDER.index(ours) and (not in_layers or theirs in FOR_LAYERS)


def test_a_module_imports_only_from_earlier_subpackages():
    found = modules()
    assert {subpackage(name) for name in found} == {"", *ORDER}
    pairs = [(name, other) for name, imported in found.items() for other in sorted(imported)]
    assert [pair for pair in pairs if not may_import(*pair)] == []


def required(requirements) -> set[str]:
    """The distributions that a list of requirements brings, theirs included."""
    found: set[str] = set()
    left = list(requirements)
    while left:
        requirement = Requirement(left.pop())
        name = canonicalize_name(requirement.name)
        applies = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if applies and name not in found:
            found.add(name)
            left += importlib.metadata.requires(name) or []
    return found


LAYER = """
import jax
from flax import nnx
from lrlc_jax.layers import LRLC

def outputs_and_gradient(images):
    layer = LRLC(3, 8, kernel_size=3, input_size=(6, 6), rank=2, rngs=nnx.Rngs(0))
    return layer(images), nnx.grad(lambda layer: (layer(images) ** 2).sum())(layer)

images = jax.numpy.ones((2, 6, 6, 3))
"""
COMPUTED = """
outputs, gradient = outputs_and_gradient(images)
assert outputs.shape == (2, 4, 4, 8)
assert all(abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradient))
"""
# The same without compiling; the modules named on the command line cannot be imported.
TRACED = f"""
import importlib.abc, sys

class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in sys.argv:
            raise ModuleNotFoundError(f"{{name}} is no dependency of the layers", name=name)

sys.meta_path.insert(0, Refuse())
{LAYER}
outputs, gradient = jax.eval_shape(outputs_and_gradient, images)
assert outputs.shape == (2, 4, 4, 8)
"""


def python(interpreter, *arguments, **environment) -> subprocess.CompletedProcess:
    answer = subprocess.run(
        [str(interpreter), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return answer


def test_the_layers_need_only_what_the_package_requires_without_extras():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = [Requirement(line).name for line in project["dependencies"]]
    assert sorted(names) == ["flax", "jax"]
    allowed = {"lrlc-jax", *required(project["dependencies"])}
    refused = [
        module
        for module, owners in importlib.metadata.packages_distributions().items()
        if not allowed & {canonicalize_name(owner) for owner in owners}
    ]
    assert {"hydra", "omegaconf", "sklearn", "matplotlib", "wandb", "PIL"} <= {*refused}
    python(sys.executable, "-c", TRACED, *refused, "benchmarks")


@pytest.mark.slow
def test_an_installation_without_extras_computes_a_layer(tmp_path):
    """From an empty environment, at the versions of constraints.txt."""
    source = tmp_path / "source"  # a copy, as pip writes to the folder that it builds in
    shutil.copytree(ROOT / "lrlc_jax", source / "lrlc_jax")
    for name in ("pyproject.toml", "README.md", "LICENSE", "constraints.txt"):
        shutil.copy(ROOT / name, source)
    python(sys.executable, "-m", "venv", tmp_path / "venv")
    interpreter = tmp_path / "venv" / "bin" / "python"
    pip = ("-I", "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    python(interpreter, *pip, "--constraint", source / "constraints.txt", source)
    absent = ["hydra", "omegaconf", "sklearn", "matplotlib", "wandb", "PIL", "tensorflow_datasets"]
    find = "import importlib.util, sys; print(*map(importlib.util.find_spec, sys.argv[1:]))"
    found = python(interpreter, "-I", "-c", find, *absent, "benchmarks").stdout
    assert set(found.split()) == {"None"}
    python(interpreter, "-I", "-c", LAYER + COMPUTED)


def test_a_plan_and_a_report_use_no_device(tmp_path):
    """JAX has no backend of that name: any use of a device fails."""
    published = ROOT / "results" / "published" / "records"
    shutil.copytree(published, tmp_path / "results" / "records")
    arguments = ("study=quick", f"results_dir={tmp_path / 'results'}")
    no_device = {"JAX_PLATFORMS": "none"}
    sweep = ROOT / "scripts" / "sweep.py"
    python(sys.executable, sweep, *arguments, **no_device)
    assert list((tmp_path / "results" / "tables").iterdir())
