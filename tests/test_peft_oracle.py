"""PEFT itself is the oracle for adapters that are used by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import meteora_rs
import pytest
import torch
from meteora_rs import Meteora
from meteora_rs.samples.cache import cache_folder
from tiny import ALL, MODELS, logits, prompt, tiny_model
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

peft = pytest.importorskip("peft")

CONFIGS: dict[str, dict[str, Any]] = {
    "plain": {"r": 8, "lora_alpha": 16, "target_modules": list(ALL)},
    "rank pattern": {"r": 4, "rank_pattern": {"q_proj": 9, "1.mlp.up_proj": 2, "^model.layers.0.mlp.up_proj": 64}},
    "alpha pattern": {"r": 4, "alpha_pattern": {"o_proj": 1, r"layers\.0\..*down_proj": 30, "v_proj": 0.5}},
    "both patterns": {"r": 3, "rank_pattern": {r".*\.0\..*": 5, "proj": 7}, "alpha_pattern": {"q_proj": 100}},
    "rsLoRA": {"r": 9, "lora_alpha": 10, "use_rslora": True, "rank_pattern": {"k_proj": 2}},
    "mixed targets": {"r": 5, "target_modules": ["q_proj", "layers.1.mlp.down_proj", "v_proj"]},
    "a regex": {"r": 2, "target_modules": r".*layers\.[01]\.(self_attn\.[qk]_proj|mlp\.up_proj)"},
    "all-linear": {"r": 4, "target_modules": "all-linear"},
    "one layer": {"r": 4, "layers_to_transform": 1, "target_modules": ["q_proj", "up_proj"]},
    "layers and pattern": {"r": 4, "layers_to_transform": [0], "layers_pattern": "layers"},
    "excluded": {"r": 4, "exclude_modules": ["k_proj", "layers.0.mlp.up_proj"]},
    "rank 1": {"r": 1, "lora_alpha": 1},
}  # fmt: skip


def trained(model: nn.Module, config: dict[str, Any], std: float = 0.2) -> Any:
    """`model` wrapped by PEFT, its adapter as if trained: no half of it is zero."""
    torch.manual_seed(0)
    full = {"target_modules": list(ALL), "lora_alpha": 12, "init_lora_weights": False, **config}
    wrapped = peft.get_peft_model(model, peft.LoraConfig(**full)).eval()
    for name, parameter in wrapped.named_parameters():
        if "lora_" in name:
            nn.init.normal_(parameter, std=std)
    return wrapped


def relative(actual: Tensor, expected: Tensor) -> float:
    return float((actual.double() - expected.double()).norm() / expected.double().norm())


@pytest.mark.filterwarnings("ignore:The following (rank|alpha)_pattern keys:RuntimeWarning")
@pytest.mark.parametrize("what", CONFIGS)
@pytest.mark.parametrize("memory", [False, True], ids=["folder", "memory"])
def test_named_adapters_are_as_peft_computes_them(what: str, memory: bool, tmp_path: Path) -> None:
    wrapped = trained(tiny_model(), CONFIGS[what])
    expected = logits(wrapped, prompt())
    wrapped.save_pretrained(tmp_path)
    source: Any = tmp_path
    if memory:
        source = {
            "config": wrapped.peft_config["default"],
            "tensors": peft.get_peft_model_state_dict(wrapped),
        }
    meteora = meteora_rs.attach(tiny_model())
    meteora.load_adapter(source, "it")
    with meteora.routing("it"):
        actual = logits(meteora.model, prompt())
    assert relative(actual, expected) < 2e-5
    assert relative(logits(tiny_model(), prompt()), expected) > 0.05


@pytest.mark.parametrize("kind", MODELS)
def test_models_of_the_family(kind: str, tmp_path: Path) -> None:
    wrapped = trained(tiny_model(kind), {"r": 6})
    wrapped.save_pretrained(tmp_path)
    meteora = meteora_rs.attach(tiny_model(kind))
    meteora.load_adapter(tmp_path, "it")
    with meteora.routing("it"):
        assert relative(logits(meteora.model, prompt()), logits(wrapped, prompt())) < 2e-5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_adapters_in_a_float32_model(dtype: torch.dtype, tmp_path: Path) -> None:
    wrapped = trained(tiny_model(), {"r": 8})
    for name, parameter in wrapped.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.to(dtype).float()
    state = {key: value.to(dtype) for key, value in peft.get_peft_model_state_dict(wrapped).items()}
    meteora = meteora_rs.attach(tiny_model())
    record = meteora.load_adapter({"config": wrapped.peft_config["default"], "tensors": state}, "it")
    assert record.dtype in str(dtype)
    assert record.bytes == sum(value.numel() * 2 for value in state.values())
    with meteora.routing("it"):
        assert relative(logits(meteora.model, prompt()), logits(wrapped, prompt())) < 2e-5


def test_a_bfloat16_model_is_as_near_to_float32_as_peft(tmp_path: Path) -> None:
    exact = trained(tiny_model(), {"r": 8})
    exact.save_pretrained(tmp_path)
    expected = logits(exact, prompt())
    wrapped = peft.PeftModel.from_pretrained(tiny_model().bfloat16(), tmp_path, autocast_adapter_dtype=False)
    meteora = meteora_rs.attach(tiny_model().bfloat16())
    meteora.load_adapter(tmp_path, "it")
    with meteora.routing("it"):
        ours = relative(logits(meteora.model, prompt()), expected)
    assert ours < 1.5 * relative(logits(wrapped.eval(), prompt()), expected)


def test_a_mix_is_the_sum_of_peft_deltas(tmp_path: Path) -> None:
    wrapped = trained(tiny_model(), {"r": 4})
    wrapped.add_adapter("other", peft.LoraConfig(r=7, target_modules=list(ALL), init_lora_weights=False))
    weights = {"default": 0.25, "other": 1.5}
    wrapped.add_weighted_adapter(list(weights), list(weights.values()), "both", combination_type="cat")
    wrapped.set_adapter("both")
    meteora = meteora_rs.attach(tiny_model())
    for name in weights:
        state = peft.get_peft_model_state_dict(wrapped, adapter_name=name)
        meteora.load_adapter({"config": wrapped.peft_config[name], "tensors": state}, name)
    with meteora.routing(meteora_rs.Mix(weights)):
        assert relative(logits(meteora.model, prompt()), logits(wrapped, prompt())) < 2e-5


def test_an_untrained_adapter_is_the_base_and_routable(meteora: Meteora, tmp_path: Path) -> None:
    wrapped = peft.get_peft_model(tiny_model(), peft.LoraConfig(r=4, target_modules=list(ALL)))
    wrapped.save_pretrained(tmp_path)
    meteora.load_adapter(tmp_path, "fresh")
    assert all(site.gate.isfinite().all() for site in meteora.sites)
    for route in ("fresh", meteora_rs.Auto()):
        with meteora.routing(route):
            assert torch.equal(logits(meteora.model, prompt()), logits(tiny_model(), prompt()))


def test_on_a_real_model(tmp_path: Path) -> None:
    folder = cache_folder() / "SmolLM2-135M-Instruct"
    if not folder.is_dir():
        pytest.skip("SmolLM2-135M-Instruct is not in the cache; make demo fetches it")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    config = {
        "r": 8, "use_rslora": True, "rank_pattern": {"q_proj": 16, r"layers\.3\.mlp\.up_proj": 2},
        "alpha_pattern": {"down_proj": 4}, "target_modules": ["q_proj", "v_proj", "up_proj", "down_proj"],
    }  # fmt: skip
    ids = prompt(2, 12) * 100
    wrapped = trained(model, config, std=0.02)
    wrapped.save_pretrained(tmp_path)
    expected = logits(wrapped, ids)
    meteora = meteora_rs.attach(wrapped.unload())
    plain = logits(meteora.model, ids)
    meteora.load_adapter(tmp_path, "it")
    with meteora.routing("it"):
        assert relative(logits(meteora.model, ids), expected) < 2e-5
    assert relative(plain, expected) > 0.02
