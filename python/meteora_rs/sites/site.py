"""One adapted linear's state: what of an adapter lies where."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from mmap import MAP_ANONYMOUS, MAP_PRIVATE, mmap

import torch
from torch import Tensor, nn

from meteora_rs import _native
from meteora_rs.errors import MeteoraError

CPU = -1
"""The place of the CPU; a CUDA device's is its index, as `Tensor.get_device()` says."""


class Site(nn.Module):
    """The gate, the pools and the table of one linear, as torch buffers at fixed addresses.

    `gate [slots, in] f32`, `gate_bias [slots] f32`, `lora_A [bytes] u8`, `lora_B_packed [bytes] u8`,
    `table [slots, 4] i32` (rust/core/src/layout.rs), `gate_screen [slots, bytes] u8` (rust/core/src/kernel/screen.rs;
    gates are written by `_native.write_gates`, which keeps both). None is in a `state_dict`; they begin on the
    linear's device, and `.to(device)` moves them, while `.half()` and the like leave them as they are: adapters keep
    their own dtype.
    """

    gate: Tensor
    gate_bias: Tensor
    gate_screen: Tensor
    lora_A: Tensor
    lora_B_packed: Tensor
    table: Tensor

    def __init__(
        self,
        path: str,
        index: int,
        group: int,
        leads: bool,
        module: nn.Linear,
        registry: _native.Registry,
    ) -> None:
        super().__init__()
        self.path, self.index, self.group, self.leads = path, index, group, leads
        self.in_features, self.out_features = module.in_features, module.out_features
        slots, pages = registry.slots, registry.pages
        self.kernel = _native.SiteKernel(registry, index, group, leads, self.in_features, self.out_features)
        bytes_per_column = pages * _native.PAGE_BYTES_PER_COLUMN
        # In the order in which the kernel takes their addresses.
        self._forms: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {
            "gate": (torch.float32, (slots, self.in_features)),
            "gate_bias": (torch.float32, (slots,)),
            "gate_screen": (torch.uint8, (slots, self.kernel.screen_stride)),
            "lora_A": (torch.uint8, (bytes_per_column * self.in_features,)),
            "lora_B_packed": (torch.uint8, (bytes_per_column * self.out_features,)),
            "table": (torch.int32, (slots, 4)),
        }
        device = execution_device(module)
        with torch.inference_mode(False):  # else the buffers could only be written in that mode
            for name, (dtype, shape) in self._forms.items():
                large = dtype == torch.uint8
                zeros = _untouched(shape, device) if large else torch.zeros(shape, dtype=dtype, device=device)
                self.register_buffer(name, zeros, persistent=False)
        self._bind()

    def _bind(self) -> None:
        """Look the buffers' addresses up anew, and load the kernels where they are a CUDA device's.

        Raises:
            MeteoraError: a buffer is not what the kernels read at its address.
        """
        buffers = [getattr(self, name) for name in self._forms]
        for (name, (dtype, shape)), buffer in zip(self._forms.items(), buffers, strict=True):
            if buffer.dtype != dtype or buffer.shape != shape or not buffer.is_contiguous():
                found = f"{buffer.dtype} {list(buffer.shape)}" + ("" if buffer.is_contiguous() else ", not contiguous")
                self.kernel.unbind()
                raise MeteoraError(f"{self.path}: {name}: expected {dtype} {list(shape)}, contiguous, found {found}")
        devices = {(b.device.type, b.device.index) for b in buffers}
        kind, index = devices.pop() if len(devices) == 1 else ("several", None)
        self.place: int | None = {"cpu": CPU, "cuda": index}.get(kind)
        if self.place is None:
            self.kernel.unbind()
        else:
            # What torch has written there, moving the buffers, comes before what loads write on another stream.
            if kind == "cuda":
                torch.cuda.current_stream(index).synchronize()
            self.kernel.bind(index, *(b.data_ptr() for b in buffers))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Site:
        # Of what `fn` does, only the move: not a cast, by .half() or .type(dtype), nor the emptying of .to_empty().
        for name in self._forms:
            buffer = getattr(self, name)
            moved = fn(torch.empty(0, dtype=torch.int32, device=buffer.device)).device
            self._buffers[name] = buffer.to(moved)
        self._bind()
        return self


def _untouched(shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Zero bytes, which on the CPU take memory only where they are written.

    Mapped rather than `torch.zeros`, which clears what the allocator had before: that made loading 28 adapters cost
    twice their bytes.
    """
    if device.type != "cpu":
        return torch.zeros(shape, dtype=torch.uint8, device=device)
    memory = mmap(-1, prod(shape), flags=MAP_PRIVATE | MAP_ANONYMOUS)
    return torch.frombuffer(memory, dtype=torch.uint8).view(shape)


def execution_device(module: nn.Linear) -> torch.device:
    """Where a linear computes: at its weight, or where accelerate brings an offloaded weight."""
    device = module.weight.device
    if device.type != "meta":
        return device
    planned = getattr(getattr(module, "_hf_hook", None), "execution_device", None)
    return torch.device("cpu" if planned is None else planned)
