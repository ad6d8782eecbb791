"""Gate rows that the caller brings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from meteora_rs.errors import AdapterFormatError
from meteora_rs.gate_kinds.gate import Gate
from meteora_rs.sites.site import Site

LARGEST = torch.finfo(torch.float32).max

Row = Tensor | tuple[Tensor, float]


class TensorGate(Gate):
    """One row for each site: `{path: tensor [in]}` or `{path: (tensor [in], bias)}`, logit = row · x + bias.

    A path may be that of a site or of the leader of its input group, whose row then serves the whole group. Rows
    are cast to float32.

    Raises:
        AdapterFormatError: a path that is no site, a site without a row, a wrong shape, a value that is not finite.
    """

    def __init__(self, name: str, rows: Mapping[str, Row], sites: Sequence[Site], kind: str = "tensors") -> None:
        super().__init__(sites)
        self.kind = kind
        paths = {site.path: site for site in sites}
        leaders = {site.group: site.path for site in sites if site.leads}
        unknown = sorted(set(rows) - set(paths))
        if unknown:
            raise AdapterFormatError(f"adapter {name!r}: gate for {unknown[0]!r}, which is no site of the model")
        checked = {path: _check(name, path, row, paths[path].in_features) for path, row in rows.items()}
        self._rows: list[tuple[Tensor, float]] = []
        for site in sites:
            row = checked.get(site.path) or checked.get(leaders[site.group])
            if row is None:
                raise AdapterFormatError(f"adapter {name!r}: no gate row for site {site.path!r} or its input group")
            self._rows.append(row)

    def parts(self) -> tuple[list[tuple[int, float, bool]], None]:
        """The rows, by address."""
        return [(row.data_ptr(), bias, False) for row, bias in self._rows], None


def _check(name: str, path: str, value: Row, width: int) -> tuple[Tensor, float]:
    row, bias = value if isinstance(value, tuple) and len(value) == 2 else (value, 0.0)
    if not isinstance(row, Tensor) or tuple(row.shape) != (width,) or not row.is_floating_point():
        found = f"{row.dtype} {tuple(row.shape)}" if isinstance(row, Tensor) else type(row).__name__
        raise AdapterFormatError(f"adapter {name!r}: gate of {path}: a float tensor of shape ({width},), not {found}")
    row = row.detach().to("cpu", torch.float32).contiguous()
    try:
        bias = float(bias)
    except (TypeError, ValueError):
        raise AdapterFormatError(f"adapter {name!r}: gate of {path}: the bias is {bias!r}, no number") from None
    if not bool(torch.isfinite(row).all()) or not abs(bias) <= LARGEST:
        raise AdapterFormatError(f"adapter {name!r}: gate of {path}: a value that is not finite in float32")
    return row, bias
