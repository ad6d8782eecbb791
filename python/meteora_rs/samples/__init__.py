"""Sample models, fetched once into a cache folder."""

from meteora_rs.samples.cache import cache_folder
from meteora_rs.samples.smollm2 import smollm2_path

__all__ = ["cache_folder", "smollm2_path"]
