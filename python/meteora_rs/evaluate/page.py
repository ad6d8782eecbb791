"""The report as one HTML page that needs nothing else: no script, no font, no file beside it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from html import escape

from meteora_rs.routes import BASE

from .drawings import Colours, bars, heat_map, stacks
from .results import Results, Score, TaskResult, show

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem; color: #222;
  background: #fff; }
h1, h2, h3 { line-height: 1.2; } h2 { margin-top: 2.5rem; }
table { border-collapse: collapse; font-size: 13px; } td, th { padding: .25rem .6rem; text-align: right; }
th:first-child, td:first-child { text-align: left; } tr { border-bottom: 1px solid #ddd; }
small, .interval { color: #666; } td .interval { display: block; white-space: nowrap; }
svg { max-width: 100%; height: auto; }
.legend span { display: inline-block; margin-right: 1rem; } .legend i { display: inline-block; width: .8em;
  height: .8em; margin-right: .35em; border-radius: 2px; } .wide { overflow-x: auto; }
"""


def page(report: Results) -> str:
    """The whole page."""
    body = "\n".join(_sections(report))
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f"<title>meteora evaluate</title>\n<style>{STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _sections(report: Results) -> Iterator[str]:
    plain = [task for task in report.tasks if not task.parts]
    composite = [task for task in report.tasks if task.parts]
    yield "<h1>Evaluation</h1>"
    yield f"<p>{_summary(report)}</p>"
    if plain:
        colours = Colours(report.variants)
        yield "<h2>Each task by its own metric</h2>"
        yield "<p><small>Whiskers: 95% bootstrap intervals.</small></p>" + colours.legend()
        yield bars([(_label(t), {v: t.scores[v][t.metrics[0]] for v in t.scores}) for t in plain], colours)
    yield "<h2>All scores</h2>"
    yield f'<div class="wide">{_table(report)}</div>'
    for variant in report.variants:
        rows = {task.name: task.served[variant] for task in plain if variant in task.served}
        if rows:
            yield f"<h2>Which adapter served which task: {escape(variant)}</h2>"
            yield "<p><small>Share of routing decisions (answer tokens × adapted linears), in percent.</small></p>"
            yield heat_map(rows, _adapters(rows.values()))
    for task in composite:
        yield from _composite(task)


def _summary(report: Results) -> str:
    if not report.averaged:
        return "No task was answered by every variant, so there is no mean."
    parts = []
    for name in report.variants:
        text = f"<b>{escape(name)}</b> {_interval(report.means[name])}"
        ratio = report.ratios.get(name)
        if ratio and name != report.reference and math.isfinite(ratio.value):
            text += f", {ratio.value:.3f} [{ratio.low:.3f}, {ratio.high:.3f}] of {escape(report.reference)}"
        if name in report.losses:
            text += f", {report.losses[name].value:.4f} nats a token"
        parts.append(text)
    return f"Mean of {report.averaged} tasks, percent: " + "; ".join(parts) + "."


def _label(task: TaskResult) -> str:
    return f"{task.name} ({task.metrics[0]})"


def _interval(score: Score, metric: str = "") -> str:
    value, _, interval = show(score, metric).partition(" ")
    return f'{value} <span class="interval">{interval}</span>'


def _table(report: Results) -> str:
    heads = "".join(f"<th>{escape(name)}</th>" for name in report.variants)
    differences = [
        v for v in report.variants if v != report.reference and any(v in t.differences for t in report.tasks)
    ]
    heads += "".join(f"<th>{escape(v)} − {escape(report.reference)}</th>" for v in differences)
    losses = [name for name in report.variants if any(name in task.losses for task in report.tasks)]
    heads += "".join(f"<th>loss, {escape(name)}</th>" for name in losses)
    lines = [f"<tr><th>task</th><th>items</th><th>metric</th>{heads}</tr>"]
    for task in report.tasks:
        for metric in task.metrics:
            first = metric == task.metrics[0]
            cells = [escape(task.name) if first else "", str(task.items), escape(metric)]
            cells += [_interval(task.scores[v][metric], metric) if v in task.scores else "–" for v in report.variants]
            for v in differences:
                known = first and v in task.differences
                cells.append(_interval(task.differences[v], metric) if known else "")
            cells += [f"{task.losses[v].value:.4f}" if first and v in task.losses else "" for v in losses]
            lines.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    return f"<table>{''.join(lines)}</table>"


def _composite(task: TaskResult) -> Iterator[str]:
    variants = list(task.parts)
    yield f"<h2>{escape(task.name)}: {len(task.parts[variants[0]])} questions an item</h2>"
    heads = "".join(f"<th>{escape(name)}</th>" for name in variants)
    lines = [f"<tr><th>question</th><th>metric</th>{heads}</tr>"]
    for part, example in task.parts[variants[0]].items():
        metric = next(iter(example.scores))
        cells = "".join(
            f"<td>{_interval(found.scores[metric])} <small>{found.attempted:.0%} tried</small></td>"
            for found in (task.parts[name][part] for name in variants)
        )
        lines.append(f"<tr><td>{escape(part)}</td><td>{metric}</td>{cells}</tr>")
    for metric in task.metrics:
        cells = "".join(f"<td>{_interval(task.scores[name][metric], metric)}</td>" for name in variants)
        lines.append(f"<tr><td><b>{metric}</b></td><td>of {len(task.parts[variants[0]])}</td>{cells}</tr>")
    yield f'<div class="wide"><table>{"".join(lines)}</table></div>'
    for variant, along in task.along.items():
        parts = {part: found.served for part, found in task.parts[variant].items() if found.served}
        names = _adapters([*parts.values(), *along])
        colours = Colours(names)
        yield f"<h3>{escape(variant)}: who leads the tokens, question by question</h3>{colours.legend()}"
        yield heat_map(parts, names)
        yield f"<h3>{escape(variant)}: along the answers, from their start to their end</h3>"
        yield stacks(along, colours)


def _adapters(shares: Iterable[Mapping[str, float]]) -> list[str]:
    """All names in alphabetical order, the base last."""
    names = {name for each in shares for name in each}
    return sorted(names, key=lambda name: (name == BASE, name))
