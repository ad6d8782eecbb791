"""How good are adapters and gates: tasks answered in several ways, scored alike.

from meteora_rs.evaluate import evaluate, read_tasks

report = evaluate(meteora, read_tasks("tasks", limit=40), "evaluation", tokenizer=tokenizer)
print(report)
"""

from .report import Report
from .run import evaluate
from .tasks import Item, Task, read_tasks
from .variants import OWN, Chosen, Gates, Variant

__all__ = ["OWN", "Chosen", "Gates", "Item", "Report", "Task", "Variant", "evaluate", "read_tasks"]
