"""What torch can do to a function, and the op can't follow."""

from __future__ import annotations

from torch._C._functorch import TransformType, peek_interpreter_stack
from torch.autograd import forward_ad

from meteora_rs.errors import MeteoraError


def refuse_export() -> None:
    """Refuse to become part of a program that outlives the call (`torch.export`, `torch.jit.trace`).

    It would keep the rows and the routes of now, and compute with whoever gets these rows; or have no adapters at all.

    Raises:
        MeteoraError: always.
    """
    raise MeteoraError(
        "an attached model can't be exported or traced by torch.jit: adapters come and go, and the program would keep "
        "the rows and routes of now; detach() first"
    )


def refuse_transforms() -> None:
    """Refuse to compute inside forward-mode AD or a transform of `torch.func`; ordinary autograd is no transform.

    The op has a gradient, but neither a tangent nor a batching rule: the eager path would lose the adapters' part of
    a tangent in silence, and everything else would fail in torch's words.

    Raises:
        MeteoraError: one of them is in force in this thread.
    """
    transform = peek_interpreter_stack()
    inside = transform is not None and transform.key() != TransformType.Functionalize
    if inside or forward_ad._current_level >= 0:
        raise MeteoraError(
            "adapters have no forward-mode derivative and no rule for torch.func's transforms (grad, jvp, vmap, …): "
            "use reverse-mode autograd (backward(), torch.autograd.grad), or route to '__base__'"
        )
