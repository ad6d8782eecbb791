"""What of a model is adapted: which linears, their buffers, and which of them have one input."""
