"""Other names for adapters: aliases for one, groups for several."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from meteora_rs.errors import AdapterInUseError, AdapterNotFoundError, RouteError
from meteora_rs.routes import GROUP_MARK
from meteora_rs.serving.served import Served


class Naming(Served):
    """Names that stand for others, looked up when a request begins."""

    def set_alias(self, alias: str, adapter_name: str) -> None:
        """Let `alias` stand for an adapter in every route, in one step: requests that run keep what they began with.

        An alias may be set again, to another adapter. No adapter can be loaded under its name, and the adapter that it
        points to can't be unloaded. Changes (reload, unload, pin, gates) take the adapter's own name.

        Raises:
            AdapterFormatError: `alias` is no legal name.
            AdapterInUseError: `alias` is an adapter's name, or `adapter_name` an alias.
            AdapterNotFoundError: no such adapter.
        """
        with self._writer:
            self._require_attached()
            known = self.tiers is not None and self.tiers.knows(adapter_name)
            if self.tiers is not None and self.tiers.knows(alias):
                raise AdapterInUseError(
                    f"adapter {alias!r} is in use: an adapter has this name; an alias takes another"
                )
            self._registry.set_alias(alias, adapter_name, known)
            self._context.refresh()

    def remove_alias(self, alias: str) -> None:
        """Forget an alias.

        Raises:
            AdapterNotFoundError: there is no such alias.
        """
        with self._writer:
            self._require_attached()
            if not self._registry.remove_alias(alias):
                raise AdapterNotFoundError(f"no alias named {alias!r}; there are: {_listed(self.aliases())}")
            self._context.refresh()

    def aliases(self) -> dict[str, str]:
        """Each alias with the adapter that it stands for."""
        return self._registry.aliases()

    def set_group(self, group: str, members: Sequence[str]) -> None:
        """Let `"@group"` stand for adapters, by name or alias, in `Auto(only=…)`; a member need not be loaded yet.

        Raises:
            AdapterFormatError: the group's or a member's name is no legal one.
            RouteError: no members, or a string in the place of a list.
        """
        if not isinstance(group, str):
            raise RouteError(f"a group's name is a string, not {group!r}")
        if isinstance(members, str) or not isinstance(members, Collection):
            raise RouteError(f"group {group!r}: its members are a list of names, not {members!r}")
        with self._writer:
            self._require_attached()
            self._registry.set_group(group.removeprefix(GROUP_MARK), list(members))
            self._context.refresh()

    def remove_group(self, group: str) -> None:
        """Forget a group.

        Raises:
            RouteError: there is no such group.
        """
        with self._writer:
            self._require_attached()
            if not self._registry.remove_group(group.removeprefix(GROUP_MARK)):
                raise RouteError(f"no group named {group!r}; there are: {_listed(self.adapter_groups())}")
            self._context.refresh()

    def adapter_groups(self) -> dict[str, list[str]]:
        """Each group with its members."""
        return self._registry.groups()


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"
