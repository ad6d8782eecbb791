"""The op: its specification, its gradient and the memory layout that they read."""
