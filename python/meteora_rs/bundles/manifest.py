"""What a bundle says of itself: `meteora.json`."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from meteora_rs.attached.record import GIVEN
from meteora_rs.bundles.names import BundleNames
from meteora_rs.config import LARGEST_POOL, OF_HOST, MeteoraConfig
from meteora_rs.errors import AdapterFormatError
from meteora_rs.sites.site import Site

FORMAT = 1
MANIFEST, GATES, ADAPTERS = "meteora.json", "gates.safetensors", "adapters"
KEPT_TEXTS, FLOW = "statistics.safetensors", "flow.safetensors"
"""The former has its name, here and in the manifest, from when a fit kept sums: bundles are not written anew for it."""

KINDS = ("none", "arrow", *GIVEN)
"""Of gates."""


@dataclass(frozen=True)
class Manifest:
    """What `meteora.json` says."""

    config: MeteoraConfig
    sites: dict[str, list[int]]
    adapters: list[dict[str, Any]]
    gates_sha256: str
    kept_texts_sha256: str | None
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


def read_manifest(folder: str | Path) -> Manifest:
    """The checked `meteora.json` of a bundle.

    Raises:
        AdapterFormatError: not a bundle, another format version, or a field that is missing or wrong.
        OSError: it can't be read.
    """
    path = Path(folder) / MANIFEST
    stamp = stamp_of(path)
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


def stamp_of(path: Path) -> tuple[int, int, int]:
    """What changes when another file takes this one's place, or it is written."""
    status = os.stat(path)
    return status.st_dev, status.st_ino, status.st_mtime_ns


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def shapes_of(sites: Sequence[Site]) -> dict[str, list[int]]:
    """The shape of each site, `[in, out]`, by its path."""
    return {site.path: [site.in_features, site.out_features] for site in sites}
