"""The count of a program's costs, and the command that compiles for a device that is not there."""

import dataclasses
import doctest
import functools
import importlib.metadata
import json

import jax
import jax.numpy as jnp
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from benchmarks import compile_for, compiled, hlo, targets
from benchmarks.compile_for import Settings, cases, run
from benchmarks.compiled import Case, Report, Result, markdown
from benchmarks.hlo import Array, Moved, cost
from benchmarks.targets import DEVICES, PACKAGES
from lrlc_jax.errors import InputError, RunError
from lrlc_jax.experiments.config import typed
from tests.commands import call, here
from tests.conftest import ROOT

CONV, LRLC = {"name": "conv"}, {"name": "lrlc", "at": 3, "rank": 2}
LOCAL = {"name": "locally_connected", "at": 3}


@functools.cache
def composed():
    with initialize_config_dir(version_base="1.3", config_dir=str(ROOT / "configs")):
        return OmegaConf.to_container(compose("compile_for"))


def settings(**changes) -> Settings:
    return typed(Settings, {**composed(), **changes})


def program(body: str, *computations: str) -> str:
    """The text of a program with this entry computation."""
    entry = f"ENTRY %main (p.0: f32[8,4]) -> f32[8,4] {{\n{body}\n}}\n"
    return "HloModule jit_f, is_scheduled=true\n\n" + "\n\n".join([*computations, entry])


def compiled_text(function, *shapes):
    arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return jax.jit(function).lower(*arrays).compile().as_text()


def test_an_instruction_reads_its_operands_and_writes_its_result():
    found = cost(
        program(
            "  %p.0 = f32[8,4]{1,0} parameter(0)\n"
            "  %half = bf16[8,4]{1,0} convert(%p.0)\n"
            "  %same = bf16[4,8]{0,1} bitcast(%half)\n"
            '  ROOT %back = f32[8,4]{1,0} add(%p.0, %same), metadata={op_name="f(%half)"}'
        )
    )
    sizes = {moved.name.split()[-1]: moved.bytes for moved in found.moved}
    assert sizes == {"half": 128 + 64, "back": 128 + 64 + 128}
    assert found.bytes == sum(sizes.values())
    assert [moved.name for moved in found.moved] == ["add back", "convert half"]


def test_a_loop_counts_as_often_as_it_runs():
    loop = (
        "%body (arg: (s32[], f32[8,4])) -> (s32[], f32[8,4]) {\n"
        "  %arg = (s32[], f32[8,4]{1,0}) parameter(0)\n"
        "  %n = s32[] get-tuple-element(%arg), index=0\n"
        "  %x = f32[8,4]{1,0} get-tuple-element(%arg), index=1\n"
        "  %y = f32[8,4]{1,0} negate(%x)\n"
        "  ROOT %next = (s32[], /*index=1*/f32[8,4]{1,0}) tuple(%n, %y)\n}"
    )
    condition = "%cond (arg.1: (s32[], f32[8,4])) -> pred[] {\n  ROOT %go = pred[] parameter(0)\n}"

    def text(known):
        return program(
            "  %start = (s32[], f32[8,4]{1,0}) parameter(0)\n"
            "  ROOT %loop = (s32[], f32[8,4]{1,0}) while(%start), condition=%cond, body=%body"
            + known,
            loop,
            condition,
        )

    known = cost(
        text(', backend_config={"known_trip_count":{"n":"7"},"known_init_step":{"init":"0"}}')
    )
    assert known.bytes == 7 * 2 * 128
    assert known.moved == [Moved(7 * 256, 7, "negate y", "f32[8,4]{1,0}")]
    assert not known.endless
    unknown = cost(text(""))
    assert unknown.endless
    assert unknown.bytes == 2 * 128


def test_slices_and_updates_in_place_count_what_they_touch():
    read = (
        "%slicing (a: f32[100,4], i: s32[]) -> f32[1,4] {\n"
        "  %a = f32[100,4]{1,0} parameter(0)\n"
        "  %i = s32[] parameter(1)\n"
        "  %part = f32[1,4]{1,0} dynamic-slice(%a, %i, %i), dynamic_slice_sizes={1,4}\n"
        "  ROOT %b = f32[1,4]{1,0} negate(%part)\n}"
    )
    write = (
        "%updating (c: f32[100,4], d: f32[1,4], j: s32[]) -> f32[100,4] {\n"
        "  %c = f32[100,4]{1,0} parameter(0)\n"
        "  %d = f32[1,4]{1,0} parameter(1)\n"
        "  %j = s32[] parameter(2)\n"
        "  %e = f32[1,4]{1,0} negate(%d)\n"
        "  ROOT %f = f32[100,4]{1,0} dynamic-update-slice(%c, %e, %j, %j)\n}"
    )
    text = program(
        "  %p = f32[100,4]{1,0} parameter(0)\n"
        "  %k = s32[] parameter(1)\n"
        "  %r = f32[1,4]{1,0} fusion(%p, %k), kind=kLoop, calls=%slicing\n"
        "  %w = f32[100,4]{1,0} fusion(%p, %r, %k), kind=kLoop, calls=%updating\n"
        "  ROOT %z = f32[100,4]{1,0} dynamic-update-slice(%w, %r, %k, %k)",
        read,
        write,
    )
    sizes = {moved.name.split()[-1]: moved.bytes for moved in cost(text).moved}
    assert sizes == {"r": 16 + 4 + 16, "w": 16 + 4 + 16, "z": 2 * 16}


def test_an_asynchronous_slice_moves_its_part_of_the_main_memory():
    text = program(
        "  %p = f32[100,4]{1,0} parameter(0)\n"
        "  %s = ((f32[100,4]{1,0}), f32[25,4]{1,0:S(1)}, s32[]{:S(2)}) slice-start(%p)\n"
        "  ROOT %d = f32[25,4]{1,0:S(1)} slice-done(%s)",
    )
    assert [moved.bytes for moved in cost(text).moved] == [25 * 4 * 4]


def test_what_a_fusion_computes_inside_is_free_and_a_tuple_has_several_arrays():
    inside = (
        "%fused (a: f32[8,4]) -> (f32[8,4], f32[8]) {\n"
        "  %a = f32[8,4]{1,0} parameter(0)\n"
        "  %b = f32[8,4]{1,0} negate(%a)\n"
        "  %c = f32[8,4]{1,0} negate(%b)\n"
        "  %d = f32[8]{0} reduce(%c, %b), dimensions={1}\n"
        "  ROOT %e = (f32[8,4]{1,0}, f32[8]{0}) tuple(%c, %d)\n}"
    )
    text = program(
        "  %p = f32[8,4]{1,0} parameter(0)\n"
        "  ROOT %f = (f32[8,4]{1,0}, f32[8]{0}) fusion(%p), kind=kLoop, calls=%fused",
        inside,
    )
    assert cost(text).bytes == 128 + 128 + 32


def test_a_fusion_beside_other_work_counts_once():
    inside = "%fused (a: f32[8,4]) -> f32[8,4] {\n  %a = f32[8,4]{1,0} parameter(0)\n"
    inside += "  ROOT %b = f32[8,4]{1,0} negate(%a)\n}"
    text = program(
        "  %p = f32[8,4]{1,0} parameter(0)\n"
        "  %s = ((f32[8,4]{1,0}), f32[8,4]{1,0}, u32[]) fusion-start(%p), calls=%fused\n"
        "  ROOT %d = f32[8,4]{1,0} fusion-done(%s)",
        inside,
    )
    assert cost(text).bytes == 2 * 128


def test_tiles_count_in_full_and_on_chip_memory_does_not():
    assert Array("f32", (3, 64), (1, 0), "T(8,128)").bytes == 8 * 128 * 4
    assert Array("bf16", (8, 64), (0, 1), "T(8,128)(2,1)").bytes == 64 * 128 * 2
    (array,) = hlo.arrays("f32[8,128]{1,0:T(8,128)S(1)}")
    assert array.bytes == 0


def test_library_calls_and_hidden_kernels_are_named():
    call_of = 'f32[8,4]{1,0} custom-call(%p, %p), custom_call_target="'
    text = program(
        "  %p = f32[8,4]{1,0} parameter(0)\n"
        f'  %a = {call_of}__cublas$gemm", backend_config={{"gemm_backend_config":{{"dot_dimension_'
        'numbers":{"lhs_contracting_dimensions":["1"],"rhs_contracting_dimensions":["0"]}}}\n'
        f'  ROOT %b = {call_of}__gpu$xla.gpu.triton", backend_config={{name = "outputs", ir = ""}}'
    )
    found = cost(text)
    assert found.calls == {"__cublas$gemm": 1, "__gpu$xla.gpu.triton:outputs": 1}
    assert found.opaque
    assert found.flops == 2 * 8 * 4 * 4


def test_a_convolution_counts_the_pixels_that_exist():
    forward = (
        "  %x = f32[2,6,6,3]{3,2,1,0} parameter(0)\n"
        "  %w = f32[5,3,3,3]{3,2,1,0} parameter(1)\n"
        "  ROOT %y = (f32[2,4,4,5]{3,2,1,0}, u8[0]{0}) custom-call(%x, %w), window={size=3x3}, "
        'dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convForward"'
    )
    expected = 2 * (2 * 4 * 4) * (9 * 3) * 5
    assert cost(program(forward)).flops == expected
    gradient = (
        "  %g = f32[2,4,4,5]{3,2,1,0} parameter(0)\n"
        "  %w = f32[5,3,3,3]{3,2,1,0} parameter(1)\n"
        "  ROOT %x = f32[2,6,6,3]{3,2,1,0} convolution(%g, %w), "
        "window={size=3x3 pad=2_2x2_2 rhs_reversal=1x1}, dim_labels=b01f_i01o->b01f"
    )
    assert cost(program(gradient)).flops == expected


def test_a_compiled_product_moves_its_operands_and_its_result():
    found = cost(compiled_text(lambda x, y: x @ y, (64, 128), (128, 256)))
    assert found.bytes == 4 * (64 * 128 + 128 * 256 + 64 * 256)
    assert found.flops == 2 * 64 * 128 * 256


def test_a_compiled_loop_multiplies():
    def function(x, y):
        return jax.lax.scan(lambda x, _: (jnp.tanh(x @ y), None), x, length=5)[0]

    found = cost(compiled_text(function, (64, 64), (64, 64)))
    assert found.flops == 5 * 2 * 64**3
    assert not found.endless
    assert max(moved.times for moved in found.moved) == 5


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"target": "h10"}, "'h100'"),
        ({"layers": []}, "layers"),
        ({"layers": [{"name": "lrcl"}]}, "'lrlc'"),
        ({"epoch_layers": [{"name": "lrlc", "at": 4}]}, "layer.at"),
        ({"ways": ["column"]}, "'columns'"),
        ({"ways": []}, "ways"),
        ({"precisions": ["float16"]}, "bfloat16"),
        ({"precisions": []}, "precisions"),
        ({"target": "v5e", "precisions": ["tf32"]}, "tf32"),
        ({"image_shape": [32, 32]}, "image_shape"),
        ({"epoch_images": [1]}, "epoch_images"),
        ({"seeds": [0]}, "seeds"),
        ({"batch_size": 0}, "batch_size"),
        ({"results_dir": ""}, "results_dir"),
    ],
)
def test_a_wrong_setting_is_named(changes, named):
    with pytest.raises(InputError, match=named):
        settings(**changes)


@pytest.mark.parametrize("target", DEVICES)
def test_every_layer_comes_by_default_first_and_the_convolution_in_every_precision(target):
    these = settings(target=target)
    found = cases(these)
    steps = [case for case in found if not case.epoch]
    first = these.chosen_precisions[0]
    assert [c.layer for c in steps if c.way is None and c.precision == first] == these.layers
    assert {c.precision for c in steps if c.layer == CONV} == {*these.chosen_precisions}
    assert {c.way for c in steps if c.layer == LOCAL} == {*these.ways}
    assert found[-1].epoch
    assert ("tf32" in these.chosen_precisions) == (DEVICES[target].platform == "gpu")
    every = cases(settings(target=target, complete=True))
    shape = len(these.layers), len(these.ways), len(these.chosen_precisions)
    assert sum(not case.epoch for case in every) == shape[0] * shape[1] * shape[2]
    assert len(cases(settings(target=target, quick=True))) < len(found) / 4


def test_the_bounds_are_those_of_the_device():
    h100 = DEVICES["h100"]
    assert h100.peak("bfloat16_products") == h100.peak("bfloat16") > h100.peak("tf32")
    assert h100.target.platform == "gpu"
    assert h100.target.memory < h100.memory
    v5e = DEVICES["v5e"]
    assert v5e.peak("float32") < v5e.peak("bfloat16")


@pytest.fixture
def report() -> Report:
    """A convolution, the same program by another way, a layer, a failure, an epoch."""
    moved = [Moved(2 * 10**9, 3, "fusion largest_one", "f32[8]{0}")]
    conv = Case(CONV, None, "tf32")
    ours = Case(LRLC, None, "tf32")
    numbers = {"bytes": 335 * 10**7, "flops": 495 * 10**9, "expensive": moved}
    found = [
        Result(conv, "a", calls={"__cudnn$convForward": 3}, **numbers),
        Result(dataclasses.replace(conv, way="lax_conv"), "a", **numbers),
        Result(ours, "b", **numbers | {"bytes": 670 * 10**7}, flops_known=False),
        Result(dataclasses.replace(ours, way="pallas"), problem="Error: too large"),
        Result(dataclasses.replace(conv, seeds=10, epoch=True), "c", **numbers),
    ]
    values = {n: v for n, v in composed().items() if n != "results_dir"}
    code = {"revision": "0123456789abcdef", "dirty": True}
    return Report("h100", values, code, {"jax": "1.2.3"}, found)


def row_of(text: str, *words: str) -> list[str]:
    lines = [line for line in text.splitlines() if all(word in line for word in words)]
    assert len(lines) == 1, lines
    return [cell.strip() for cell in lines[0].strip("|").split("|")]


def test_the_tables_have_bounds_and_ratios(report):
    steps, _, rest = markdown(report).partition("## One epoch")
    assert "Incomplete" in steps
    assert {"0123456789ab", "1.2.3"} <= {word.strip(".,;") for word in steps.split()}
    conv = row_of(steps, "| Convolution")
    assert conv[1:7] == ["default, lax_conv", "tf32", "3.35", "1.00", "1.00", "495"]
    assert "3 cudnn convForward" in conv
    ours = row_of(steps, "| LRLC", "default")
    assert ours[3:6] == ["6.70", "2.00", "2.00"]
    assert ours[6].startswith("~")
    assert "too large" in " ".join(row_of(steps, "| LRLC", "pallas"))
    assert "150 epochs" in rest
    assert row_of(rest, "| Convolution")[3:5] == ["3.35", "1.00"]
    assert rest.count("largest_one") == 3
    assert rest.count("<details>") == rest.count("</details>") == 1
    assert "largest_one" not in markdown(report, details=False)


def test_the_files_are_written_together(report, tmp_path):
    report.finished = report.started
    report.write(tmp_path / "compiled.json")
    values = json.loads((tmp_path / "compiled.json").read_text())
    assert values["results"][0]["case"]["layer"] == CONV
    assert values["results"][0]["expensive"][0]["times"] == 3
    assert (tmp_path / "compiled.md").read_text() == markdown(report)
    assert "Incomplete" not in markdown(report)
    assert report.failed


@dataclasses.dataclass
class Program:
    """Stands for a lowered and compiled program."""

    text: str

    def as_text(self):
        return self.text


def test_equal_programs_are_compiled_once_and_a_failure_leaves_the_others(monkeypatch, tmp_path):
    times = []

    def lower(self, case):
        del self
        if case.way == "pallas":
            raise NotImplementedError("not on this device\nand more")
        return Program("patches" if case.way == "patches" else case.label)

    def measured(case, compiler, lowered):
        del compiler
        times.append(lowered.text)
        return Result(case, bytes=10**9)

    monkeypatch.setattr(compile_for, "sharding_on", lambda _: None)
    monkeypatch.setattr(compile_for, "compiler_version", lambda _: {"compiler": "1"})
    monkeypatch.setattr(compile_for.Compiler, "lower", lower)
    monkeypatch.setattr(compile_for, "measured", measured)
    these = settings(
        target="v5e",
        layers=[CONV, LRLC],
        ways=[None, "lax_conv", "patches", "pallas"],
        precisions=["bfloat16"],
        epoch_layers=[],
    )
    found = run(these, tmp_path / "compiled.json")
    assert len(times) == 3
    assert [result.problem for result in found.results].count(None) == 6
    assert found.failed
    assert found.finished
    table = (tmp_path / "compiled.md").read_text()
    assert "default, lax_conv" in table
    assert "NotImplementedError: not on this device" in table


def installed(package: str) -> bool:
    try:
        return bool(importlib.metadata.version(package))
    except importlib.metadata.PackageNotFoundError:
        return False


@pytest.mark.skipif(installed(PACKAGES["gpu"]), reason="the compiler is installed")
def test_a_missing_compiler_is_named_with_the_command_that_installs_it(tmp_path):
    with pytest.raises(RunError, match="make compile-for"):
        run(settings(), tmp_path / "compiled.json")
    answer = here(tmp_path, "compile_for", "target=h100", status=1)
    assert len(answer.stderr.strip().splitlines()) == 1
    assert not list(tmp_path.rglob("*.json"))


@pytest.mark.parametrize("target", ["h100", "v5e"])
def test_a_step_is_compiled_for_a_device_that_is_not_there(target, tmp_path):
    if not installed(PACKAGES[DEVICES[target].platform]):
        pytest.skip("its compiler is not installed (make compile-for)")
    small = ["image_shape=[12,12,3]", "batch_size=8", "layers=[{name: conv}]", "precisions=null"]
    small += ["ways=[null]", "epoch_images=[16,8]", "epoch_seeds=2", "quick=false"]
    call(tmp_path, "compile_for", f"target={target}", "results_dir=results", *small)
    path = tmp_path / "results" / "benchmarks" / f"compiled-{target}.json"
    values = json.loads(path.read_text())
    assert values["finished"]
    assert all(result["bytes"] > 0 for result in values["results"])
    assert {result["case"]["epoch"] for result in values["results"]} == {True, False}


@pytest.mark.parametrize("module", [hlo, compiled, targets])
def test_examples_in_docstrings(module):
    results = doctest.testmod(module)
    assert not results.failed
