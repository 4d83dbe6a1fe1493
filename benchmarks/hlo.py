"""What a compiled program moves through device memory, and computes, by its optimized HLO text.

Each instruction of the entry computation, and of loop bodies as often as they run, reads its
operands and writes its result once. What is fused into one instruction stays in registers. Of an
array that is sliced, or updated in place, only the touched part counts. This is an estimate: a
kernel may read an operand several times, and a cache may save a read.
"""

import collections
import dataclasses
import functools
import itertools
import math
import re
from collections.abc import Iterator, Mapping
from typing import TypeAlias

Computation: TypeAlias = dict[str, "Instruction"]

HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .*\{$")
INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (.+?) ([a-z][\w\-]*)\((.*)$")
ARRAY = re.compile(r"\b([a-z]+\d*[a-z0-9]*)\[([\d,<=]*)\](?:\{([\d,]*)(?::([^}]*))?\})?")
NAME = re.compile(r"%([\w.\-]+)")

# These move nothing: names for parts of buffers, and the ends of operations that count at their
# start.
FREE = {
    *("parameter", "tuple", "get-tuple-element", "bitcast", "constant", "iota"),
    *("after-all", "partition-id", "replica-id", "optimization-barrier"),
}
DONE = "-done"
RENAMED = ("bitcast", "reshape", "copy")  # inside a fusion, of a value that a slice then reads
PARTIAL = ("dynamic-slice", "gather")  # of the first operand they read what they return
IN_PLACE = "dynamic-update-slice"
TRITON = ("__triton", "__gpu$xla.gpu.triton", "triton_kernel_call", "mosaic_gpu")
MOSAIC_TPU = "tpu_custom_call"


@dataclasses.dataclass(frozen=True)
class Array:
    """An array in memory.

    Attributes:
        dtype: such as ``f32``.
        dims: sizes of the axes.
        minor_to_major: axes from the fastest to the slowest.
        tiling: rest of the layout, such as ``T(8,128)S(1)``.
    """

    dtype: str
    dims: tuple[int, ...]
    minor_to_major: tuple[int, ...] = ()
    tiling: str = ""

    @property
    def bytes(self) -> int:
        """Bytes in the device's main memory: none in another space, tiles at their full size."""
        space = re.search(r"S\((\d+)\)", self.tiling)
        return 0 if space and space[1] != "0" else self.size  # such as the on-chip memory of a TPU

    @property
    def size(self) -> int:
        """Bytes in any space."""
        return math.prod(self.padded()) * bits(self.dtype) // 8

    def padded(self) -> list[int]:
        """Sizes of the axes, those of the first tile rounded up to its sides."""
        dims = list(self.dims)
        tile = re.search(r"T\(([\d,]+)\)", self.tiling)
        if tile:
            sides = reversed([int(side) for side in tile[1].split(",")])
            for axis, side in zip(self.minor_to_major, sides, strict=False):
                dims[axis] = -(-dims[axis] // side) * side
        return dims


@dataclasses.dataclass(frozen=True)
class Instruction:
    """A line of the text.

    Attributes:
        name: in its computation.
        shape: of the result, as written.
        opcode: such as ``fusion``.
        arguments: between the parentheses, as written.
        attributes: after the parentheses, as written.
        root: whether it is the result of its computation.
    """

    name: str
    shape: str
    opcode: str
    arguments: str
    attributes: str
    root: bool = False

    @functools.cached_property
    def arrays(self) -> list[Array]:
        """The result; a tuple has several arrays."""
        return arrays(self.shape)

    @property
    def bytes(self) -> int:
        """Size of the result."""
        return sum(array.bytes for array in self.arrays)

    @property
    def size(self) -> int:
        """Size of the result, in any memory."""
        return sum(array.size for array in self.arrays)

    @functools.cached_property
    def operands(self) -> list[str]:
        """Names of the operands, without repetition."""
        return list(dict.fromkeys(NAME.findall(self.arguments)))

    def attribute(self, pattern: str) -> str:
        """The group of a pattern in the attributes; empty without a match."""
        found = re.search(pattern, self.attributes)
        return found[1] if found else ""

    @property
    def is_fusion(self) -> bool:
        """Whether this is a fusion, or the start of one that runs beside other work."""
        return self.opcode in ("fusion", "fusion-start")

    @property
    def target(self) -> str:
        """Library function or kernel of a custom call."""
        return self.attribute(r'custom_call_target="([^"]+)"')

    @property
    def called(self) -> str:
        """Name of the computation that a fusion, a call or a loop runs."""
        return self.attribute(r"\b(?:calls|to_apply|body)=%?([\w.\-]+)")


@dataclasses.dataclass(frozen=True)
class Module:
    """A program: its computations by name, and the name of the first one to run."""

    computations: Mapping[str, Computation]
    entry: str


@dataclasses.dataclass(frozen=True)
class Moved:
    """Memory traffic of one instruction.

    Attributes:
        bytes: moved, all times together.
        times: that the instruction runs.
        name: of the instruction, with its opcode or library function.
        shape: of its result.
    """

    bytes: int
    times: int
    name: str
    shape: str


@dataclasses.dataclass(frozen=True)
class Cost:
    """Cost of a program.

    Attributes:
        moved: traffic by instruction, the largest first.
        flops: floating-point operations of products and convolutions; two for a multiply-add.
        calls: number of calls in the text, by library function or kernel.
        opaque: whether there are kernels whose operations are not in ``flops``.
        endless: whether there is a loop of unknown length, which counts once.
    """

    moved: list[Moved]
    flops: int
    calls: dict[str, int]
    opaque: bool
    endless: bool

    @property
    def bytes(self) -> int:
        """All memory traffic."""
        return sum(moved.bytes for moved in self.moved)


def bits(dtype: str) -> int:
    """Bits of a value.

    >>> [bits(dtype) for dtype in ("f32", "bf16", "pred", "f8e4m3fn", "token")]
    [32, 16, 8, 8, 0]
    """
    if dtype == "pred":
        return 8
    digits = re.match(r"[a-z]+(\d+)", dtype)
    return int(digits[1]) if digits else 0


def numbers(text: str) -> tuple[int, ...]:
    """Whole numbers in a text.

    >>> numbers("{0,12}")
    (0, 12)
    """
    return tuple(map(int, re.findall(r"\d+", text)))


def arrays(shape: str) -> list[Array]:
    """The arrays of a shape as written, such as ``(f32[2,3]{1,0}, s32[])``."""
    return [
        Array(dtype, numbers(dims), numbers(order or ""), tiling or "")
        for dtype, dims, order, tiling in ARRAY.findall(shape)
    ]


def parse(text: str) -> Module:
    """The computations of an optimized HLO text.

    Raises:
        ValueError: if the text has no entry computation.
    """
    computations: dict[str, Computation] = {}
    entry, current = "", None
    for line in text.splitlines():
        if header := HEADER.match(line):
            current = computations.setdefault(header[2], {})
            entry = header[2] if header[1] else entry
        elif current is not None and (found := INSTRUCTION.match(line)):
            root, name, shape, opcode, rest = found.groups()
            end = closing(rest)
            inside, attributes = rest[:end], rest[end + 1 :]
            current[name] = Instruction(name, shape, opcode, inside, attributes, root is not None)
    if not entry:
        raise ValueError("The text has no entry computation.")
    return Module(computations, entry)


def closing(text: str) -> int:
    """Place of the parenthesis that closes one opened before the text.

    >>> closing("a(b)), c")
    4
    """
    depth = 1
    for place, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if not depth:
            return place
    return len(text)


def cost(text: str) -> Cost:
    """Memory traffic, operations and library calls of an optimized HLO text."""
    module = parse(text)
    everything = list(executed(module, module.computations[module.entry], 1))
    moved = [
        Moved(times * size, times, described(instruction), instruction.shape)
        for instruction, computation, times in everything
        if (size := traffic(module, computation, instruction))
    ]
    found = list(itertools.chain(*(c.values() for c in module.computations.values())))
    calls = collections.Counter(
        kernel for instruction in found if (kernel := kernel_of(instruction))
    )
    return Cost(
        moved=sorted(moved, key=lambda entry: -entry.bytes),
        flops=sum(t * flops(module, inside, instruction) for instruction, inside, t in everything),
        calls=dict(calls.most_common()),
        opaque=any(map(is_opaque, found)),
        endless=any(i.opcode == "while" and not trip_count(module, i) for i in found),
    )


def described(instruction: Instruction) -> str:
    """Name of an instruction, with its opcode or library function."""
    return f"{kernel_of(instruction) or instruction.opcode} {instruction.name}"


def kernel_of(instruction: Instruction) -> str:
    """Library function of a custom call, or ``triton`` and the kind of a Triton fusion."""
    if instruction.is_fusion:
        return instruction.attribute(r'"kind":"(__triton[\w$]*|__cudnn[\w$]*|__custom_fusion)"')
    name = instruction.attribute(r'\bname\s*=\s*"([\w.]+)"') if is_opaque(instruction) else ""
    return f"{instruction.target}:{name}" if name else instruction.target


def is_opaque(instruction: Instruction) -> bool:
    """Whether this is a kernel of Pallas, whose operations the text does not show."""
    return instruction.target == MOSAIC_TPU or instruction.target.startswith(TRITON)


def trip_count(module: Module, loop: Instruction) -> int:
    """How often a loop runs; 0 if unknown.

    The text for a TPU has the bound in the condition only. JAX's loops count from 0 by ones.
    """
    if known := loop.attribute(r'"known_trip_count":\{"n":"(\d+)"'):
        return int(known)
    condition = module.computations.get(loop.attribute(r"\bcondition=%?([\w.\-]+)"), {})
    for compared in condition.values():
        if compared.root and compared.opcode == "compare" and "direction=LT" in compared.attributes:
            bound = condition[compared.operands[-1]]
            return int(bound.arguments) if bound.opcode == "constant" else 0
    return 0


def executed(
    module: Module, computation: Computation, times: int
) -> Iterator[tuple[Instruction, Computation, int]]:
    """The instructions that run, with their computation and how often.

    The condition of a loop counts as free; of the branches of a conditional the costliest runs.
    """
    for instruction in computation.values():
        opcode, called = instruction.opcode, module.computations.get(instruction.called)
        if opcode == "while" and called is not None:
            yield from executed(module, called, times * max(1, trip_count(module, instruction)))
        elif opcode in ("call", "async-start") and called is not None:
            yield from executed(module, called, times)
        elif opcode == "conditional":
            names = instruction.attribute(r"(?:branch_computations=\{|true_computation=)([^}]*)")
            branches = [
                list(executed(module, module.computations[name], times))
                for name in NAME.findall(names)
                if name in module.computations
            ]
            yield from max(branches, key=lambda steps: total_traffic(module, steps), default=[])
        else:
            yield instruction, computation, times


def total_traffic(module: Module, steps: list[tuple[Instruction, Computation, int]]) -> int:
    """Bytes that these instructions move."""
    return sum(times * traffic(module, inside, step) for step, inside, times in steps)


def traffic(module: Module, computation: Computation, instruction: Instruction) -> int:
    """Bytes that an instruction moves when it runs once."""
    opcode = instruction.opcode
    if opcode in FREE or opcode.endswith(DONE):
        return 0
    if instruction.is_fusion:
        return fusion_traffic(module, computation, instruction)
    sizes = [computation[name].bytes for name in instruction.operands if name in computation]
    if opcode in PARTIAL:
        return 2 * instruction.bytes + sum(sizes[1:])
    if opcode == IN_PLACE:
        return 2 * sizes[1]
    if opcode.endswith("-start"):
        return started_traffic(instruction, sum(sizes))
    return sum(sizes) + instruction.bytes


def started_traffic(start: Instruction, operands: int) -> int:
    """Bytes that an asynchronous instruction moves; its result also has the source and a flag."""
    if start.opcode == "slice-start":
        part = start.arrays[1]
        return part.size + part.bytes
    return operands + start.arrays[0].bytes


def fusion_traffic(module: Module, outside: Computation, fusion: Instruction) -> int:
    """Bytes that a fusion reads and writes, of slices and of updates in place the touched part."""
    inside = module.computations[fusion.called]
    parameters = parameters_of(inside)
    read: dict[str, int] = {}
    for number, name in enumerate(NAME.findall(fusion.arguments)):
        if name in outside and number in parameters:
            size = outside[name].bytes
            part = part_read(module, parameters[number], inside)
            read[name] = max(read.get(name, 0), size if part is None else min(part, size))
    root = next(instruction for instruction in inside.values() if instruction.root)
    is_tuple = root.opcode == "tuple"
    elements = [inside[name] for name in NAME.findall(root.arguments)] if is_tuple else [root]
    results = fusion.arrays if fusion.opcode == "fusion" else root.arrays  # a start has more
    if len(elements) != len(results):  # a kernel with several results
        return sum(read.values()) + sum(result.bytes for result in results)
    written = zip(elements, results, strict=True)
    return sum(read.values()) + sum(
        min(result.bytes, updated(element, inside) or result.bytes) for element, result in written
    )


def users_of(computation: Computation) -> dict[str, list[Instruction]]:
    """The instructions that use each value."""
    users: dict[str, list[Instruction]] = {}
    for instruction in computation.values():
        for name in instruction.operands:
            users.setdefault(name, []).append(instruction)
    return users


def parameters_of(computation: Computation) -> dict[int, str]:
    """Names of the parameters by number."""
    found = (each for each in computation.values() if each.opcode == "parameter")
    return {int(each.arguments): each.name for each in found}


def part_read(module: Module, name: str, inside: Computation) -> int | None:
    """Bytes that a fusion reads of a value which it only slices or updates; None if all of it."""
    total = 0
    for user in users_of(inside).get(name, []):
        first = user.operands[0] == name
        if user.opcode in RENAMED:
            part = part_read(module, user.name, inside)
        elif user.opcode == "fusion":  # nested
            nested = module.computations[user.called]
            number = NAME.findall(user.arguments).index(name)
            part = part_read(module, parameters_of(nested)[number], nested)
        elif first and user.opcode in PARTIAL:
            part = user.size
        else:
            part = 0 if first and user.opcode == IN_PLACE else None
        if part is None:
            return None
        total += part
    return total


def updated(result: Instruction, inside: Computation) -> int:
    """Bytes of the part that a result of a fusion updates in place; 0 if it is a new array."""
    while result.opcode in RENAMED and result.operands[0] in inside:
        result = inside[result.operands[0]]
    return inside[result.operands[1]].bytes if result.opcode == IN_PLACE else 0


def flops(module: Module, computation: Computation, instruction: Instruction) -> int:
    """Floating-point operations of an instruction: those of its products and convolutions."""
    opcode, target = instruction.opcode, instruction.target
    if instruction.is_fusion:
        inside = module.computations[instruction.called]
        return sum(flops(module, inside, step) for step in inside.values())
    names = NAME.findall(instruction.arguments)[:2]
    operands = [computation[name].arrays[0] for name in names if name in computation]
    if opcode == "dot" or target.startswith("__cublas"):
        axes = instruction.attribute(r'lhs_contracting_dim\w*"?[=:]([\[{][^\]}]*)')
        contracted = math.prod(operands[0].dims[axis] for axis in numbers(axes))
        return 2 * math.prod(instruction.arrays[0].dims) * contracted
    if opcode == "convolution":
        return convolution_flops(instruction, *operands)
    if target.startswith("__cudnn$conv"):
        return library_convolution_flops(instruction, *operands)
    return 0


def convolution_flops(instruction: Instruction, image: Array, kernel: Array) -> int:
    """Operations of a convolution; products with zeros of padding and dilation do not count."""
    image_axes, kernel_axes, result_axes = axis_labels(instruction)
    result, window = instruction.arrays[0], windows(instruction)
    multiply_adds = kernel.dims[kernel_axes.index("i")]
    for axis, size in zip(result_axes, result.dims, strict=True):
        if axis.isdigit():
            pixels = image.dims[image_axes.index(axis)]
            multiply_adds *= window[int(axis)].pairs(pixels, size)
        else:
            multiply_adds *= size
    return 2 * multiply_adds


def library_convolution_flops(instruction: Instruction, first: Array, second: Array) -> int:
    """Operations of a convolution of cuDNN, or of one of its gradients.

    The axes are those of the convolution, so that its output and kernel are the result or an
    operand.
    """
    result = instruction.arrays[0]
    output, kernel = {
        "__cudnn$convBackwardInput": (first, second),
        "__cudnn$convBackwardFilter": (second, result),
    }.get(instruction.target, (result, second))
    features = kernel.dims[axis_labels(instruction)[1].index("o")]
    return 2 * math.prod(output.dims) * math.prod(kernel.dims) // features


def axis_labels(instruction: Instruction) -> list[str]:
    """Names of the axes of image, kernel and result, such as ``b01f``, ``01io`` and ``b01f``."""
    return re.split("_|->", instruction.attribute(r"dim_labels=(\w+->\w+)"))


@dataclasses.dataclass(frozen=True)
class AxisWindow:
    """Window of a convolution along one axis; a negative padding crops."""

    size: int
    stride: int = 1
    before: int = 0
    lhs_dilate: int = 1
    rhs_dilate: int = 1

    def pairs(self, pixels: int, places: int) -> int:
        """Number of pairs of a place and a tap whose pixel exists.

        >>> AxisWindow(size=3, before=1).pairs(pixels=4, places=4)
        10
        """
        last = (pixels - 1) * self.lhs_dilate
        found = (
            place * self.stride + tap * self.rhs_dilate - self.before
            for place in range(places)
            for tap in range(self.size)
        )
        return sum(0 <= pixel <= last and pixel % self.lhs_dilate == 0 for pixel in found)


def windows(instruction: Instruction) -> list[AxisWindow]:
    """The window of a convolution along each spatial axis."""
    text = instruction.attribute(r"\bwindow=\{([^}]*)\}")
    fields = {key: value.split("x") for key, value in (item.split("=") for item in text.split())}
    fields["before"] = [padding.split("_")[0] for padding in fields.get("pad", [])]
    return [
        AxisWindow(
            **{
                field.name: int(fields[field.name][axis])
                for field in dataclasses.fields(AxisWindow)
                if fields.get(field.name)
            }
        )
        for axis in range(len(fields.get("size", [])))
    ]
