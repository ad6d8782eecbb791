"""Aliases and groups in a bundle's `meteora.json`."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from meteora_rs import _native
from meteora_rs.errors import AdapterFormatError
from meteora_rs.handle.naming import Naming


@dataclass(frozen=True)
class BundleNames:
    """The names in a bundle that stand for others."""

    aliases: dict[str, str] = field(default_factory=dict)
    groups: dict[str, list[str]] = field(default_factory=dict)

    @classmethod
    def of(cls, meteora: Naming) -> BundleNames:
        """Those that there are now."""
        return cls(meteora.aliases(), meteora.adapter_groups())

    @classmethod
    def read(cls, manifest: Mapping[str, Any], adapters: Collection[str], path: Path) -> BundleNames:
        """Those of a manifest whose bundle has these adapters; bundles did not always have any.

        Raises:
            AdapterFormatError: a name is no legal one, an alias stands for no adapter of the bundle or has the name of
                one, or a group is no list of names.
        """
        aliases, groups = manifest.get("aliases", {}), manifest.get("groups", {})
        if not isinstance(aliases, dict) or not isinstance(groups, dict):
            raise AdapterFormatError(f"aliases and groups are objects (file: {path})")
        for alias, target in aliases.items():
            _check(f"alias {alias!r}", [alias], path)
            if alias in adapters:
                raise AdapterFormatError(f"alias {alias!r}: an adapter of the bundle has this name (file: {path})")
            if not isinstance(target, str) or target not in adapters:
                raise AdapterFormatError(f"alias {alias!r}: the bundle has no adapter {target!r} (file: {path})")
        for group, members in groups.items():
            if not isinstance(members, list) or not members:
                raise AdapterFormatError(f"group {group!r}: its members are a list of names (file: {path})")
            _check(f"group {group!r}", [group, *members], path)
        return cls(aliases, groups)

    def give(self, meteora: Naming) -> None:
        """Let them stand for the adapters of `meteora`. Raises: as `set_alias` and `set_group`."""
        for alias, adapter in self.aliases.items():
            meteora.set_alias(alias, adapter)
        for group, members in self.groups.items():
            meteora.set_group(group, members)


def _check(what: str, names: list[Any], path: Path) -> None:
    for name in names:
        try:
            _native.check_name(name)
        except (AdapterFormatError, TypeError) as error:
            raise AdapterFormatError(f"{what}: {name!r} is no legal name (file: {path})") from error
