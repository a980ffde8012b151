"""What is worth saying of an edit before it is drawn: words the model was never shown, phrases nobody listed."""

from __future__ import annotations

from likeness.config import Sweep
from likeness.study.photo import photo_notices
from likeness.study.plan import EditPlan, phrase_pattern


def plan_notices(sweep: Sweep, plan: EditPlan) -> list[str]:
    """Return what may not be meant, though it can be drawn."""
    said = [_without_subject(sweep, plan), _as_written(sweep, plan), _never_shown(sweep, plan), photo_notices(sweep)]
    return [notice for notices in said for notice in notices]


def _without_subject(sweep: Sweep, plan: EditPlan) -> list[str]:
    identifier = sweep.subject.identifier
    names = {"source": plan.source_prompt, "target": plan.target_prompt}
    without = [name for name, prompt in names.items() if not phrase_pattern(identifier).search(prompt)]
    if not without:
        return []
    which = f"the {without[0]} prompt does" if len(without) == 1 else "source and target prompt do"
    return [f"{which} not name the subject ({identifier})."]


def _as_written(sweep: Sweep, plan: EditPlan) -> list[str]:
    tables = {axis: sweep.edit.phrases[axis] for axis in plan.axes if axis in sweep.edit.phrases}
    return [
        f"{axis}={plan.axes[axis]!r} is none of {', '.join(table)}: the prompt has it as written; if need be say how "
        f"it reads there, for example {axis}={next(reversed(table.values()))!r}."
        for axis, table in tables.items()
        if str(plan.axes[axis]) not in (*table, *table.values())
    ]


def _never_shown(sweep: Sweep, plan: EditPlan) -> list[str]:
    """Say which words the embedded model has never seen; other models know more words than a list could hold."""
    if sweep.model.source != "embedded":
        return []
    from likeness.paperdoll.captions import unknown_words

    known = set(sweep.subject.identifier.lower().split())
    words = {w for p in (plan.source_prompt, plan.target_prompt) for w in unknown_words(p)} - known
    if not words:
        return []
    return [
        f"the embedded model was never shown: {', '.join(sorted(words))}. Its answer to these words means "
        "nothing; model=sd15 knows them."
    ]
