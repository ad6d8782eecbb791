"""Requests, loads and faults for hours on a tiny model; afterwards every answer is held against itself alone."""
