"""Every CUDA kernel compiles for real GPUs: NVRTC through ctypes, no GPU, no driver, no CuPy."""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import re
import sys
from pathlib import Path

import pytest

from fastnn.kernels.cuda import sources

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the NVRTC wheels are tested on Linux")

# What CuPy adds by itself (cupy/cuda/compiler.py), so that the code compiled here is the code compiled there.
CUPY_FLAGS = ("-ftz=true", "--device-as-default-execution-space")
# For one architecture as CuPy compiles; for the others without the optimisations that take most of the time: whether a
# kernel compiles, and without a warning, does not hang on them.
ARCHITECTURES = {
    "75": ("--Ofast-compile=max",),
    "80": ("--Ofast-compile=max",),
    "90": (),
    "100": ("--Ofast-compile=max",),
}
WHEELS = ("nvidia/cu13/lib/libnvrtc.so.13", "nvidia/cuda_nvrtc/lib/libnvrtc.so.12")


@functools.cache
def nvrtc():
    """The library from the pip wheel. A missing one is a failure: without it nobody would notice broken kernels."""
    spec = importlib.util.find_spec("nvidia")
    roots = [Path(place).parent for place in (spec.submodule_search_locations if spec else ())]
    found = [path for root in roots for name in WHEELS if (path := root / name).exists()]
    if not found:
        pytest.fail(
            "NVRTC is missing, so the CUDA kernels cannot be checked: pip install nvidia-cuda-nvrtc "
            "nvidia-cuda-runtime",
            pytrace=False,
        )
    for builtins in found[0].parent.glob("libnvrtc-builtins.so*"):
        # NVRTC opens it by name; loaded first, it is found anywhere
        if ".alt." not in builtins.name:
            ctypes.CDLL(str(builtins), ctypes.RTLD_GLOBAL)
    library = ctypes.CDLL(str(found[0]))
    library.nvrtcGetErrorString.restype = ctypes.c_char_p
    return library


def compile_kernels(source, name, options):
    """The machine code, the PTX it was made from, and NVRTC's log; SyntaxError with the log if it refuses."""
    library, program, size = nvrtc(), ctypes.c_void_p(), ctypes.c_size_t()
    assert library.nvrtcCreateProgram(ctypes.byref(program), source.encode(), name.encode(), 0, None, None) == 0
    try:
        flags = [*CUPY_FLAGS, *options]
        status = library.nvrtcCompileProgram(
            program, len(flags), (ctypes.c_char_p * len(flags))(*(flag.encode() for flag in flags))
        )
        library.nvrtcGetProgramLogSize(program, ctypes.byref(size))
        log = ctypes.create_string_buffer(size.value)
        library.nvrtcGetProgramLog(program, log)
        if status:
            raise SyntaxError(
                f"{name} {' '.join(flags)}: {library.nvrtcGetErrorString(status).decode()}\n{log.value.decode()}"
            )
        codes = []
        for kind in ("CUBIN", "PTX"):
            assert getattr(library, f"nvrtcGet{kind}Size")(program, ctypes.byref(size)) == 0
            codes.append(ctypes.create_string_buffer(size.value))
            assert getattr(library, f"nvrtcGet{kind}")(program, codes[-1]) == 0
        return codes[0].raw, codes[1].value.decode(), log.value.decode()
    finally:
        library.nvrtcDestroyProgram(ctypes.byref(program))


def kinds(file):
    """The kinds in which a file's kernels are used: in bfloat16 those of a training step alone."""
    return [kind for kind in sources.KINDS if kind != "bfloat16" or "STORE" in sources.read(file)]


@functools.cache
def compiled(source, name, kind, architecture):
    """compile_kernels for this kind and architecture, once for all tests."""
    return compile_kernels(
        source, name, (*sources.options(kind), f"-arch=sm_{architecture}", *ARCHITECTURES[architecture])
    )


FILES_AND_KINDS = [(file, kind) for file in sources.files() for kind in kinds(file)]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(("file", "kind"), FILES_AND_KINDS)
def test_kernels_compile_without_a_warning(file, kind, architecture):
    cubin, _, log = compiled(sources.text(file), file, kind, architecture)
    assert cubin[:4] == b"\x7fELF"
    assert log.strip() == ""
    for kernel in sources.kernels().values():
        assert (kernel.file != file) or kernel.name.encode() in cubin


def test_the_architectures_are_one_for_each_way_that_the_sources_go():
    texts = [path.read_text() for path in Path(sources.__file__).parent.glob("*.cu*")]
    asked = {condition for text in texts for condition in re.findall("__CUDA_ARCH__.*", text)}
    assert asked == {"__CUDA_ARCH__ >= 900"}, "ARCHITECTURES must have one for each"


def ptx(source, name, dtype="float32"):
    return compiled(source, name, dtype, "90")[1]


def functions_in(code):
    """{name: body} of the kernels in a PTX text."""
    parts = re.split(r"\.entry (\w+)", code)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


# Sums over rows and elements are double on purpose; everything else in float32 is float32 throughout.
DOUBLE_ON_PURPOSE = {
    name for name, kernel in sources.kernels().items() if any(p.type == "double" for p in kernel.parameters)
}


@pytest.mark.parametrize(("file", "kind"), [(file, kind) for file, kind in FILES_AND_KINDS if kind != "float64"])
def test_no_literal_promotes_float_to_double(file, kind):
    for name, body in functions_in(ptx(sources.text(file), file, kind)).items():
        if name not in DOUBLE_ON_PURPOSE:
            assert ".f64" not in body, f"{name} computes in double"


def test_the_double_check_sees_a_promotion():
    source = sources.text("bias_activation.cu").replace("z[i * cols + j] += bias", "z[i * cols + j] += 0.1 * bias")
    assert "0.1" in source
    assert ".f64" in functions_in(ptx(source, "planted.cu"))["add_bias"]


@pytest.mark.parametrize(("file", "kind"), FILES_AND_KINDS)
def test_no_atomics(file, kind):
    assert not re.search(r"\b(atom|red)\.(global|shared|add)", ptx(sources.text(file), file, kind))


@pytest.mark.parametrize("kind", sources.KINDS)
@pytest.mark.parametrize(
    ("file", "kernel"),
    [
        ("gather.cu", "gather_rows"),
        ("bias_activation.cu", "bias_activate"),
        ("column_sums.cu", "derivative_sums"),
        ("update.cu", "update_adam"),
    ],
)
def test_memory_is_moved_16_bytes_at_a_time(file, kernel, kind):
    body = functions_in(ptx(sources.text(file), file, kind))[kernel]
    assert re.search(r"ld\.global(\.nc)?\.v(4\.(f32|u32|b32|u16|b16)|2\.(f64|u64|b64))|ld\.global(\.nc)?\.v4", body), (
        "no wide load"
    )
    assert re.search(r"st\.global\.v", body), "no wide store"


def test_a_broken_kernel_is_reported_with_file_and_line():
    with pytest.raises(SyntaxError, match=r"cost\.cu\(\d+\): error: identifier \"lgo\" is undefined"):
        compile_kernels(
            sources.text("cost.cu").replace("log(sum)", "lgo(sum)"),
            "cost.cu",
            (*sources.options("float32"), "-arch=sm_90"),
        )


def test_line_numbers_are_those_of_the_file():
    line = next(i for i, text in enumerate(sources.read("cost.cu").splitlines(), 1) if "log(sum)" in text)
    with pytest.raises(SyntaxError, match=rf"cost\.cu\({line}\): error"):
        compile_kernels(
            sources.text("cost.cu").replace("log(sum)", "lgo(sum)"),
            "cost.cu",
            (*sources.options("float32"), "-arch=sm_90"),
        )


def test_the_text_of_a_file_is_self_contained():
    for file in sources.files():
        text = sources.text(file)
        assert "#include" not in text
        assert text.count("typedef long long int64;") == 1
