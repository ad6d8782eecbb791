"""The bundle: adapters with their gates in one folder, checked by hash.

meteora.json                     format version, config, bytes of the element in which its pool_rank was counted
                                 (4 where that is missing), shapes of the sites, adapters in order (those that rested
                                 in the host's memory last), hashes, aliases and groups (`bundle_names`)
gates.safetensors                "<adapter>/<site path>.gate" [in] float32, "<adapter>/<site path>.gate_bias" [1];
                                 a site whose row equals its input group's leader's is left out
statistics.safetensors           what the last fit kept for adapters that come later (`gates.fit.kept`); may be missing
flow.safetensors                 the gate that weights whole layers (`gates.flow`), if one was set
adapters/<name>/                 a PEFT folder
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from meteora_rs.bundle_names import BundleNames
from meteora_rs.config import LARGEST_POOL, OF_HOST, MeteoraConfig
from meteora_rs.errors import AdapterFormatError, MeteoraError
from meteora_rs.exchange import exchange
from meteora_rs.handle.record import GIVEN, AdapterRecord
from meteora_rs.peft_folder import live_modules, resting_modules, write_peft_folder
from meteora_rs.routes import BASE
from meteora_rs.tensor_file import save_tensors

if TYPE_CHECKING:
    from meteora_rs.gates.fit.kept import KeptStatistics
    from meteora_rs.meteora import Meteora

FORMAT = 1
MANIFEST, GATES, ADAPTERS = "meteora.json", "gates.safetensors", "adapters"
STATISTICS, FLOW = "statistics.safetensors", "flow.safetensors"

KINDS = ("none", "arrow", *GIVEN)
"""Of gates."""

Rows = dict[str, tuple[Tensor, float]]


@dataclass(frozen=True)
class Manifest:
    """What `meteora.json` says."""

    config: MeteoraConfig
    sites: dict[str, list[int]]
    adapters: list[dict[str, Any]]
    gates_sha256: str
    statistics_sha256: str | None
    flow_sha256: str | None
    element_size: int
    names: BundleNames
    stamp: tuple[int, int, int]
    """Of the file, so that another that takes its place is found out."""

    def config_for(self, element_size: int) -> MeteoraConfig:
        """The config for a model whose elements have this many bytes: an adapter takes as many more rank rows as its
        elements are wider than the model's, so a narrower model than the saved one needs more of them."""
        wider = max(1, self.element_size // element_size)
        return replace(self.config, pool_rank=min(self.config.pool_rank * wider, LARGEST_POOL))


def save_bundle(meteora: Meteora, folder: str | Path, *, statistics: bool) -> None:
    """Write a bundle; an existing one at `folder` is replaced only when the new one is whole, by `exchange`.

    A link is followed: it then leads to the new bundle. The caller keeps adapters from being changed meanwhile.
    With `statistics` also what a fit kept, if there was one.

    Raises:
        MeteoraError: `folder` is a file or no bundle, holds more than a bundle, or is or holds the working directory.
        OSError: it can't be written.
    """
    target = Path(folder).resolve()
    check_target(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        _write(meteora, scratch, meteora.statistics if statistics else None)
        os.chmod(scratch, 0o755)
        if target.exists():
            exchange(scratch, target)
            shutil.rmtree(scratch)  # the one before
        else:
            scratch.rename(target)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise


def check_target(target: Path) -> None:
    """Find out whether a bundle may be written there, before anything long begins.

    Raises:
        MeteoraError: there is something else, which it would replace.
    """
    if not target.exists():
        return
    if not target.is_dir():
        raise MeteoraError(f"{target} is a file; choose a folder for the bundle")
    if Path.cwd().is_relative_to(target):  # it would be gone under the process's feet
        raise MeteoraError(
            f"{target} is or holds the working directory, which can't be replaced; choose another folder"
        )
    found = {path.name for path in target.iterdir()}
    if found and not (target / MANIFEST).is_file():
        raise MeteoraError(f"{target} exists and is no bundle (it has no {MANIFEST}); choose another folder")
    if others := sorted(found - {MANIFEST, GATES, STATISTICS, FLOW, ADAPTERS}):
        raise MeteoraError(
            f"{target} holds more than a bundle ({others[0]}), which replacing it would delete; choose another folder"
        )


def _write(meteora: Meteora, folder: Path, statistics: KeptStatistics | None) -> None:
    with meteora._writer:  # what is listed is what is held
        hold, live = meteora._hold()  # the rows stay while they are read
        records = [record for record in live if record.name not in meteora._trials]
        slots = meteora._given_slots(records)
        resting = meteora.tiers.at_rest() if meteora.tiers is not None else []
        resting = [each for each in resting if each.record.name not in meteora._trials]
        names = BundleNames.of(meteora)
    adapters = []
    try:
        for record in records:
            modules = live_modules(meteora.sites, record.slot)
            adapters.append(_listed(record, write_peft_folder(modules, folder / ADAPTERS / record.name)))
        rows = {name: meteora._gate_rows(slot) for name, slot in slots.items()}
    finally:
        del hold
    while resting:  # each lets go of the host's memory when it is written
        each = resting.pop(0)
        assert meteora.tiers is not None
        modules = resting_modules(meteora.sites, each.copy(meteora.tiers))
        adapters.append(_listed(each.record, write_peft_folder(modules, folder / ADAPTERS / each.record.name)))
        if each.rows is not None:
            rows[each.record.name] = {site.path: row for site, row in zip(meteora.sites, each.rows, strict=True)}
    gates = _gate_tensors(meteora, rows)
    save_tensors(gates, folder / GATES, metadata={"format": "pt"})
    if statistics is not None:
        statistics.save(folder / STATISTICS)
    flow = meteora.flow_gate
    if flow is not None:  # its adapters may have been unloaded
        flow = flow.among([each["name"] for each in adapters])
    if flow is not None:
        flow.save(folder / FLOW)
    manifest = {
        "format": FORMAT,
        "config": {key: value for key, value in asdict(meteora.config).items() if key not in OF_HOST},
        "element_size": meteora.element_size,
        "sites": _shapes(meteora),
        "adapters": adapters,
        **asdict(names.among([each["name"] for each in adapters])),
        "gates_sha256": _sha256(folder / GATES),
        "statistics_sha256": None if statistics is None else _sha256(folder / STATISTICS),
        "flow_sha256": None if flow is None else _sha256(folder / FLOW),
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")


def _listed(record: AdapterRecord, sha256: str) -> dict[str, Any]:
    resident = record.tier == "device"
    return {"name": record.name, "gate": record.gate, "pinned": record.pinned, "resident": resident, "sha256": sha256}


def read_manifest(folder: str | Path) -> Manifest:
    """The checked `meteora.json` of a bundle.

    Raises:
        AdapterFormatError: not a bundle, another format version, or a field that is missing or wrong.
        OSError: it can't be read.
    """
    path = Path(folder) / MANIFEST
    stamp = _stamp(path)
    try:
        data = json.loads(path.read_text())
        if data["format"] != FORMAT:
            raise AdapterFormatError(f"bundle format {data['format']!r}; this version reads {FORMAT} (file: {path})")
        known = {field.name for field in fields(MeteoraConfig)} - set(OF_HOST)
        if unknown := sorted(set(data["config"]) - known):
            raise ValueError(f"config.{unknown[0]} is not known")
        keys = ("name", "gate", "pinned", "sha256")
        adapters = [
            {**{key: adapter[key] for key in keys}, "resident": bool(adapter.get("resident", True))}
            for adapter in data["adapters"]
        ]
        element_size = data.get("element_size", 4)
        for adapter in adapters:
            if adapter["gate"] not in KINDS or not isinstance(adapter["pinned"], bool):
                raise ValueError(f"adapter {adapter['name']!r}: gate {adapter['gate']!r}, pinned {adapter['pinned']!r}")
        if type(element_size) is not int or element_size not in (2, 4, 8):
            raise ValueError(f"element_size is 2, 4 or 8, not {element_size!r}")
        config = MeteoraConfig(**data["config"])
        hashes = data["gates_sha256"], data.get("statistics_sha256"), data.get("flow_sha256")
        names = BundleNames.read(data, [adapter["name"] for adapter in adapters], path)
        return Manifest(config, dict(data["sites"]), adapters, *hashes, element_size, names, stamp)
    except AdapterFormatError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise AdapterFormatError(f"not a meteora bundle: {type(error).__name__}: {error} (file: {path})") from error


def load_bundle(meteora: Meteora, folder: str | Path, manifest: Manifest) -> None:
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
    statistics = None
    if manifest.statistics_sha256 is not None:
        from meteora_rs.gates.fit.kept import KeptStatistics

        _compare_hash("statistics", folder / STATISTICS, manifest.statistics_sha256)
        groups = [group.leader.path for group in meteora.groups]
        vocabulary = meteora.model.get_input_embeddings().num_embeddings  # type: ignore[operator]
        statistics = KeptStatistics.load(folder / STATISTICS, groups, vocabulary)
    flow = None
    if manifest.flow_sha256 is not None:
        from meteora_rs.gates.flow import FlowGate, decoder_layers

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
    meteora.statistics = statistics
    meteora.set_flow_gate(flow)
    manifest.names.give(meteora)
    if _stamp(folder / MANIFEST) != manifest.stamp:  # not everything has a hash in the manifest
        raise AdapterFormatError(f"the bundle was replaced while it was read; read it again (file: {folder})")


def _stamp(path: Path) -> tuple[int, int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino, status.st_mtime_ns


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _shapes(meteora: Meteora) -> dict[str, list[int]]:
    return {site.path: [site.in_features, site.out_features] for site in meteora.sites}


def _compare_sites(meteora: Meteora, manifest: Manifest, path: Path) -> None:
    ours = _shapes(meteora)
    for site in {**manifest.sites, **ours}:
        theirs = manifest.sites.get(site)
        if theirs != ours.get(site):
            raise AdapterFormatError(
                f"the bundle was made for another model: site {site} is {theirs or 'missing'} there and "
                f"{ours.get(site) or 'missing'} here (file: {path})"
            )


def _compare_hash(name: str, path: Path, expected: str) -> None:
    found = _sha256(path)
    if found != expected:
        raise AdapterFormatError(
            f"adapter {name!r}: SHA-256 {found} where the bundle says {expected}: the file was changed (file: {path})"
        )


def _gate_tensors(meteora: Meteora, rows: dict[str, Rows]) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for name, each in rows.items():
        for group in meteora.groups:
            leader, leader_bias = each[group.leader.path]
            for site in group.sites:
                row, bias = each[site.path]
                if site is group.leader or bias != leader_bias or not torch.equal(row, leader):
                    tensors[f"{name}/{site.path}.gate"] = row
                    tensors[f"{name}/{site.path}.gate_bias"] = torch.tensor([bias], dtype=torch.float32)
    return tensors


def _gate_rows(meteora: Meteora, tensors: dict[str, Tensor], path: Path) -> dict[str, Rows]:
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
