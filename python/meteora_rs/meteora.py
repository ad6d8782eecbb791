"""An attached model: load adapters, route requests, look at what happened, save it."""

from __future__ import annotations

from pathlib import Path

from meteora_rs.handle.handle import Handle


class Meteora(Handle):
    """The handle that `attach` returns; one for each model."""

    def save_pretrained(self, folder: str | Path, *, kept_texts: bool = True) -> None:
        """Write adapters, gates and config as a bundle that `attach_pretrained` reads (see `meteora_rs.bundles`).

        With `kept_texts` also those that the last fit kept, if there was one: `load_adapter(gate=[…])` needs them.
        Requests, loads and unloads go on meanwhile; what is written is what was live or registered at the start.

        Raises:
            AdapterInUseError: an adapter is being reloaded in its own place; save again when that has ended.
            AdapterFormatError: a registered adapter had to be read again, and its files have changed.
            MeteoraError: `folder` exists and is no bundle, or holds more than one; it is, or holds, the working
                directory; or this handle was detached.
            OSError: it can't be written.
        """
        from meteora_rs.bundles.save import save_bundle

        self._require_attached()
        save_bundle(self, folder, kept_texts=kept_texts)

    def detach(self) -> None:
        """Give the model back, bit for bit what it was; this handle is of no use afterwards."""
        with self._writer:
            self._patch.remove()
        self._loaders.shutdown(wait=False)
        self._admitting.shutdown(wait=False)
