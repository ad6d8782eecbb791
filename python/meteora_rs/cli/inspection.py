"""What `meteora inspect` finds, as data and as lines."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

from meteora_rs import MeteoraConfig, _native
from meteora_rs.bundles.manifest import ADAPTERS, read_manifest
from meteora_rs.cli.loading import is_bundle, split_name
from meteora_rs.cli.shapes import empty_model, model_name
from meteora_rs.errors import AdapterFormatError, MeteoraError
from meteora_rs.files.source import resolve_folder
from meteora_rs.sites.architecture import find_sites

Module: TypeAlias = tuple[str, int, float, str]
"""(path, rank, scaling, dtype) of an adapted linear."""


@dataclass(frozen=True)
class AdapterFinding:
    """One adapter: whether it loads, and what was read of it; `reason` says why it does not load."""

    name: str
    source: str
    reason: str | None
    rank: int = 0
    bytes: int = 0
    base_model: str | None = None
    modules: tuple[Module, ...] = ()

    def lines(self, site_count: int) -> Iterator[str]:
        """The finding as text."""
        yield f"{self.name}: {'loads' if self.reason is None else 'does not load'} ({self.source})"
        if self.reason is not None:
            yield f"  why not: {self.reason}"
        if not self.modules:
            return
        yield f"  trained for: {self.base_model or 'not said'}"
        yield f"  rank {self.rank}, {self.bytes / 2**20:.1f} MiB"
        yield f"  on {len(self.modules)} of {site_count} linears:"
        for kind, count in projections(self.modules).items():
            yield f"    {count:>3} of {kind}"


@dataclass(frozen=True)
class Finding:
    """What a path holds: one PEFT adapter or a bundle of them, held against a model's shapes."""

    kind: str
    path: str
    model: str
    site_count: int
    adapters: list[AdapterFinding]

    @property
    def loads(self) -> bool:
        """Whether every adapter loads."""
        return all(adapter.reason is None for adapter in self.adapters)

    def as_dict(self) -> dict[str, Any]:
        """The finding for JSON."""
        return {**asdict(self), "loads": self.loads}

    def lines(self) -> Iterator[str]:
        """The finding as text."""
        yield f"{self.path}: {self.kind}"
        yield f"model: {self.model}, {self.site_count} linears"
        for adapter in self.adapters:
            yield ""
            yield from adapter.lines(self.site_count)


def inspect_path(path: str, model: str | None) -> Finding:
    """Hold the adapter or bundle at `path` against `model`'s shapes.

    Raises:
        MeteoraError: the model has no linear to adapt, or a bundle's manifest is malformed.
        OSError: `path` or the model's config can't be read.
    """
    empty = empty_model(model)
    infos = find_sites(empty)
    linears = [empty.get_submodule(info.path) for info in infos]
    shapes = [(i.path, m.in_features, m.out_features, i.layer) for i, m in zip(infos, linears, strict=True)]
    if is_bundle(path):
        kind, sources = "a bundle", bundle_sources(path)
    else:
        kind, sources = "a PEFT adapter", {usable_name(path): path}
    adapters = [inspect_adapter(name, source, shapes) for name, source in sources.items()]
    return Finding(kind, path, model_name(model), len(shapes), adapters)


def inspect_adapter(name: str, source: str, shapes: list[tuple[str, int, int, int]]) -> AdapterFinding:
    """Parse one adapter as `load_adapter` would, and see whether it fits into default pools."""
    config = MeteoraConfig()
    registry = _native.Registry(config.max_adapters, config.pool_rank, 4, shapes)
    try:
        adapter = registry.parse_folder(name, str(resolve_folder(source)))
    except MeteoraError as error:
        return AdapterFinding(name, source, str(error))
    reason = None
    try:
        registry.reserve(adapter, False, None).abandon()
    except MeteoraError as error:
        reason = f"with MeteoraConfig's defaults: {error}"
    modules = tuple(adapter.modules())
    return AdapterFinding(name, source, reason, adapter.rank, adapter.bytes, adapter.base_model, modules)


def projections(modules: tuple[Module, ...]) -> Counter[str]:
    """How many linears of each kind: the path without its layer's number, with rank, scaling and dtype."""
    kinds: Counter[str] = Counter()
    for path, rank, scaling, dtype in modules:
        kinds[f"{re.sub(r'[.][0-9]+[.]', '.*.', path)}, rank {rank}, scaling {scaling:g}, {dtype}"] += 1
    return kinds


def bundle_sources(path: str) -> dict[str, str]:
    """The folder of each adapter of a bundle."""
    names = [adapter["name"] for adapter in read_manifest(path).adapters]
    return {name: str(Path(path) / ADAPTERS / name) for name in names}


def usable_name(path: str) -> str:
    """A name for the adapter at `path`: its last part, or `adapter` where that is no name."""
    name = split_name(path.replace("=", "-"))[0]
    try:
        _native.check_name(name)
    except AdapterFormatError:
        return "adapter"
    return name
