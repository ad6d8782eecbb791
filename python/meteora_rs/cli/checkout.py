"""Folders of the source checkout, which wheels leave out."""

from __future__ import annotations

from pathlib import Path


def folder(name: str) -> Path:
    """Return the checkout's folder `name`, from the working directory or from where the package lies.

    Raises:
        FileNotFoundError: there is none; run from a source checkout.
    """
    for root in (Path.cwd(), Path(__file__).resolve().parents[3]):
        if (root / "pyproject.toml").is_file() and (root / name).is_dir():
            return root / name
    raise FileNotFoundError(f"no folder {name}/ here: this needs a source checkout of meteora-rs")
