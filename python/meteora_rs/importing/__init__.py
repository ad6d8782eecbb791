"""Other projects' checkpoints, turned into bundles: one file for each kind."""

from .official import import_official

__all__ = ["import_official"]
