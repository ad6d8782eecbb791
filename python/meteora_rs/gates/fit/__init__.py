"""Gates fitted in closed form, from examples of each adapter's work, without back-propagation."""

from .fit import fit_gates
from .general import general_texts
from .report import FitReport, PassReport, Twins

__all__ = ["FitReport", "PassReport", "Twins", "fit_gates", "general_texts"]
