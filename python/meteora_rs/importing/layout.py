"""The layout of the MeteoRA authors' checkpoints: the whole model, with all adapters side by side.

Under `base_model.model.<linear>.` lie, for each adapted linear,

    base_layer.weight [out, in]    moe_gate.weight [n, in]
    lora_A.weight [Σ r_i, in]      lora_B.weight [out, Σ r_i]

Adapter i has the rows of lora_A and the columns of lora_B after those of the adapters before it, and row i of
moe_gate. Its scaling is not folded in. Neither k nor alpha nor the adapters' order is in the file.
"""

from __future__ import annotations

from dataclasses import dataclass

from meteora_rs.errors import AdapterFormatError
from meteora_rs.sites.architecture import DECODER_LAYER

from .tensors import Tensors

PREFIX = "base_model.model."
GATE, LORA_A, LORA_B, BASE_LAYER = "moe_gate.weight", "lora_A.weight", "lora_B.weight", "base_layer.weight"


@dataclass(frozen=True)
class Linear:
    """A linear of a decoder layer; `rows`: Σ r_i, 0 if it is not adapted."""

    path: str
    in_features: int
    out_features: int
    rows: int

    def tensor(self, kind: str) -> str:
        """The name of one of its tensors."""
        return f"{PREFIX}{self.path}.{kind}"


def read_layout(tensors: Tensors) -> tuple[list[Linear], int]:
    """The linears in the order of their layers, and the number of adapters.

    Raises:
        AdapterFormatError: no such checkpoint, a tensor that is missing or has another shape, or gates that differ
            in their number of adapters.
    """
    adapted = [name.removesuffix(f".{GATE}").removeprefix(PREFIX) for name in tensors if name.endswith(f".{GATE}")]
    if not adapted:
        raise AdapterFormatError(
            f"no tensor {PREFIX}….{GATE}: this is no checkpoint of the MeteoRA authors' (file: {tensors.path})"
        )
    linears = [_adapted(tensors, path) for path in adapted] + [
        Linear(path, in_features, out_features, 0)
        for path, (out_features, in_features) in _plain_linears(tensors).items()
    ]
    counts = {path: tensors.shape(f"{PREFIX}{path}.{GATE}")[0] for path in adapted}
    for path, count in counts.items():
        if count != counts[adapted[0]]:
            raise AdapterFormatError(
                f"{tensors.place(f'{PREFIX}{path}.{GATE}')} has {count} rows, that of {adapted[0]} has "
                f"{counts[adapted[0]]}: which row belongs to which adapter can't be known"
            )
    return sorted(linears, key=_position), counts[adapted[0]]


def _adapted(tensors: Tensors, path: str) -> Linear:
    shapes = {}
    for kind in (GATE, LORA_A, LORA_B, BASE_LAYER):
        name = f"{PREFIX}{path}.{kind}"
        if name not in tensors:
            raise AdapterFormatError(f"{tensors.place(name)} is missing")
        shapes[kind] = tensors.shape(name)
        if len(shapes[kind]) != 2:
            raise AdapterFormatError(f"{tensors.place(name)} has shape {shapes[kind]}, not two dimensions")
    out_features, in_features = shapes[BASE_LAYER]
    rows = shapes[LORA_A][0]
    expected = {GATE: [shapes[GATE][0], in_features], LORA_A: [rows, in_features], LORA_B: [out_features, rows]}
    for kind, shape in expected.items():
        if shapes[kind] != shape:
            raise AdapterFormatError(
                f"{tensors.place(f'{PREFIX}{path}.{kind}')} has shape {shapes[kind]}; {shape} was expected"
            )
    return Linear(path, in_features, out_features, rows)


def _plain_linears(tensors: Tensors) -> dict[str, list[int]]:
    """Linears without adapters: matrices of decoder layers that belong to no adapted one."""
    own = (GATE, LORA_A, LORA_B, BASE_LAYER)
    names = [n for n in tensors if n.endswith(".weight") and DECODER_LAYER.search(n) and not n.endswith(own)]
    shapes = {name.removeprefix(PREFIX).removesuffix(".weight"): tensors.shape(name) for name in names}
    return {path: shape for path, shape in shapes.items() if len(shape) == 2}


_IN_LAYER = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def _position(linear: Linear) -> tuple[int, int, str]:
    """As in the model; the file lists tensors by name, and layer 10 before layer 2."""
    layer = DECODER_LAYER.search(linear.path)
    kind = linear.path.rpartition(".")[2]
    return (int(layer[1]) if layer else -1, _IN_LAYER.index(kind) if kind in _IN_LAYER else len(_IN_LAYER), kind)
