"""Where a benchmark's numbers go."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


def write(result: Any, kind: str, out: Path | None = None) -> None:
    """Write `result` as JSON to `out`, by default results/<kind>-<date>.json, and say so."""
    out = out or HERE / "results" / f"{kind}-{datetime.date.today()}.json"
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n")
    print(f"wrote {out}")
