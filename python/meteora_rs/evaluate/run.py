"""An evaluation: every task, answered in every way, scored."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from meteora_rs.errors import MeteoraError
from meteora_rs.loss import evaluating, response_losses
from meteora_rs.packing import packed
from meteora_rs.routes import Route

from .answers import AnswerFile
from .fingerprint import fingerprint
from .generate import answer_batch
from .metrics import make
from .report import Report
from .scoring import build
from .tasks import Item, Task
from .variants import DEFAULT, OWN, Variant, route_for

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
    routes = {
        (task.name, name): route
        for task in tasks
        for name, variant in variants.items()
        if (route := route_for(variant, task, adapters)) is not None
    }
    for name in variants:
        if not any(variant == name for _, variant in routes):
            raise MeteoraError(f"variant {name!r} answers no task: none has an adapter of its name")
    for route in routes.values():
        with meteora.routing(route):
            pass  # an unknown name is better found before the first answer
    limits = {task.name: max_new_tokens * max(1, len(task.parts)) for task in tasks} | dict(task_max_new_tokens or {})
    folder = Path(folder)
    files = {name: AnswerFile(folder / "answers", name, fingerprint(meteora, each)) for name, each in variants.items()}
    work = Work(meteora, tokenizer, batch_tokens)
    total = sum(len(task.items) for task in tasks for name in variants if (task.name, name) in routes)
    with tqdm(total=total, unit="answer", disable=not progress) as bar, evaluating(meteora.model):
        for task in tasks:
            limit = limits[task.name]
            for name in variants:
                if (task.name, name) in routes:
                    bar.set_description(f"{task.name}, {name}")
                    work.answer(task, routes[task.name, name], limit, files[name], bar)
                    if loss and not task.parts:
                        work.losses(task, routes[task.name, name], limit, files[name])
    answers = {
        (task.name, name): [files[name].get(_key(task, item, limits[task.name])) for item in task.items]
        for task in tasks
        for name in variants
        if (task.name, name) in routes
    }
    reference = next((name for name, variant in variants.items() if variant is OWN), next(iter(variants)))
    report = build(tasks, answers, metrics, reference, resamples=resamples, seed=seed)
    report.write(folder)
    return report


class Work:
    """What is done for one task and variant: only what its file does not hold yet."""

    def __init__(self, meteora: Meteora, tokenizer: Any, batch_tokens: int) -> None:
        self._meteora = meteora
        self._tokenizer = tokenizer
        self._batch_tokens = batch_tokens

    def answer(self, task: Task, route: Route, limit: int, file: AnswerFile, bar: tqdm[Any]) -> None:
        """Answer the items."""
        todo = {_key(task, item, limit): item for item in task.items if "text" not in file.get(_key(task, item, limit))}
        bar.update(len(task.items) - len(todo))
        keys = list(todo)
        lengths = [len(self._tokenizer(todo[key].prompt)["input_ids"]) + limit for key in keys]
        for rows in packed(lengths, self._batch_tokens):
            batch = [keys[row] for row in rows]
            prompts = [todo[key].prompt for key in batch]
            answers = answer_batch(self._meteora, self._tokenizer, prompts, route, limit)
            file.add([{"key": key, **answer.as_dict()} for key, answer in zip(batch, answers, strict=True)])
            bar.update(len(batch))

    def losses(self, task: Task, route: Route, limit: int, file: AnswerFile) -> None:
        """Take the loss on the items' responses."""
        todo = {_key(task, item, limit): item for item in task.items if "nats" not in file.get(_key(task, item, limit))}
        pairs = [(item.prompt, item.response) for item in todo.values()]
        found = response_losses(self._meteora, self._tokenizer, pairs, route, batch_tokens=self._batch_tokens // 2)
        file.add([{"key": key, "nats": list(loss)} for key, loss in zip(todo, found, strict=True)])


def _key(task: Task, item: Item, limit: int) -> str:
    # The task, too: the same prompt in another task has another adapter of its own.
    return hashlib.sha256(f"{task.name}\n{limit}\n{item.prompt}".encode()).hexdigest()[:20]
