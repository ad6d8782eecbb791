"""How large an adapter may be."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Limits:
    """Sizes beyond which an adapter is refused before anything is allocated for it; no real adapter reaches one.

    Args:
        max_file_bytes: of `adapter_model.safetensors`, or of all the tensors of an adapter in memory.
        max_header_bytes: of the safetensors header; it grows some 16-fold when it is parsed.
        max_config_bytes: of `adapter_config.json`.
        max_rank: of one module.
        max_tensors: of one adapter.
        max_json_depth: levels of lists and objects in the config and the header, at most 127.
        max_patterns: entries of `target_modules`, `rank_pattern`, `alpha_pattern` and the like, each.

    Raises:
        ValueError: a field is no positive integer.
    """

    max_file_bytes: int = 16 << 30
    max_header_bytes: int = 4 << 20
    max_config_bytes: int = 1 << 20
    max_rank: int = 4096
    max_tensors: int = 32_768
    max_json_depth: int = 32
    max_patterns: int = 4096

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            most = _most(field.name)
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
                raise ValueError(f"{field.name} must be an integer from 1 to {most}, not {value!r}")


def _most(field: str) -> int:
    """The largest value of a field: JSON parsers go no deeper."""
    return 127 if field == "max_json_depth" else 1 << 62


LARGEST = Limits(**{field.name: _most(field.name) for field in fields(Limits)})
"""For what is no stranger's."""
