"""LoRA-Flow's gate: weights of whole layers, wherever a route leaves the choice to the gates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import meteora_rs
import pytest
import torch
from meteora_rs import BASE, Auto, Meteora, Mix
from meteora_rs.errors import AdapterFormatError, AdapterNotFoundError, MeteoraError, RouteError
from meteora_rs.gates.flow import FlowGate, decoder_layers
from tiny import adapter, equal, gate_rows, logits, prompt, tiny_model
from torch import Tensor, nn

NAMES = ["law", "math", "sql"]


def flow(meteora: Meteora, *, spread: float = 0.3, names: list[str] = NAMES) -> FlowGate:
    """A random gate."""
    gate = FlowGate.of(meteora, names)
    random = torch.Generator().manual_seed(5)
    for parameter in gate.parameters():
        parameter.data = torch.randn(parameter.shape, generator=random) * spread
    return gate


def by_hand(meteora: Meteora, gate: FlowGate, ids: Tensor, names: list[str]) -> Tensor:
    """The logits with each layer's weights computed from its input, and each linear's sum written out."""
    from meteora_rs.ops.layout import TableEntry, slot_rows

    current: list[Tensor] = []
    handles = []
    places = [gate.names.index(name) for name in names]
    for index, path in enumerate(decoder_layers(meteora)):

        def weigh(_: nn.Module, args: Any, index: int = index) -> None:
            x = args[0]
            current[:] = [torch.softmax(x @ gate.weights[index][places].T, -1) + gate.biases[index][places]]

        handles.append(meteora.model.get_submodule(path).register_forward_pre_hook(weigh))
    for site in meteora.sites:

        def add(_: nn.Module, args: Any, output: Tensor, site: Any = site) -> Tensor:
            for column, name in enumerate(names):
                entry = TableEntry.decode(site.table[meteora.adapter(name).slot].tolist())
                a = slot_rows(site.lora_A, entry, site.in_features).float()
                b = slot_rows(site.lora_B_packed, entry, site.out_features).float()
                output = output + current[0][..., column, None] * entry.scaling * (args[0] @ a.T @ b)
            return output

        handles.append(meteora.model.get_submodule(site.path).register_forward_hook(add))
    with meteora.routing(BASE):
        wanted = logits(meteora.model, ids)
    for handle in handles:
        handle.remove()
    return wanted


def test_every_linear_of_a_layer_gets_the_layers_weights(loaded: Meteora) -> None:
    gate = flow(loaded)
    wanted = by_hand(loaded, gate, prompt(), NAMES)
    plain = logits(loaded.model, prompt())
    loaded.set_flow_gate(gate)
    assert loaded.flow_gate is gate
    found = logits(loaded.model, prompt())
    assert torch.allclose(found, wanted, atol=1e-4)
    assert not torch.allclose(found, plain, atol=1e-2)
    loaded.set_flow_gate(None)
    assert equal(logits(loaded.model, prompt()), plain)


def test_a_new_gate_mixes_all_alike(loaded: Meteora) -> None:
    with loaded.routing(Mix(dict.fromkeys(NAMES, 1 / 3))):
        wanted = logits(loaded.model, prompt())
    loaded.set_flow_gate(FlowGate.of(loaded, NAMES))
    assert torch.allclose(logits(loaded.model, prompt()), wanted, atol=1e-5)


def test_routes_restrict_it_row_by_row(loaded: Meteora) -> None:
    gate = flow(loaded)
    ids = prompt(rows=5)
    few = by_hand(loaded, gate, ids, ["math"]), by_hand(loaded, gate, ids, ["law", "sql"])
    whole = by_hand(loaded, gate, ids, NAMES)
    with loaded.routing(["law", BASE] * 2 + [Mix({"math": 0.5})]):
        fixed = logits(loaded.model, ids)
    loaded.set_flow_gate(gate)
    with loaded.routing(["law", BASE, Auto(only=["math"]), Auto(only=["law", "sql"]), Auto()]):
        found = logits(loaded.model, ids)
    assert torch.allclose(found[:2], fixed[:2], atol=1e-5)
    assert equal(found[1], fixed[1])
    for row, wanted in ((2, few[0]), (3, few[1]), (4, whole)):
        assert torch.allclose(found[row], wanted[row], atol=1e-4)


def test_generation_step_by_step_is_the_whole_pass(loaded: Meteora) -> None:
    loaded.set_flow_gate(flow(loaded))
    model: Any = loaded.model
    out = model.generate(
        prompt(rows=2), max_new_tokens=5, do_sample=False, output_logits=True, return_dict_in_generate=True
    )
    whole = logits(model, out.sequences[:, :-1])[:, -5:]
    assert torch.allclose(torch.stack(out.logits, 1), whole, atol=1e-3)


def test_a_trace_has_its_weights(loaded: Meteora) -> None:
    loaded.set_flow_gate(flow(loaded))
    with loaded.trace() as trace:
        logits(loaded.model, prompt(rows=2))
    weights = torch.from_numpy(trace.token_weights(1))  # [tokens, sites, adapters]
    assert weights.shape == (7, 14, 3) and float(weights.abs().min()) > 0
    assert equal(weights[:, 0], weights[:, 6]) and not equal(weights[:, 0], weights[:, 7])


def test_a_request_keeps_the_gate_that_it_began_with(loaded: Meteora) -> None:
    plain = logits(loaded.model, prompt())
    with loaded.routing(Auto()):
        loaded.set_flow_gate(flow(loaded))
        assert equal(logits(loaded.model, prompt()), plain)
    assert not equal(logits(loaded.model, prompt()), plain)


def test_an_adapter_that_goes_leaves_the_others_to_share(loaded: Meteora) -> None:
    gate = flow(loaded)
    wanted = by_hand(loaded, gate, prompt(), ["law", "math"])
    loaded.set_flow_gate(gate)
    loaded.unload_adapter("sql")
    assert torch.allclose(logits(loaded.model, prompt()), wanted, atol=1e-4)
    loaded.load_adapter(adapter(loaded.model, 4, seed=9), "new")
    with loaded.routing(Auto(only=["new"])), pytest.raises(RouteError, match="none of its adapters is one"):
        logits(loaded.model, prompt())
    logits(loaded.model, prompt())  # and the failed pass has left nothing behind


def test_gradients_pass_through_it(loaded: Meteora) -> None:
    gate = flow(loaded)
    loaded.set_flow_gate(gate)
    gate.requires_grad_(True)
    weight = gate.weights[0]
    loaded.model.requires_grad_(False)

    def loss() -> Tensor:
        out: Tensor = loaded.model(prompt()).logits
        return out.square().mean()

    (grad,) = torch.autograd.grad(loss(), [weight])
    direction = torch.randn_like(weight)
    with torch.no_grad():
        weight += 1e-3 * direction
        up = float(loss())
        weight -= 2e-3 * direction
        down = float(loss())
    assert (up - down) / 2e-3 == pytest.approx(float((grad * direction).sum()), rel=0.02)


def test_what_does_not_fit_is_refused(loaded: Meteora) -> None:
    with pytest.raises(AdapterNotFoundError):
        loaded.set_flow_gate(flow(loaded, names=["math", "gone"]))
    other = meteora_rs.attach(tiny_model(num_hidden_layers=3))
    with pytest.raises(AdapterFormatError, match="made for layers"):
        loaded.set_flow_gate(flow(other))
    assert loaded.flow_gate is None


def test_compiled_models_refuse_it(loaded: Meteora) -> None:
    loaded.set_flow_gate(flow(loaded))
    compiled = torch.compile(loaded.model, backend="eager")
    with pytest.raises(MeteoraError, match="no compiled form"):
        logits(compiled, prompt())


def test_detach_takes_the_hooks_along(loaded: Meteora) -> None:
    model = loaded.model
    with loaded.routing(BASE):
        base = logits(model, prompt())
    loaded.set_flow_gate(flow(loaded))
    logits(model, prompt())
    loaded.detach()
    assert equal(logits(model, prompt()), base)
    layers = [module for module in model.modules() if module._forward_hooks or module._forward_pre_hooks]
    assert not layers


def test_in_a_bundle(loaded: Meteora, tmp_path: Path) -> None:
    loaded.set_gates({name: gate_rows(loaded, seed) for seed, name in enumerate(NAMES)})
    loaded.set_flow_gate(flow(loaded))
    wanted = logits(loaded.model, prompt())
    loaded.save_pretrained(tmp_path / "bundle")
    again = meteora_rs.attach_pretrained(tiny_model(), tmp_path / "bundle")
    assert again.flow_gate is not None and again.flow_gate.names == NAMES
    assert equal(logits(again.model, prompt()), wanted)
    path = tmp_path / "bundle" / "flow.safetensors"
    again.set_flow_gate(None)
    again.save_pretrained(tmp_path / "second")
    assert not (tmp_path / "second" / "flow.safetensors").exists()
    path.write_bytes(path.read_bytes()[:-4] + b"\0\0\0\1")
    with pytest.raises(AdapterFormatError, match="SHA-256"):
        meteora_rs.attach_pretrained(tiny_model(), tmp_path / "bundle")


def test_in_a_bundle_it_has_the_adapters_that_are_left(loaded: Meteora, tmp_path: Path) -> None:
    loaded.set_flow_gate(flow(loaded))
    loaded.unload_adapter("sql")
    wanted = logits(loaded.model, prompt())
    loaded.save_pretrained(tmp_path / "two")
    again = meteora_rs.attach_pretrained(tiny_model(), tmp_path / "two")
    assert again.flow_gate is not None and again.flow_gate.names == ["law", "math"]
    assert torch.allclose(logits(again.model, prompt()), wanted, atol=1e-5)
    for name in ("law", "math"):
        again.unload_adapter(name)
    again.save_pretrained(tmp_path / "none")
    assert meteora_rs.attach_pretrained(tiny_model(), tmp_path / "none").flow_gate is None


def test_files_that_do_not_fit_are_refused(loaded: Meteora, tmp_path: Path) -> None:
    path = tmp_path / "flow.safetensors"
    flow(loaded).save(path)
    layers = decoder_layers(loaded)
    assert equal(FlowGate.load(path, layers).weights[1], flow(loaded).weights[1])
    with pytest.raises(
        AdapterFormatError, match=r"model\.layers\.1\.weight is of no layer|model\.layers\.1\.bias is of no"
    ):
        FlowGate.load(path, {"model.layers.0": 64})
    with pytest.raises(AdapterFormatError, match=r"model\.layers\.2\.weight is missing"):
        FlowGate.load(path, {**layers, "model.layers.2": 64})
    path.write_bytes(b"nothing")
    with pytest.raises(AdapterFormatError, match="flow gate"):
        FlowGate.load(path, layers)
