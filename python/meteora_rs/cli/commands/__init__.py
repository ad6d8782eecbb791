"""One module for each command; see `meteora_rs.cli.Command`."""
