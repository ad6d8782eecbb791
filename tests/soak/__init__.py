"""Hours of requests, loads, reloads and faults on a tiny model; afterwards every answer is held against itself alone."""
