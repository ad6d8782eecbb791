"""Speed of meteora-rs as ratios to the base and to peers, all measured in one run."""
