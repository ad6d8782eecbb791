"""Builds the emulator: a stand-in for libcuda with the repository's kernels in it, for tests alone."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
CUDA = HERE.parents[1] / "cuda"
COMMON = ["-std=c++17", "-march=native", "-ffp-contract=off", "-fno-strict-aliasing", "-fPIC", "-fvisibility=hidden",
          "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas", f"-I{HERE}", f"-I{CUDA}"]  # fmt: skip
KERNEL = ["-O1", "-fsanitize=thread", "-x", "c++", "-include", str(HERE / "emulator.h")]
MACHINE = ["-O2"]


def kernel_sources() -> list[Path]:
    """The translation units of the kernels."""
    return sorted(CUDA.glob("*/*.cu"))


def build() -> Path:
    """The library's path, built by g++ or found in the cache; a file for each content of the sources.

    Raises FileNotFoundError without g++, RuntimeError with the compiler's words where a source does not compile.
    """
    compiler = shutil.which("g++")
    if compiler is None:
        raise FileNotFoundError("g++")
    digest = hashlib.sha256()
    for path in sorted([*CUDA.rglob("*"), *HERE.iterdir()]):
        if path.is_file():
            digest.update(path.read_bytes())
    folder = Path(tempfile.gettempdir()) / f"meteora-cuda-emulator-{digest.hexdigest()[:16]}"
    library = folder / "libcuda_emulator.so"
    if library.exists():
        return library
    folder.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        objects = []
        for source in [*kernel_sources(), *sorted(HERE.glob("*.cu")), *sorted(HERE.glob("*.cpp"))]:
            objects.append(Path(scratch) / f"{source.stem}.o")
            flags = KERNEL if source.suffix == ".cu" else MACHINE
            _run([compiler, *COMMON, *flags, "-c", str(source), "-o", str(objects[-1])])
        built = Path(scratch) / library.name
        _run([compiler, "-shared", *map(str, objects), "-o", str(built), "-ldl"])
        built.replace(library)
    return library


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")


if __name__ == "__main__":
    print(build())
