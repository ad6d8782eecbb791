"""The kernels' sources as CUDA's own compiler takes them, and the contract that the launcher is written to."""

from __future__ import annotations

import ctypes
import os
import re
import sys
from ctypes import byref, c_char_p, c_size_t, c_void_p
from pathlib import Path

import pytest

CUDA = Path(__file__).parents[1] / "cuda"
SOURCES = sorted(CUDA.glob("*/*.cu"))


def nvrtc() -> ctypes.CDLL | None:
    """The library that METEORA_NVRTC names, else the newest of any installed package; None without one."""
    named = os.environ.get("METEORA_NVRTC")
    found = [Path(named)] if named else []
    for place in sys.path:
        found += sorted(Path(place).glob("nvidia/*/lib/libnvrtc.so.*"), reverse=True)
    if not found:
        return None
    # It looks for this one by name alone.
    for builtins in found[0].parent.glob("libnvrtc-builtins.so.*"):
        ctypes.CDLL(str(builtins), ctypes.RTLD_GLOBAL)
    return ctypes.CDLL(str(found[0]))


def entry_points() -> set[str]:
    """The functions that cuda/abi.h lists."""
    return set(re.findall(r"^// +((?:decode|prefill)_\w+) +block", (CUDA / "abi.h").read_text(), re.MULTILINE))


def compiled(lib: ctypes.CDLL, source: Path, architecture: str) -> tuple[bytes, str]:
    """The cubin and the compiler's log."""
    program = c_void_p()
    assert lib.nvrtcCreateProgram(byref(program), source.read_bytes(), str(source).encode(), 0, None, None) == 0
    options = [b"-std=c++17", b"-default-device", f"-I{CUDA}".encode(), f"--gpu-architecture={architecture}".encode()]
    status = lib.nvrtcCompileProgram(program, len(options), (c_char_p * len(options))(*options))

    def text(what: str) -> bytes:
        size = c_size_t()
        assert getattr(lib, f"nvrtcGet{what}Size")(program, byref(size)) == 0
        buffer = ctypes.create_string_buffer(max(size.value, 1))
        assert getattr(lib, f"nvrtcGet{what}")(program, buffer) == 0
        return buffer.raw

    log = text("ProgramLog").rstrip(b"\0").decode()
    assert status == 0, log
    return text("CUBIN"), log


@pytest.mark.parametrize("architecture", ["sm_80", "sm_90"])
@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_every_source_compiles_without_a_word(source: Path, architecture: str) -> None:
    lib = nvrtc()
    if lib is None:
        pytest.skip("no NVRTC: neither METEORA_NVRTC nor a package has it")
    cubin, log = compiled(lib, source, architecture)
    assert log.strip() == ""
    here = set(re.findall(r"^KERNEL\((\w+)", source.read_text(), re.MULTILINE))
    assert here
    assert all(name.encode() + b"\0" in cubin for name in here)


def test_the_contract_lists_every_kernel() -> None:
    defined = [re.findall(r"^KERNEL\((\w+)", source.read_text(), re.MULTILINE) for source in SOURCES]
    assert entry_points() == set().union(*defined)


def test_all_assembly_stands_in_one_header() -> None:
    with_assembly = {path.name for path in CUDA.rglob("*.cu*") if re.search(r"\basm\b", path.read_text())}
    assert with_assembly == {"ptx.cuh"}


def test_every_kernel_source_says_what_it_computes() -> None:
    assert all(path.read_text().startswith("// ") for path in [*CUDA.rglob("*.cu"), *CUDA.rglob("*.cuh")])
