"""Correctness and speed on a CUDA card: `run.sh` runs all of it."""
