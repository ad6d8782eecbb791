"""The authors' checkpoints: written here in their layout, imported, and held against the same adapters and gates."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import meteora_rs
import pytest
import torch
from meteora_rs import Auto, MeteoraConfig, import_official
from meteora_rs.bundles.manifest import read_manifest
from meteora_rs.cli import main
from meteora_rs.errors import AdapterFormatError, AdapterUnsupportedError, MeteoraError
from safetensors.torch import save_file
from tiny import PREFIX, adapter, equal, linears, logits, prompt, tiny_model, write
from torch import Tensor, nn

NAMES = ("alpaca", "winowhy", "gsm8k", "cs_algorithms")
RANKS = dict(zip(NAMES, (8, 8, 8, 8), strict=True))
UNEQUAL = dict(zip(NAMES, (8, 4, 16, 3), strict=True))


def make_adapters(model: nn.Module, ranks: Mapping[str, int], **more: Any) -> dict[str, Any]:
    return {name: adapter(model, rank, seed=seed, **more) for seed, (name, rank) in enumerate(ranks.items())}


def checkpoint(
    model: nn.Module, adapters: Mapping[str, Any], order: Sequence[str], dtype: torch.dtype = torch.float32
) -> dict[str, Tensor]:
    """The whole model in the authors' layout; gates are drawn at random."""
    drawn = torch.Generator().manual_seed(5)
    tensors = {f"{PREFIX}{name}": tensor.clone() for name, tensor in model.state_dict().items()}
    for path, linear in linears(model).items():
        prefix = f"{PREFIX}{path}"
        holders = [name for name in order if f"{prefix}.lora_A.weight" in adapters[name]["tensors"]]
        if not holders:
            continue
        tensors[f"{prefix}.base_layer.weight"] = tensors.pop(f"{prefix}.weight")
        tensors[f"{prefix}.moe_gate.weight"] = torch.randn(len(order), linear.in_features, generator=drawn)
        for half, axis in (("A", 0), ("B", 1)):
            parts = [adapters[name]["tensors"][f"{prefix}.lora_{half}.weight"].to(dtype) for name in holders]
            tensors[f"{prefix}.lora_{half}.weight"] = torch.cat(parts, axis)
    return tensors


class Case:
    """A checkpoint and PEFT folders on disk."""

    def __init__(self, root: Path, model: nn.Module, adapters: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        self.root, self.model, self.adapters, self.tensors = root, model, adapters, tensors
        self.file = root / "top_k" / "model.safetensors"
        self.file.parent.mkdir(parents=True)
        self.folders = {name: write(each, root / "peft" / name) for name, each in adapters.items()}
        self.save()

    def save(self) -> None:
        save_file(self.tensors, self.file)

    def run(self, **more: Any) -> list[str]:
        return import_official(self.file.parent, self.folders, self.root / "bundle", **more)

    def check(self, order: list[str]) -> None:
        """The bundle's outputs are those of the same adapters and gates, loaded by hand."""
        by_hand = meteora_rs.attach(tiny_model(), MeteoraConfig(top_k=2))
        sites = {site.path: site for site in by_hand.sites}
        for place, name in enumerate(order):
            rows = {}
            for path, site in sites.items():
                gate = self.tensors.get(f"{PREFIX}{path}.moe_gate.weight")
                rows[path] = torch.zeros(site.in_features) if gate is None else gate[place].float()
            by_hand.load_adapter(self.adapters[name], name, gate=rows)
        loaded = meteora_rs.attach_pretrained(self.model, self.root / "bundle")
        assert [(record.name, record.gate) for record in loaded.adapters()] == [(name, "tensors") for name in order]
        ids = prompt(2, 9)
        for route in (Auto(), order[0], order[-1]):
            with by_hand.routing(route):
                expected = logits(by_hand.model, ids)
            with loaded.routing(route):
                assert equal(logits(loaded.model, ids), expected)
        loaded.detach()


@pytest.mark.parametrize("ranks", [RANKS, UNEQUAL], ids=["equal", "unequal"])
@pytest.mark.parametrize("shuffle", [0, 1, 2])
def test_the_order_is_found(tmp_path: Path, ranks: dict[str, int], shuffle: int) -> None:
    model = tiny_model()
    adapters = make_adapters(model, ranks)
    order = random.Random(shuffle).sample(NAMES, len(NAMES))
    case = Case(tmp_path, model, adapters, checkpoint(model, adapters, order))
    assert case.run() == order
    case.check(order)


def test_twenty_eight_adapters(tmp_path: Path) -> None:
    model = tiny_model()
    adapters = make_adapters(model, {f"task_{number}": 8 for number in range(28)})
    order = random.Random(0).sample(list(adapters), 28)
    case = Case(tmp_path, model, adapters, checkpoint(model, adapters, order))
    assert case.run(config=MeteoraConfig(top_k=2, max_adapters=2, pool_rank=8)) == order
    case.check(order)


@pytest.mark.parametrize(
    "kept, saved", [(torch.float32, torch.bfloat16), (torch.bfloat16, torch.float32), (torch.bfloat16, torch.bfloat16)]
)
def test_types_that_round(tmp_path: Path, kept: torch.dtype, saved: torch.dtype) -> None:
    model = tiny_model()
    adapters = make_adapters(model, RANKS, dtype=kept)
    order = list(reversed(NAMES))
    case = Case(tmp_path, model, adapters, checkpoint(model, adapters, order, saved))
    assert case.run() == order
    case.check(order)


def test_adapters_that_lack_a_module_do_not_shift_the_others(tmp_path: Path) -> None:
    model = tiny_model()
    adapters = make_adapters(model, RANKS)
    adapters["winowhy"] = adapter(model, 8, seed=1, targets=("q_proj", "down_proj"))
    order = ["winowhy", "gsm8k", "alpaca", "cs_algorithms"]
    case = Case(tmp_path, model, adapters, checkpoint(model, adapters, order))
    assert case.run() == order
    case.check(order)


def test_linears_without_adapters(tmp_path: Path) -> None:
    model = tiny_model()
    adapters = make_adapters(model, RANKS, targets=("k_proj", "v_proj", "up_proj"))
    order = list(NAMES)
    case = Case(tmp_path, model, adapters, checkpoint(model, adapters, order))
    assert case.run() == order
    case.check(order)


def test_several_files(tmp_path: Path) -> None:
    model = tiny_model()
    adapters = make_adapters(model, UNEQUAL)
    order = ["gsm8k", "alpaca", "cs_algorithms", "winowhy"]
    case = Case(tmp_path, model, adapters, checkpoint(model, adapters, order))
    case.file.unlink()
    names = list(case.tensors)
    files = {f"model-0000{number + 1}-of-00003.safetensors": names[number::3] for number in range(3)}
    for file, held in files.items():
        save_file({name: case.tensors[name] for name in held}, case.file.parent / file)
    index = case.file.parent / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {name: file for file, held in files.items() for name in held}}))
    assert case.run() == order
    case.check(order)

    first, *_ = files
    (case.file.parent / first).write_bytes(b"broken")
    with pytest.raises(AdapterFormatError, match=f"not a safetensors file.*{first}"):
        case.run()
    (case.file.parent / first).unlink()
    with pytest.raises(FileNotFoundError, match=first):
        case.run()
    index.write_text("{}")
    with pytest.raises(AdapterFormatError, match=r"not an index.*weight_map"):
        case.run()
    index.write_text(json.dumps({"weight_map": {"other": list(files)[1]}}))
    with pytest.raises(AdapterFormatError, match="tensor other is missing"):
        case.run()


@pytest.fixture
def case(tmp_path: Path) -> Case:
    model = tiny_model()
    adapters = make_adapters(model, RANKS)
    return Case(tmp_path, model, adapters, checkpoint(model, adapters, NAMES))


def refused(case: Case, message: str, error: type[Exception] = AdapterFormatError) -> None:
    with pytest.raises(error, match=message):
        case.run()
    assert not (case.root / "bundle").exists()


def test_an_adapter_of_another_training_is_refused(case: Case) -> None:
    write(adapter(case.model, 8, seed=77), case.folders["gsm8k"])
    refused(
        case,
        r"no adapter fits place 2.*'gsm8k' differs in model\.layers\.0\.self_attn\.q_proj\.lora_A\.weight, rows 16",
    )


@pytest.mark.parametrize("half, axis", [("A", "rows"), ("B", "columns")])
def test_one_changed_value_is_refused(case: Case, half: str, axis: str) -> None:
    tensor = case.tensors[f"{PREFIX}model.layers.1.mlp.down_proj.lora_{half}.weight"]
    (tensor if half == "A" else tensor.T)[9, 3] += 0.5
    case.save()
    refused(
        case, rf"place 1.*'winowhy' differs in model\.layers\.1\.mlp\.down_proj\.lora_{half}\.weight, {axis} 8 to 16"
    )


def test_twins_can_not_be_told_apart(case: Case) -> None:
    adapters = {**case.adapters, "gsm8k": case.adapters["winowhy"]}
    write(adapters["gsm8k"], case.folders["gsm8k"])
    case.tensors = checkpoint(case.model, adapters, NAMES)
    case.save()
    refused(case, "'winowhy' and 'gsm8k' both fit place 1")


def test_all_adapters_are_needed(case: Case) -> None:
    folder = case.folders.pop("gsm8k")
    refused(case, "gates are for 4 adapters, and 3 are given")
    case.folders |= {"gsm8k": folder, "more": write(adapter(case.model, 8, seed=9), case.root / "peft/more")}
    refused(case, "gates are for 4 adapters, and 5 are given")


def test_rows_that_belong_to_nobody(case: Case) -> None:
    for path in linears(case.model):
        gate = case.tensors[f"{PREFIX}{path}.moe_gate.weight"]
        case.tensors[f"{PREFIX}{path}.moe_gate.weight"] = gate[:3].clone()
    case.save()
    del case.folders["cs_algorithms"]
    refused(case, "rows 24 to 32 belong to none of the adapters given")


@pytest.mark.parametrize("kind", ["moe_gate", "lora_A", "lora_B", "base_layer"])
def test_tensors_that_are_missing_or_misshapen(case: Case, kind: str) -> None:
    name = f"{PREFIX}model.layers.1.mlp.up_proj.{kind}.weight"
    whole = case.tensors[name]
    case.tensors[name] = whole[:, :-1].clone()
    case.save()
    refused(case, r"up_proj.*has shape")
    case.tensors[name] = whole[0].clone()
    case.save()
    refused(case, r"up_proj.*not two dimensions")
    del case.tensors[name]
    case.save()
    refused(case, "up_proj" if kind == "moe_gate" else rf"tensor {name} .*is missing")


def test_gates_of_unequal_numbers(case: Case) -> None:
    name = f"{PREFIX}model.layers.1.mlp.up_proj.moe_gate.weight"
    case.tensors[name] = case.tensors[name][:3].clone()
    case.save()
    refused(case, "has 3 rows.*which row belongs to which adapter")


def test_what_is_no_checkpoint(case: Case, tmp_path: Path) -> None:
    case.tensors = {f"{PREFIX}{name}": tensor.clone() for name, tensor in case.model.state_dict().items()}
    case.save()
    refused(case, "no tensor .*moe_gate.weight")
    case.file.unlink()
    refused(case, "neither model.safetensors nor", FileNotFoundError)


def test_bad_adapters(case: Case) -> None:
    config = json.loads((case.folders["alpaca"] / "adapter_config.json").read_text())
    (case.folders["alpaca"] / "adapter_config.json").write_text(json.dumps({**config, "use_dora": True}))
    refused(case, "use_dora", AdapterUnsupportedError)
    save_file({"x": torch.zeros(1)}, case.folders["alpaca"] / "adapter_model.safetensors")
    refused(case, "'alpaca': no lora_A and lora_B")


def test_another_folder_is_left_alone(case: Case) -> None:
    (case.root / "bundle").mkdir()
    (case.root / "bundle" / "mine.txt").write_text("")
    with pytest.raises(MeteoraError, match="is no bundle"):
        case.run()
    assert [path.name for path in (case.root / "bundle").iterdir()] == ["mine.txt"]


def test_the_command(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [str(folder) for folder in case.folders.values()]
    out = ["--output", str(case.root / "bundle")]
    assert main(["import-official", str(case.file), *folders, *out, "--top-k", "1", "--temperature", "15"]) == 0
    assert f"order: {', '.join(NAMES)}" in capsys.readouterr().out
    assert read_manifest(case.root / "bundle").config.temperature == 15

    assert main(["import-official", str(case.file), folders[0], folders[0], *out]) == 2
    assert "two adapters are named 'alpaca'" in capsys.readouterr().err
    assert main(["import-official", str(case.file), *folders, *out, "--temperature", "0"]) == 2
    assert "temperature" in capsys.readouterr().err
    assert main(["import-official", str(case.file), *folders[:3], *out]) == 2
    assert "gates are for 4 adapters" in capsys.readouterr().err
