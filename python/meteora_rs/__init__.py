"""meteora-rs: serve many LoRA adapters on one model; the model chooses, token by token and layer by layer."""

from meteora_rs import errors
from meteora_rs.attach import attach, attach_pretrained
from meteora_rs.attached.record import AdapterRecord
from meteora_rs.config import MeteoraConfig
from meteora_rs.handle.stats import Stats
from meteora_rs.importing import import_official
from meteora_rs.limits import Limits
from meteora_rs.meteora import Meteora
from meteora_rs.routes import BASE, Auto, Mix, Route
from meteora_rs.routing.leases import HeldSnapshot
from meteora_rs.routing.trace import Trace
from meteora_rs.serving.unloading import Unloaded

__all__ = [
    "BASE",
    "AdapterRecord",
    "Auto",
    "HeldSnapshot",
    "Limits",
    "Meteora",
    "MeteoraConfig",
    "Mix",
    "Route",
    "Stats",
    "Trace",
    "Unloaded",
    "attach",
    "attach_pretrained",
    "errors",
    "import_official",
]
