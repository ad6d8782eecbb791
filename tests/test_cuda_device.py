"""On a real card, where there is one: `benchmarks/gpu/run.sh` runs this before it times anything."""

from __future__ import annotations

import os
from dataclasses import fields, replace

import meteora_rs
import pytest
import torch
from meteora_rs import Auto, Meteora, MeteoraConfig, Mix, _native
from meteora_rs.ops.reference import gated_lora as reference
from op_case import OpCase, make_case
from plain_op import plain
from test_op import GRID, ranks, records
from tiny import adapter, equal, gate_rows, logits, prompt, tiny_model
from tolerance import assert_close_to_reference
from torch import Tensor
from transformers import PreTrainedModel

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    pytest.mark.skipif(not _native.cuda_built(), reason="built without CUDA kernels"),
]
# compute-sanitizer makes everything some fifty times slower: a few cases then have to do.
THIN = bool(os.environ.get("METEORA_THIN_GRID"))


def moved(case: OpCase) -> OpCase:
    tensors = {f.name: getattr(case, f.name) for f in fields(case)}
    return replace(case, **{k: v.cuda() for k, v in tensors.items() if isinstance(v, Tensor)})


def op(case: OpCase) -> Tensor:
    out: Tensor = torch.ops.meteora_rs.gated_lora(*moved(case).args())
    return out.cpu()


@pytest.mark.parametrize(("d_in", "d_out", "slots", "top_k", "dtype"), GRID[:3] if THIN else GRID)
@pytest.mark.parametrize("tokens", [1, 13] if THIN else [1, 13, 300])
def test_the_op_is_what_the_specification_says(
    d_in: int, d_out: int, slots: int, top_k: int, dtype: torch.dtype, tokens: int
) -> None:
    every, rows = records(slots)
    case = make_case(ranks(slots), every, rows, shape=(len(rows), tokens), d_in=d_in, d_out=d_out, x_dtype=dtype,
                     top_k=top_k, temperature=0.7, sign_free=range(0, slots, 3))  # fmt: skip
    assert_close_to_reference(op(case), reference(*case.args()), plain(case, dtype))


def test_a_tokens_bits_do_not_depend_on_its_batch() -> None:
    every, rows = records(5)
    case = make_case([4, 0, 8, 3, 16], every, rows, shape=(7, 2), d_in=133, d_out=64)
    whole = op(case)
    for row, route in enumerate(rows):
        alone = replace(case, x=case.x[row : row + 1], base=case.base[row : row + 1])
        assert equal(op(alone.with_routes(every, [route])), whole[row : row + 1])


def attached(model: PreTrainedModel) -> Meteora:
    meteora = meteora_rs.attach(model, MeteoraConfig(max_adapters=4, pool_rank=64))
    meteora.load_adapter(adapter(model, 4, seed=1), "math")
    meteora.load_adapter(adapter(model, 8, seed=2, dtype=torch.bfloat16), "law", gate=gate_rows(meteora, 2))
    return meteora


def test_a_model_that_moves_says_the_same() -> None:
    model = tiny_model()
    meteora = attached(model)
    routes = [Auto(), Mix({"math": 0.7, "law": 0.3}), "__base__"]

    def say(device: str) -> Tensor:
        model.to(device)
        with meteora.routing(routes):
            return logits(model, prompt().to(device)).cpu()

    on_cpu = say("cpu")
    for device in [f"cuda:{index}" for index in range(torch.cuda.device_count())]:
        torch.testing.assert_close(say(device), on_cpu, rtol=1e-3, atol=1e-3)
    meteora.reload_adapter("math", adapter(model, 16, seed=11))
    on_card = say("cuda:0")
    torch.testing.assert_close(on_card, say("cpu"), rtol=1e-3, atol=1e-3)


@pytest.mark.skipif(THIN, reason="graphs are not for the sanitizer")
def test_a_captured_graph_stays_right_after_loads_and_other_routes() -> None:
    model = tiny_model().cuda()
    meteora = attached(model)
    ids = prompt().cuda()
    with meteora.routing("math"), torch.no_grad():
        expected = model(ids, use_cache=False).logits.clone()  # warm: routes are on the card now
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out = model(ids, use_cache=False).logits
        graph.replay()
        assert equal(out.cpu(), expected.cpu())
        meteora.load_adapter(adapter(model, 8, seed=3), "late")
        meteora.reload_adapter("math", adapter(model, 16, seed=11))  # this request keeps the generation it began with
        graph.replay()
        assert equal(out.cpu(), expected.cpu())
    for routes in ("math", Auto(), "late", ["law", "__base__", Mix({"math": 0.7, "late": 0.3})]):
        with meteora.routing(routes):
            graph.replay()
            torch.testing.assert_close(out, logits(model, ids), rtol=1e-3, atol=1e-3)


@pytest.mark.filterwarnings("ignore:TensorFloat32")  # inductor's advice to multiply f32 less exactly
@pytest.mark.skipif(THIN, reason="graphs are not for the sanitizer")
def test_compiled_with_graphs_it_says_the_same() -> None:
    model = tiny_model().cuda()
    meteora = attached(model)
    ids = prompt().cuda()
    compiled = torch.compile(model, mode="reduce-overhead")
    for routes in ("math", Auto(), "law"):
        with meteora.routing(routes):
            torch.testing.assert_close(logits(compiled, ids), logits(model, ids), rtol=1e-3, atol=1e-3)
