"""`python -m meteora_rs.cli` is `meteora`."""

import sys

from meteora_rs.cli import main

sys.exit(main())
