"""What meteora-rs raises; I/O errors stay `OSError`."""


class MeteoraError(Exception):
    """Base of everything that meteora-rs raises on purpose."""


class AdapterNotFoundError(MeteoraError, KeyError):
    """No live adapter has this name; the message lists the names that exist."""

    def __str__(self) -> str:  # KeyError would print the repr of the message
        return str(self.args[0]) if self.args else ""


class AdapterFormatError(MeteoraError, ValueError):
    """The adapter's name, config or tensors are malformed or do not fit the model."""


class AdapterUnsupportedError(MeteoraError, ValueError):
    """The adapter uses a PEFT option that would change its result and is not supported."""


class AdapterInUseError(MeteoraError):
    """The operation is forbidden while the name is taken or a running request holds the adapter."""


class CapacityError(MeteoraError):
    """No room: the message says what is needed, what is free and what is pinned."""


class RouteError(MeteoraError, ValueError):
    """The route can't be followed: a bad weight, an empty list, or rows that do not match the batch."""
