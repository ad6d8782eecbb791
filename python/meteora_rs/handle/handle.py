"""All parts of the handle together."""

from __future__ import annotations

from meteora_rs.handle.awaiting import Awaiting
from meteora_rs.handle.naming import Naming
from meteora_rs.handle.stats import Accounts
from meteora_rs.handle.training import Training
from meteora_rs.handle.verifying import Verifying
from meteora_rs.handle.watching import Watching


class Handle(Awaiting, Training, Naming, Watching, Verifying, Accounts):
    """All that an attached model can do, but be saved."""
