"""An evaluation: every task, answered in every way, scored."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from meteora_rs.errors import MeteoraError
from meteora_rs.routes import Auto, Route
from meteora_rs.texts.loss import response_losses
from meteora_rs.texts.packing import packed

from .answers import AnswerFile
from .arrow import arrow_gates
from .fingerprint import fingerprint
from .generate import answer_batch
from .metrics import make
from .report import Report
from .scoring import build
from .tasks import Item, Task
from .variants import DEFAULT, OWN, Chosen, Gates, Router, Variant, router

if TYPE_CHECKING:
    from meteora_rs.meteora import Meteora


def evaluate(
    meteora: Meteora,
    tasks: Sequence[Task],
    folder: str | Path,
    *,
    tokenizer: Any,
    variants: Mapping[str, Variant] = DEFAULT,
    max_new_tokens: int = 64,
    task_max_new_tokens: Mapping[str, int] | None = None,
    batch_tokens: int = 4096,
    loss: bool = False,
    complete: bool = False,
    resamples: int = 1000,
    seed: int = 0,
    progress: bool = True,
) -> Report:
    """Answer every task greedily in every variant, score the answers, and write `report.json` and `report.html`.

    Answers are kept in `folder`, one file for each variant, and not made again: an evaluation that was stopped goes
    on where it was, and one with more items, tasks or variants adds to what is there.

    Args:
        meteora: attached, with the adapters that the variants name.
        tasks: see `read_tasks`.
        folder: for answers and reports; made if missing.
        tokenizer: of the model, with a pad token.
        variants: by name; `OWN` is each task's own adapter.
        max_new_tokens: for each question, so that an answer to a composite of n may have n times as many.
        task_max_new_tokens: for a whole answer, for the tasks that it names.
        batch_tokens: prompts and answers of a batch take at most so many together.
        loss: also the language-model loss on the responses of tasks that are not composite.
        complete: an answer to a composite can't end before its last question's number has come: an end before is read
            as a line break, in all variants alike. For adapters that have learnt to stop after one answer.
        resamples: for the bootstrap intervals; `seed` draws them.

    Raises:
        MeteoraError: no task or variant, a variant that answers no task, answers of another model, adapters or gates
            in `folder`, a package that a metric needs is missing, or the tokenizer can't pad.
        AdapterNotFoundError: a variant names an adapter that is not live.
        OSError: `folder` can't be written.
    """
    if not tasks or not variants:
        raise MeteoraError("evaluate: at least one task and one variant are needed")
    if tokenizer.pad_token_id is None:
        raise MeteoraError("evaluate: the tokenizer has no pad token; set tokenizer.pad_token = tokenizer.eos_token")
    metrics = make(name for task in tasks for part in task.parts or (task.name,) for name in task.metrics_of(part))
    adapters = [record.name for record in meteora.adapters()]
    routers = {
        (task.name, name): found
        for task in tasks
        for name, variant in variants.items()
        if (found := router(variant, task, adapters)) is not None
    }
    for name in variants:
        if not any(variant == name for _, variant in routers):
            raise MeteoraError(f"variant {name!r} answers no task: none has an adapter of its name")
    for task in tasks:
        for name, variant in variants.items():
            if (task.name, name) in routers:
                _check(meteora, task, variant, routers[task.name, name])
    limits = {task.name: max_new_tokens * max(1, len(task.parts)) for task in tasks} | dict(task_max_new_tokens or {})
    folder = Path(folder)
    files = {name: AnswerFile(folder / "answers", name, fingerprint(meteora, each)) for name, each in variants.items()}
    work = Work(meteora, tokenizer, batch_tokens, loss, complete)
    total = sum(len(task.items) for task in tasks for name in variants if (task.name, name) in routers)
    with tqdm(total=total, unit="answer", disable=not progress) as bar:
        for task in tasks:
            limit = limits[task.name]
            for name, variant in variants.items():
                if (task.name, name) in routers:
                    bar.set_description(f"{task.name}, {name}")
                    work.do(task, variant, routers[task.name, name], limit, files[name], bar)
    answers = {
        (task.name, name): [files[name].get(work.key(task, item, limits[task.name])) for item in task.items]
        for task in tasks
        for name in variants
        if (task.name, name) in routers
    }
    reference = next((name for name, variant in variants.items() if variant is OWN), next(iter(variants)))
    report = build(tasks, answers, metrics, reference, resamples=resamples, seed=seed)
    report.write(folder)
    return report


def _check(meteora: Meteora, task: Task, variant: Variant, route: Router) -> None:
    # An unknown name, or a prompt that has no route, is better found before the first answer.
    if isinstance(variant, Chosen) and (missing := [i.prompt for i in task.items if i.prompt not in variant.routes]):
        raise MeteoraError(f"task {task.name!r}: no route was chosen for the prompt {missing[0][:60]!r}")
    top_k = variant.top_k if isinstance(variant, Gates) else None
    for each in {route(item) for item in task.items}:
        with meteora.routing(each, top_k=top_k):
            pass


class Work:
    """What is done for one task and variant: only what its file does not hold yet."""

    def __init__(self, meteora: Meteora, tokenizer: Any, batch_tokens: int, loss: bool, complete: bool) -> None:
        self._meteora = meteora
        self._tokenizer = tokenizer
        self._batch_tokens = batch_tokens
        self._loss, self._complete = loss, complete
        self._fixed: dict[tuple[str, Route], Mapping[str, Any]] = {}  # what routes without gates have answered

    def key(self, task: Task, item: Item, limit: int) -> str:
        """What an answer is found by."""
        # The task, too: the same prompt in another task has another adapter of its own.
        rule = f"{limit} complete" if self._complete and task.parts else str(limit)
        return hashlib.sha256(f"{task.name}\n{rule}\n{item.prompt}".encode()).hexdigest()[:20]

    def do(self, task: Task, variant: Variant, route: Router, limit: int, file: AnswerFile, bar: tqdm[Any]) -> None:
        """Answer the items, and take the loss on their responses if it is wanted."""
        items = {self.key(task, item, limit): item for item in task.items}
        same = {key: self._fixed.get((key, route(item))) for key, item in items.items() if not file.get(key)}
        file.add([{**answer, "key": key} for key, answer in same.items() if answer])
        unanswered = {key: item for key, item in items.items() if "text" not in file.get(key)}
        bar.update(len(items) - len(unanswered))
        loss = self._loss and not task.parts
        questions = len(task.parts) if self._complete else 0
        top_k, arrow = (variant.top_k, variant.arrow) if isinstance(variant, Gates) else (None, False)
        with arrow_gates(self._meteora) if arrow else nullcontext():
            for each, keys in _by_route(unanswered, route).items():
                lengths = [len(self._tokenizer(items[key].prompt)["input_ids"]) + limit for key in keys]
                for rows in packed(lengths, self._batch_tokens):
                    batch = [keys[row] for row in rows]
                    answers = answer_batch(
                        self._meteora, self._tokenizer, [items[key].prompt for key in batch], each, limit, top_k=top_k,
                        responses=[items[key].response for key in batch] if loss else (), questions=questions,
                    )  # fmt: skip
                    file.add([{"key": key, **answer.as_dict()} for key, answer in zip(batch, answers, strict=True)])
                    bar.update(len(batch))
            unread = {key: item for key, item in items.items() if loss and "nats" not in file.get(key)}
            for each, keys in _by_route(unread, route).items():
                pairs = [(items[key].prompt, items[key].response) for key in keys]
                found = response_losses(
                    self._meteora, self._tokenizer, pairs, each, top_k=top_k, batch_tokens=self._batch_tokens // 2
                )
                file.add([{"key": key, "nats": list(nats)} for key, nats in zip(keys, found, strict=True)])
        for key, item in items.items():
            if not isinstance(route(item), Auto):
                self._fixed[key, route(item)] = file.get(key)


def _by_route(items: Mapping[str, Item], route: Router) -> dict[Route, list[str]]:
    found: dict[Route, list[str]] = {}
    for key, item in items.items():
        found.setdefault(route(item), []).append(key)
    return found
