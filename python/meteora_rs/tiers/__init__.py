"""More adapters than the pools hold: registered, kept in the host's memory, brought in when a request asks for them."""

from meteora_rs.tiers.admission import Admission
from meteora_rs.tiers.tiers import Tiers

__all__ = ["Admission", "Tiers"]
