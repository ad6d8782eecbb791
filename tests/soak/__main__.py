"""`python -m soak` in tests/: SOAK_SECONDS (3600) of everything, half of them with a host tier; then 10,000 loads and
unloads; prints a report."""

from __future__ import annotations

import dataclasses
import json
import os
import tempfile
import time
from pathlib import Path

from soak.cycles import cycles
from soak.run import POOLS, TIERS, Soak

CYCLES = 10_000


def main() -> None:
    """Soak, print, and fail where memory grows."""
    seconds = float(os.environ.get("SOAK_SECONDS", "3600"))
    seed = int(os.environ.get("SOAK_SEED", str(int(time.time()))))
    print(f"SOAK_SEED={seed} SOAK_SECONDS={seconds:.0f}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for number, config in enumerate((POOLS, TIERS)):
            report = Soak(Path(folder) / str(number), seed, config).run(seconds / 2, generating=3, loading=3)
            print(json.dumps(dataclasses.asdict(report), indent=1), flush=True)
            assert report.rss_growth <= max(8 << 20, 3 * report.rss_noise), "memory grows"
        took, answers = cycles(Path(folder), CYCLES)
        print(f"{CYCLES} loads and unloads beside a running generation ({answers} answers): {took:.1f} s")


if __name__ == "__main__":
    main()
