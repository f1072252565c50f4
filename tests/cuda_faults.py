"""Plants small faults in the CUDA sources by rule: every one behind `FAULT(number)`, so that one compilation holds all
of them.

index     a subscript becomes 0
tail      a loop, or the guard that ends a thread, stops one early
stride    a loop steps one too far
barrier   a __syncthreads is left out
walk      a walk through rows stands still
leading   rows lie right after another, whatever the leading dimension
"""

from __future__ import annotations

import ctypes
import re
from dataclasses import dataclass

from cuda_on_cpu import builder

from fastnn.kernels.cuda import sources

FUNCTION = re.compile(
    r'(extern "C" __global__ void(?: __launch_bounds__\(\d+\))?|__device__ __forceinline__ [\w <>,]*?[\w>][ '
    r"*&]*?)\s*\b(\w+)\("
)
PLANT = (
    'static int fault_planted = 0;\n#define FAULT(number) (fault_planted == number)\nextern "C" void plant(int '
    "number) { fault_planted = number; }\n"
)


@dataclass(frozen=True)
class Fault:
    """What is wrong when `number` is planted; `function` is a kernel or a helper of kernels."""

    number: int
    kind: str
    file: str
    function: str
    place: str  # what is changed; the second of the same kind ends in "(2)"

    def __str__(self):
        return f"{self.function}: {self.kind}: {self.place}"


def closing(text, start, pair="()"):
    """Position of the bracket that closes the one at `start`."""
    depth = 0
    for at in range(start, len(text)):
        depth += (text[at] == pair[0]) - (text[at] == pair[1])
        if depth == 0:
            return at
    raise SyntaxError(f"nothing closes {text[start : start + 40]!r}")


def functions(text):
    """(name, whether it is a kernel, start and stop of its body) of everything defined in a source."""
    for match in FUNCTION.finditer(text):
        begin = text.find("{", closing(text, match.end() - 1))
        yield match[2], match[1].startswith("extern"), begin, closing(text, begin, "{}") + 1


class Planter:
    """Puts faults into function bodies, and numbers them."""

    def __init__(self):
        self.faults = []

    def new(self, kind, place):
        place = " ".join(place.split())
        before = sum(
            (f.kind, f.function, f.place.partition("  (")[0]) == (kind, self.function, place) for f in self.faults
        )
        self.faults.append(
            Fault(len(self.faults) + 1, kind, self.file, self.function, f"{place}  ({before + 1})" if before else place)
        )
        return f"FAULT({len(self.faults)})"

    def source(self, file, text):
        """The text of a file with its faults."""
        self.file, parts, at = file, [], 0
        for self.function, _, begin, end in functions(text):
            parts += [text[at:begin], self.body(text[begin:end])]
            at = end
        return "".join([*parts, text[at:]])

    def body(self, text):
        declared = [match.span() for match in re.finditer(r"__shared__[^;]*;", text)]

        def index(match):
            if any(begin <= match.start() < end for begin, end in declared) or match[1].isdecimal():
                return match[0]
            return f"[{self.new('index', match[0])} ? 0 : ({match[1]})]"

        def guard(match):
            return f"if ({match[1]} >= ({match[2]}) - {self.new('tail', match[0])}) return"

        def barrier(match):
            return f"if (!{self.new('barrier', match[0])}) {match[0]}"

        def walk(match):
            return f"if (!{self.new('walk', match[0])}) {match[0]}"

        def leading(match):
            return f"* ({self.new('leading', match[0])} ? cols : {match[1]})"

        text = re.sub(r"(?<=\w)\[([^\[\]]+)\]", index, text)
        if self.file != "narrow.cu":  # where leading dimensions are those of shared memory
            text = re.sub(r"\* ((?:\w+_)?ld)\b", leading, text)
        text = re.sub(r"if \((\w+) >= (\w+)\) return", guard, text)
        text = re.sub(r"\b(block_barrier|__syncthreads)\(\);", barrier, text)
        text = re.sub(r"\badvance\(&walk\);", walk, text)
        return self.loops(text)

    def loops(self, text):
        at = 0
        while (at := text.find("for (", at)) >= 0:
            end = closing(text, at + 4)
            header = text[at + 5 : end].split(";")
            first, condition, step = (part.strip() for part in header)
            if match := re.fullmatch(r"(\w+) < (.+)", condition):
                condition = f"{match[1]} < ({match[2]}) - {self.new('tail', f'for ({condition})')}"
            if match := re.fullmatch(r"(\w+) \+= (.+)", step):
                step = f"{match[1]} += ({match[2]}) + {self.new('stride', f'for ({step})')}"
            new = f"for ({first}; {condition}; {step})"
            text = text[:at] + new + text[end + 1 :]
            at += len(new)
        return text


def headers():
    folder = builder.resources.files(sources.__package__)
    return sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".cuh"))


def plant_all():
    """({file: text with faults}, the faults)."""
    planter = Planter()
    texts = {name: planter.source(name, sources.read(name)) for name in [*sources.files(), *headers()]}
    texts["common.cuh"] = texts["common.cuh"].replace("typedef long long int64;", f"typedef long long int64;\n{PLANT}")
    assert PLANT in texts["common.cuh"]
    return texts, planter.faults


def users():
    """{function: the kernels that run it, itself included}, helpers of helpers followed."""
    bodies, kernels = {}, set()
    for name in [*sources.files(), *headers()]:
        text = sources.read(name)
        for function, is_kernel, begin, end in functions(text):
            bodies[function] = text[begin:end]
            kernels |= {function} if is_kernel else set()
    calls = {name: {other for other in bodies if re.search(rf"\b{other}\b", body)} for name, body in bodies.items()}

    def reached(name, seen=()):
        return {name}.union(*(reached(other, (*seen, name)) for other in calls[name] if other not in (*seen, name)))

    return {function: sorted(kernel for kernel in kernels if function in reached(kernel)) for function in bodies}


def compiled(patch, folder, texts, kind="float32"):
    """The library of these texts, of this kind; `patch` is a MonkeyPatch, `folder` an empty folder."""
    for name, text in texts.items():
        (folder / name).write_text(text)
    patch.setattr(sources.resources, "files", lambda package: folder)
    return builder.library.__wrapped__(kind)


def plant(library, number):
    """From now on this fault is there and no other; 0 is none."""
    library.plant(ctypes.c_int(number))
