"""Gates fitted in closed form, from examples of each adapter's work, without back-propagation."""

from .fit import fit_gates
from .report import FitReport, PassReport

__all__ = ["FitReport", "PassReport", "fit_gates"]
