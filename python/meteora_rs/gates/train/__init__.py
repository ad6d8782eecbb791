"""Gates trained by back-propagation: language-model loss + beta · gate loss, the base and the adapters frozen."""

from .report import TrainReport
from .train import train_gates

__all__ = ["TrainReport", "train_gates"]
