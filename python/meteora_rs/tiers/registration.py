"""Where a registered adapter came from."""

from __future__ import annotations

from dataclasses import dataclass

from meteora_rs import _native
from meteora_rs.attached.record import AdapterRecord
from meteora_rs.files.source import AdapterSource


@dataclass(frozen=True)
class Registration:
    """Where an adapter came from: with it, what the host has no room for can be read again.

    `folder` is None for an adapter from memory; `stamp` is that of the files that were read.
    """

    folder: AdapterSource | None
    revision: str | None
    stamp: str | None
    record: AdapterRecord


@dataclass(frozen=True)
class Copy:
    """An adapter packed in the host's memory, and not kept yet; who does not keep it abandons it.

    Left to the garbage collector, a refused call whose traceback is kept would keep the bytes.
    """

    native: _native.HostCopy
    registration: Registration
