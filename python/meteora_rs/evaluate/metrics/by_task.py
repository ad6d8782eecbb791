"""Which metrics belong to which of the paper's tasks; the first one is the task's own."""

from __future__ import annotations

_EXACT = (
    "cs_algorithms", "elementary_math_qa", "epistemic_reasoning", "formal_fallacies_syllogisms_negation",
    "paragraph_segmentation", "tracking_shuffled_objects", "unit_conversion", "winowhy",
)  # fmt: skip
_CONTAINS = (
    "abstract_narrative_understanding", "contextual_parametric_knowledge_conflicts", "disfl_qa", "goal_step_wikihow",
    "language_identification", "logical_deduction", "object_counting", "play_dialog_same_or_different",
    "question_selection", "reasoning_about_colored_objects", "vitaminc_fact_verification",
)  # fmt: skip
_TEXTS = ("alpaca", "cnn_dailymail", "linguistics_puzzles", "topical_chat")

BY_TASK: dict[str, tuple[str, ...]] = {
    **{name: ("exact",) for name in _EXACT},
    **{name: ("contains", "exact") for name in _CONTAINS},
    **{name: ("bleu", "rouge_1", "rouge_2", "rouge_l") for name in _TEXTS},
    **{f"news_commentary_{language}": ("bleu",) for language in ("de", "es", "it")},
    "gsm8k": ("number",),
    "strategyqa": ("first_word", "bleu", "rouge_1", "rouge_2", "rouge_l"),
}
"""The paper's table (arXiv 2405.13053, appendix), with exact match beside containment, which is lenient."""

DEFAULT = ("exact",)

COMPOSITES: dict[int, tuple[str, ...]] = {
    3: ("logical_deduction", "question_selection", "strategyqa"),
    5: (
        "logical_deduction", "question_selection", "abstract_narrative_understanding", "goal_step_wikihow",
        "strategyqa",
    ),
    10: (
        "logical_deduction", "question_selection", "abstract_narrative_understanding", "goal_step_wikihow", "winowhy",
        "strategyqa", "disfl_qa", "news_commentary_de", "alpaca", "linguistics_puzzles",
    ),
}  # fmt: skip
"""The tasks of the paper's composite-n prompts, in order."""
