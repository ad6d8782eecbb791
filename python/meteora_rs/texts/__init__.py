"""What a model makes of texts: their loss, their tokens."""
