"""Where an adapter comes from: a folder, a hub id, or memory."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from meteora_rs import _native
from meteora_rs.errors import AdapterFormatError

FILES = ("adapter_config.json", "adapter_model.safetensors")

MEMORY = "<memory>"
"""What stands for the folder of an adapter that came from none."""

AdapterSource: TypeAlias = str | os.PathLike[str] | Mapping[str, Any]


def parse(registry: _native.Registry, source: AdapterSource, name: str, revision: str | None = None) -> _native.Adapter:
    """The checked adapter of `source`: a PEFT folder, a hub id, or `{"config": …, "tensors": state_dict}`.

    Where the registry has an adapter root, folders are found beneath it, and there are no hub ids.

    Raises:
        AdapterFormatError: the name, the config or a tensor is malformed or does not fit the model.
        AdapterUnsupportedError: an option of PEFT's that would change the result and is not supported.
        ValueError: a revision of what is no hub id.
        PermissionError: the path leads out of the adapter root.
        OSError: the files can't be read or the hub can't be reached.
    """
    _native.check_name(name)
    if isinstance(source, Mapping):
        _no_revision("an adapter in memory", revision)
        return _parse_memory(registry, source, name)
    if registry.has_root:
        _no_revision(f"a folder beneath the adapter root ({os.fspath(source)})", revision)
        return registry.parse_folder(name, os.fspath(source))
    return registry.parse_folder(name, str(resolve_folder(source, revision)))


def resolve_folder(source: str | os.PathLike[str], revision: str | None = None) -> Path:
    """The local folder of `source`; hub ids, always strings, are fetched by huggingface_hub, offline from its cache.

    Raises:
        ValueError: a revision of a folder.
        FileNotFoundError: no such folder, and no hub id, or the hub's error.
    """
    folder = Path(source)
    if folder.exists():
        _no_revision(f"the folder {folder}", revision)
        return folder
    text = os.fspath(source)
    if not isinstance(source, str) or text.count("/") > 1 or text.startswith((".", "/", "~", os.sep)) or "\\" in text:
        raise FileNotFoundError(f"no such adapter folder: {text}")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        return Path(snapshot_download(text, revision=revision, allow_patterns=list(FILES)))
    except HFValidationError as error:
        raise FileNotFoundError(f"neither an adapter folder nor a hub id: {text}") from error
    except OSError as error:
        raise FileNotFoundError(
            f"no such adapter folder: {text}; nor could it be fetched from the hub: {type(error).__name__}: {error}"
        ) from error


def _no_revision(what: str, revision: str | None) -> None:
    if revision is not None:
        raise ValueError(f"revision={revision!r} is of a hub id; {what} has no revisions")


def _parse_memory(registry: _native.Registry, source: Mapping[str, Any], name: str) -> _native.Adapter:
    if set(source) != {"config", "tensors"}:
        raise AdapterFormatError(
            f'adapter {name!r}: an adapter in memory is {{"config": …, "tensors": state_dict}}, '
            f"not a dict with the keys {sorted(map(str, source))}"
        )
    config = source["config"]
    if hasattr(config, "to_dict"):
        config = config.to_dict()
    try:
        text = config if isinstance(config, str) else json.dumps(dict(config), default=_plain)
        given = {str(key): value for key, value in dict(source["tensors"]).items()}
        registry.check_sizes(name, len(given), sum(map(_nbytes, given.values())))  # before they are copied
        tensors = {key: _plain_tensor(value) for key, value in given.items()}
    except AdapterFormatError:
        raise
    except (TypeError, ValueError, RuntimeError) as error:  # RuntimeError: torch, of a tensor that has no plain data
        raise AdapterFormatError(f"adapter {name!r}: {error} (file: {MEMORY})") from error
    # By address: they are copied without the GIL, and live until then.
    parts = [(key, _dtype(x), list(x.shape), x.data_ptr(), x.nbytes) for key, x in tensors.items()]
    return registry.parse_memory(name, text, parts)


def _nbytes(value: Any) -> int:
    return value.numel() * value.element_size() if isinstance(value, Tensor) else 0


def _plain_tensor(value: Any) -> Tensor:
    if not isinstance(value, Tensor):
        raise TypeError(f"the values of 'tensors' are torch tensors, not {type(value).__name__}")
    tensor = value.detach().cpu().resolve_conj().resolve_neg().contiguous()
    tensor.data_ptr()  # a tensor of another kind (sparse, meta) has none, and says so here or is refused below
    if tensor.layout != torch.strided or tensor.device.type != "cpu":
        raise TypeError(f"a {tensor.device.type} tensor of layout {tensor.layout} has no plain data")
    return tensor


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _plain(value: Any) -> Any:
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    if isinstance(value, Enum):
        return value.value
    raise TypeError(f"the config holds {value!r}, which is not JSON")
