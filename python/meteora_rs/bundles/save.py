"""Writing a bundle: whole, or not at all."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from meteora_rs.attached.record import AdapterRecord
from meteora_rs.bundles.exchange import exchange
from meteora_rs.bundles.manifest import ADAPTERS, FLOW, FORMAT, GATES, KEPT_TEXTS, MANIFEST, sha256_of, shapes_of
from meteora_rs.bundles.names import BundleNames
from meteora_rs.config import OF_HOST
from meteora_rs.errors import MeteoraError
from meteora_rs.files.peft_folder import live_modules, resting_modules, write_peft_folder
from meteora_rs.files.tensor_file import save_tensors
from meteora_rs.gates.kept import KeptTexts
from meteora_rs.handle.handle import Handle

Rows = dict[str, tuple[Tensor, float]]


def save_bundle(meteora: Handle, folder: str | Path, *, kept_texts: bool) -> None:
    """Write a bundle; an existing one at `folder` is replaced only when the new one is whole, by `exchange`.

    A link is followed: it then leads to the new bundle. The caller keeps adapters from being changed meanwhile.
    With `kept_texts` also those of a fit, if there was one.

    Raises:
        MeteoraError: `folder` is a file or no bundle, holds more than a bundle, or is or holds the working directory.
        OSError: it can't be written.
    """
    target = Path(folder).resolve()
    check_target(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        _write(meteora, scratch, meteora.kept_texts if kept_texts else None)
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
    if others := sorted(found - {MANIFEST, GATES, KEPT_TEXTS, FLOW, ADAPTERS}):
        raise MeteoraError(
            f"{target} holds more than a bundle ({others[0]}), which replacing it would delete; choose another folder"
        )


def _write(meteora: Handle, folder: Path, kept_texts: KeptTexts | None) -> None:
    with meteora._writer:  # what is listed is what is held
        hold, records = meteora._hold()  # the rows stay while they are read
        slots = meteora._given_slots(records)
        resting = meteora.tiers.at_rest() if meteora.tiers is not None else []
        names = BundleNames.of(meteora)
    paths = [path for path, _ in meteora.model.named_modules()]
    adapters = []
    try:
        for record in records:
            modules = live_modules(meteora.sites, record.slot)
            adapters.append(_listed(record, write_peft_folder(modules, folder / ADAPTERS / record.name, paths)))
        rows = {name: meteora._gate_rows(slot) for name, slot in slots.items()}
    finally:
        del hold
    while resting:  # each lets go of the host's memory when it is written
        each = resting.pop(0)
        assert meteora.tiers is not None
        modules = resting_modules(meteora.sites, meteora.tiers.copy_of(each))
        adapters.append(_listed(each.record, write_peft_folder(modules, folder / ADAPTERS / each.record.name, paths)))
        if each.rows is not None:
            rows[each.record.name] = {site.path: row for site, row in zip(meteora.sites, each.rows, strict=True)}
    gates = _gate_tensors(meteora, rows)
    save_tensors(gates, folder / GATES, metadata={"format": "pt"})
    if kept_texts is not None:
        kept_texts.save(folder / KEPT_TEXTS)
    flow = meteora.flow_gate
    if flow is not None:  # its adapters may have been unloaded
        flow = flow.among([each["name"] for each in adapters])
    if flow is not None:
        flow.save(folder / FLOW)
    manifest = {
        "format": FORMAT,
        "config": {key: value for key, value in asdict(meteora.config).items() if key not in OF_HOST},
        "element_size": meteora.element_size,
        "sites": shapes_of(meteora.sites),
        "adapters": adapters,
        **asdict(names),
        "gates_sha256": sha256_of(folder / GATES),
        "statistics_sha256": None if kept_texts is None else sha256_of(folder / KEPT_TEXTS),
        "flow_sha256": None if flow is None else sha256_of(folder / FLOW),
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")


def _listed(record: AdapterRecord, sha256: str) -> dict[str, Any]:
    resident = record.tier == "device"
    return {"name": record.name, "gate": record.gate, "pinned": record.pinned, "resident": resident, "sha256": sha256}


def _gate_tensors(meteora: Handle, rows: dict[str, Rows]) -> dict[str, Tensor]:
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
