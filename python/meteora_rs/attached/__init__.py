"""A model that is attached: what changes in it, and its state."""
