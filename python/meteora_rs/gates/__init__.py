"""Gates that are made from texts: fitted, trained, or of a few examples; and how they are tried."""
