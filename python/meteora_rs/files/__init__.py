"""Adapters outside of a model: where they come from, and written back."""
