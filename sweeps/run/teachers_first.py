"""The stages of a sweep: teachers before the students that wait for them, each teacher once."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from sdd_core.store import Store
from sweeps.sweep import Task


def teacher_task(store: Store, task: Task, ran: Collection[Task] = ()) -> Task | None:
    """What has to run before a trial: its teacher's (or its teacher's teacher's) trial, as far as it is needed.

    None when nothing has to, or when that has run already: a GPU does not make dropped weights again byte for
    byte, and then each student makes them for itself.
    """
    need = store.teacher_needed(task.spec)
    if need is None:
        return None
    first = Task(need.trial, None, need.last_level)
    return None if first in ran else first


def in_stages(store: Store, tasks: Sequence[Task], ran: Collection[Task] = ()) -> list[Task]:
    """The teachers that `tasks` wait for, each once, then the tasks."""
    teachers = [teacher_task(store, task, ran) for task in tasks]
    return [*dict.fromkeys(teacher for teacher in teachers if teacher is not None), *tasks]
