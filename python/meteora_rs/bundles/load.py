"""Reading a bundle into a model that has just been attached."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from meteora_rs.attached.record import GIVEN
from meteora_rs.bundles.manifest import (
    ADAPTERS,
    FLOW,
    GATES,
    KEPT_TEXTS,
    MANIFEST,
    Manifest,
    sha256_of,
    shapes_of,
    stamp_of,
)
from meteora_rs.errors import AdapterFormatError
from meteora_rs.gates.flow import FlowGate, decoder_layers
from meteora_rs.gates.kept import KeptTexts
from meteora_rs.handle.handle import Handle
from meteora_rs.routes import BASE

Rows = dict[str, tuple[Tensor, float]]


def load_bundle(meteora: Handle, folder: str | Path, manifest: Manifest) -> None:
    """Load a bundle's adapters and gates into a freshly attached model.

    Raises:
        AdapterFormatError: the model's sites differ from the bundle's, or a file's hash does, or another bundle took
            its place meanwhile. Others as `Meteora.load_adapter`.
    """
    folder = Path(folder)
    _compare_sites(meteora, manifest, folder / MANIFEST)
    gates_path = folder / GATES
    _compare_hash("gates", gates_path, manifest.gates_sha256)
    rows = _gate_rows(meteora, load_file(gates_path), gates_path)
    kept_texts = None
    if manifest.kept_texts_sha256 is not None:
        _compare_hash("texts of a fit", folder / KEPT_TEXTS, manifest.kept_texts_sha256)
        groups = [group.leader.path for group in meteora.groups]
        vocabulary = meteora.model.get_input_embeddings().num_embeddings  # type: ignore[operator]
        kept_texts = KeptTexts.load(folder / KEPT_TEXTS, groups, vocabulary)
    flow = None
    if manifest.flow_sha256 is not None:
        _compare_hash("flow gate", folder / FLOW, manifest.flow_sha256)
        flow = FlowGate.load(folder / FLOW, decoder_layers(meteora))
    for adapter in manifest.adapters:
        name, gate = adapter["name"], adapter["gate"]
        path = folder / ADAPTERS / name
        _compare_hash(name, path / "adapter_model.safetensors", adapter["sha256"])
        load = meteora.load_adapter if adapter["resident"] or meteora.tiers is None else meteora.register_adapter
        load(path, name, gate="arrow" if gate == "arrow" else "none")
        if adapter["pinned"]:
            meteora.pin_adapter(name)
    for kind in GIVEN:
        names = [adapter["name"] for adapter in manifest.adapters if adapter["gate"] == kind]
        if missing := [name for name in names if name not in rows]:
            raise AdapterFormatError(f"adapter {missing[0]!r}: no gate rows (file: {gates_path})")
        if kind == "fitted" and BASE in rows:
            names.append(BASE)
        meteora.set_gates({name: rows[name] for name in names}, kind=kind)
    meteora.kept_texts = kept_texts
    meteora.set_flow_gate(flow)
    manifest.names.give(meteora)
    if stamp_of(folder / MANIFEST) != manifest.stamp:  # not everything has a hash in the manifest
        raise AdapterFormatError(f"the bundle was replaced while it was read; read it again (file: {folder})")


def _compare_sites(meteora: Handle, manifest: Manifest, path: Path) -> None:
    ours = shapes_of(meteora.sites)
    for site in {**manifest.sites, **ours}:
        theirs = manifest.sites.get(site)
        if theirs != ours.get(site):
            raise AdapterFormatError(
                f"the bundle was made for another model: site {site} is {theirs or 'missing'} there and "
                f"{ours.get(site) or 'missing'} here (file: {path})"
            )


def _compare_hash(name: str, path: Path, expected: str) -> None:
    found = sha256_of(path)
    if found != expected:
        raise AdapterFormatError(
            f"adapter {name!r}: SHA-256 {found} where the bundle says {expected}: the file was changed (file: {path})"
        )


def _gate_rows(meteora: Handle, tensors: dict[str, Tensor], path: Path) -> dict[str, Rows]:
    rows: dict[str, Rows] = {}
    for key, row in tensors.items():
        name, _, rest = key.partition("/")
        if not rest.endswith(".gate"):
            continue
        bias = tensors.get(f"{key}_bias")
        if bias is None:
            raise AdapterFormatError(f"adapter {name!r}: tensor {key} has no bias beside it (file: {path})")
        rows.setdefault(name, {})[rest.removesuffix(".gate")] = (row, float(bias))
    return rows
