"""A gate row for a new adapter from a few examples and what the last fit kept of the others."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch import Tensor

from meteora_rs import _native
from meteora_rs.errors import AdapterInUseError, CapacityError, MeteoraError
from meteora_rs.files.source import AdapterSource
from meteora_rs.gates.fit.beside import Given, rows_beside
from meteora_rs.gates.fit.data import Example, Text, check_texts, make_examples
from meteora_rs.gates.fit.fit import TESTS_PER_CLASS, own_tokenizer
from meteora_rs.gates.fit.keep import kept_texts
from meteora_rs.gates.gated import Gated
from meteora_rs.serving.cancel import Cancellation
from meteora_rs.serving.caution import say
from meteora_rs.serving.load import Load

FEWEST = 8
TOKENS, READ, MAX_LENGTH = 1200, 4000, 512

LOST = 0.2
"""More tokens lost to one other class, or taken from it, than this are worth a warning."""


def load_with_examples(
    meteora: Gated,
    source: AdapterSource,
    name: str,
    texts: Sequence[Text],
    revision: str | None,
    tokenizer: Any,
    *,
    reload: bool,
    if_generation: int | None,
) -> Load:
    """The load of an adapter with a gate row from a few examples of its work (`rows_from_examples`).

    It is written twice: the first time to a slot that no request knows, where the texts are read. So a request sees the
    adapter with its row or not at all, and a failure leaves nothing. Needs a free slot and rows for that first time,
    also in a reload.
    """
    read: list[Example] = []

    def rows(adapter: _native.Adapter, cancellation: Cancellation) -> dict[str, tuple[Tensor, float]]:
        if not meteora._rests(name):
            with contextlib.suppress(CapacityError):  # what is wrong with it is said before its texts are read
                meteora._registry.reserve(adapter, reload, if_generation).abandon()
        cancellation.hold()
        with _seated(meteora, source, name, revision, cancellation) as seat:
            found, read[:] = rows_from_examples(meteora, seat, name, texts, tokenizer, cancellation.check)
        return found

    def published() -> None:  # others may have come meanwhile
        if meteora.kept_texts is not None:
            meteora.kept_texts = meteora.kept_texts.with_class(name, kept_texts(read, 0, name))

    return meteora._load_class(
        meteora, source, name, rows, revision=revision, reload=reload, if_generation=if_generation, published=published
    )


@contextlib.contextmanager
def _seated(
    meteora: Gated, source: AdapterSource, name: str, revision: str | None, cancellation: Cancellation
) -> Iterator[int]:
    """Inside the block the adapter is in a slot that no request knows: which one.

    Raises: as `Load.prepare`, of `name`.
    """
    # What is reserved has its adapter's name, which that of the adapter itself may not be: a reload has it still, and
    # whoever loads, pins or unloads would be refused for as long as texts are read. So it is parsed once more.
    trial = f"trial-{secrets.token_hex(8)}"
    load = meteora._load_class(meteora, source, trial, "none", revision=revision)
    with contextlib.ExitStack() as seat:
        try:
            slot = seat.enter_context(load.check().seated(cancellation))
        except MeteoraError as error:
            error.args = (str(error).replace(trial, name),)
            raise
        yield slot


def rows_from_examples(
    meteora: Gated,
    seat: int,
    name: str,
    texts: Sequence[Text],
    tokenizer: Any,
    check: Callable[[], None] = lambda: None,
) -> tuple[dict[str, tuple[Tensor, float]], list[Example]]:
    """Gate rows from texts of the work of the adapter in the slot `seat`, and these texts as they were read.

    They are read beside the texts that the fit kept of the other classes (`fit.beside.rows_beside`): once, some of
    them, with the adapter itself at work, and then all with the rows just found and the others' in force.
    `check` is called with each batch; what it raises ends the reading.

    Warns:
        UserWarning: the new class can hardly be told from another; or one of the fit's rests in the host's memory, and
            can't be told from it now. Both name the other.

    Raises:
        MeteoraError: no texts are kept: `fit_gates` was never run, or the bundle came without.
        AdapterInUseError: `fit_gates` is running, or has run while the texts were read.
        ValueError: fewer than 8 texts of two tokens, or something that is no text.
    """
    kept = meteora.kept_texts
    if kept is None:
        raise MeteoraError(
            f"adapter {name!r}: a list of examples needs the texts that a fit keeps; run fit_gates(), or load "
            "a bundle saved with them, or give gate='arrow'"
        )
    if meteora._fitting.locked():
        raise AdapterInUseError(f"adapter {name!r}: gates are being fitted; load it with examples when that has ended")
    texts = texts if isinstance(texts, str) else list(texts)
    check_texts(name, texts)
    _require_enough(name, len(texts))
    examples = make_examples(
        {name: texts},
        tokenizer if tokenizer is not None else own_tokenizer(meteora),
        tokens=TOKENS,
        read=READ,
        max_length=MAX_LENGTH,
        tests_per_class=TESTS_PER_CLASS,
        seed=0,
    )
    _require_enough(name, len(examples))
    rows, given = rows_beside(meteora, kept, seat, name, examples, check)
    if meteora.kept_texts is None or not meteora.kept_texts.is_of_the_same_fit(kept):
        raise AdapterInUseError(f"adapter {name!r}: gates were fitted anew while its examples were read; load it again")
    _warn(name, given)
    return rows, examples


def _require_enough(name: str, count: int) -> None:
    if count < FEWEST:
        raise ValueError(f"adapter {name!r}: {count} examples; a gate takes {FEWEST} or more, of two tokens or more")


def _warn(name: str, given: Given) -> None:
    for other in given.resting:
        say(
            f"adapter {name!r}: {other!r} is not on the device, so the new gate has not been told from its texts",
        )
    if not given.lost:
        return
    loser, robbed = max(given.lost, key=given.lost.__getitem__), max(given.taken, key=given.taken.__getitem__)
    lost, taken = given.lost[loser], given.taken[robbed]
    if max(lost, taken) > LOST:
        own, others = f"{lost:.0%} of its tokens go to {loser!r}", f"{taken:.0%} of {robbed!r}'s tokens go to it"
        say(
            f"adapter {name!r}: {own if lost >= taken else others}: few examples can't tell the two apart; "
            "fit_gates() with texts of both, or use one of them by name",
        )
