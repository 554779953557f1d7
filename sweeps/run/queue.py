"""Which trial a free worker takes next: the scheduling of a sweep, without Ray.

    queue = Queue(plans, store, outcome=outcome, listeners=listeners)
    task = queue.take()                      a worker is free: a trial for it, or None while there is none
    queue.started(task)                      the worker has begun
    queue.level_finished(task, report)       it has read or trained a level
    queue.ended(task)                        the trial has come to its end, or was given up
    queue.failed(task, reason)               the trial has failed for good
    queue.over                               no further trial will be handed out

The rules:

* A plan is asked for its next step at the beginning, and again when every task of its last step has ended or
  failed. Meanwhile the other plans' tasks go on, so no worker waits for another plan's last trial.
* Tasks start in the order of their step. Plans take turns: every plan's first task comes before any plan's second.
* A teacher that a student needs runs before all tasks, once, and only as far as it is needed. Its students
  start when it is there. When it fails, its students are held back and the other trials go on.
* No level is computed by two workers at once. Trials with the same levels run one after another: the second
  reads what the first has left. Trials that share their dense level alone wait until it is finished.
* A trial that has failed is not started again in this run, whoever asks for it.
* After Ctrl-C, or when the budget is used up, nothing is started any more and no plan is asked.

The time of each call is independent of how many trials there are, but for two things that are done once a trial:
taking in a plan's step, and letting go on whoever has waited for a teacher or for a dense level.
"""

from __future__ import annotations

import heapq
import itertools
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from sdd_core.spec import TeacherRef, TrialSpec
from sdd_core.store import Diverged, Store
from sweeps.run.outcome import Budget, Listener, Outcome
from sweeps.sweep import Plan, Task

RUNS: Final = 2
"""How often a task runs whose plan asks for it again although it has ended: a record may have been damaged."""

METRICS: Final = ("level", "levels", "sparsity", "accuracy", "seconds")
"""What listeners are told of a level."""


class _Rank(NamedTuple):
    """Who starts first: teachers before all, then by the place in the step, then by the plan's number."""

    task: bool
    place: int
    plan: int


@dataclass(eq=False)
class _Course:
    """A plan, and what has become of its last step."""

    plan: Plan
    number: int
    unfinished: int = 0
    """How many tasks of its last step have neither ended nor failed."""
    left: int = 0
    """The plan's guess at how many trials it will ask for after these."""


@dataclass(eq=False)
class _Job:
    """A task that has to run, for the plans that have asked for it and the students that wait for it."""

    task: Task
    trial_id: str
    rank: _Rank
    courses: list[_Course] = field(default_factory=list)
    students: list[_Job] = field(default_factory=list)
    entry: tuple[_Rank, int, _Job] | None = None
    """Where it stands among those that are ready; None when it is not."""
    dense: str | None = None
    """The key of its level 0; None until its turn to start has come."""
    levels: str = ""
    """The key of its level 1. All keys after it follow from it, so trials with the same have all levels in common."""


class _Turns:
    """Names that one job at a time may hold, and the line of those that wait for each."""

    def __init__(self) -> None:
        self._holders: dict[str, _Job] = {}
        self._lines: dict[str, deque[_Job]] = {}

    def hold(self, name: str, job: _Job) -> bool:
        """Whether the job holds the name now; if not, it stands in line from now on."""
        holder = self._holders.setdefault(name, job)
        if holder is not job:
            self._lines.setdefault(name, deque()).append(job)
        return holder is job

    def pass_on(self, name: str, job: _Job) -> Iterable[_Job]:
        """The job lets go of a name if it holds it: the next in line holds it now, and is returned."""
        if self._holders.get(name) is not job:
            return ()
        line = self._lines.get(name)
        if not line:
            self.end(name)
            return ()
        self._holders[name] = line.popleft()
        return (self._holders[name],)

    def end(self, name: str) -> Iterable[_Job]:
        """Nobody needs to hold a name any more: all in its line are returned."""
        self._holders.pop(name, None)
        return self._lines.pop(name, ())


class Queue:
    """The trials of some plans that share their workers; the module's description has the rules."""

    def __init__(
        self,
        plans: Sequence[Plan],
        store: Store,
        *,
        outcome: Outcome,
        listeners: Sequence[Listener] = (),
        budget: Budget | None = None,
    ) -> None:
        self.store, self.outcome, self.listeners, self.budget = store, outcome, listeners, budget
        self._due = deque(_Course(plan, number) for number, plan in enumerate(plans))
        self._left = 0  # the sum over all plans
        self._told = (0, 0)
        self._jobs: dict[Task, _Job] = {}
        self._running: dict[Task, _Job] = {}
        self._ready: list[tuple[_Rank, int, _Job]] = []
        self._count = itertools.count()
        self._trajectories, self._dense_levels = _Turns(), _Turns()
        self._partial: dict[tuple[str, int], _Job] = {}  # jobs that end at a level, by their trial and this level
        self._ended: Counter[Task] = Counter()

    # --- what the driver asks -------------------------------------------------------------

    @property
    def running(self) -> int:
        """How many trials have been handed out and have neither ended nor failed."""
        return len(self._running)

    @property
    def over(self) -> bool:
        """Whether no further trial will be handed out; those that run go on to their end."""
        return self._stopped or not (self._running or self._ready or self._due)

    @property
    def _stopped(self) -> bool:
        return self.outcome.interrupted or self.outcome.exhausted is not None

    def take(self) -> Task | None:
        """The next trial to start, which counts as running from now on; None while there is none."""
        task = None
        while task is None and not self._stopped and (self._due or self._ready):
            while self._due:
                self._ask(self._due.popleft())
            task = self._first()
        state = (len(self._jobs) - len(self._running), self._left)
        if state != self._told:
            self._told = state
            for listener in self.listeners:
                listener.planned(*state)
        return task

    # --- what the driver tells ------------------------------------------------------------

    def started(self, task: Task) -> None:
        """A worker has begun with a trial, perhaps because the trial's first worker has died."""
        for listener in self.listeners:
            listener.started(task)

    def level_finished(self, task: Task, report: Mapping[str, Any]) -> None:
        """A worker has read or trained a level of a running trial."""
        job, level, trained = self._running[task], int(report["level"]), bool(report["trained"])
        if trained:
            self.outcome.spent.add(report)
            if self.budget is not None and self.outcome.exhausted is None:
                self.outcome.exhausted = self.budget.used_up(self.outcome.spent)
        if level == 0 and job.dense is not None:
            self._make_ready(self._dense_levels.end(job.dense))
        teacher = self._partial.get((job.trial_id, level))
        if teacher is not None and teacher is not job:  # this longer run of the same trial has got there first
            self._let_students_go_on(teacher)
        metrics = {name: float(report[name]) for name in METRICS}
        for listener in self.listeners:
            listener.level_finished(task, metrics, trained)
            if trained and report.get("warning"):
                listener.warned(task, report["warning"])

    def ended(self, task: Task) -> None:
        """A trial has come to its end, or was given up; or a used-up budget has ended it."""
        job = self._running.pop(task)
        self._ended[task] += 1
        self._remove(job)
        self._let_students_go_on(job)
        for listener in self.listeners:
            listener.ended(task, by_budget=self.outcome.exhausted is not None)

    def failed(self, task: Task, reason: str) -> None:
        """A trial has failed for good."""
        job = self._running.pop(task)
        self._note_failure(task, reason)
        self._give_up(job)

    # --- plans ----------------------------------------------------------------------------

    def _ask(self, course: _Course) -> None:
        """Take in a plan's next step. The plan is over when none of its tasks can run."""
        step = course.plan.step(self.store)
        jobs = []
        for place, task in enumerate(step.tasks):
            known = task in self._jobs
            if not known and self._is_hopeless(task):
                continue
            job = self._job(task, _Rank(True, place, course.number))
            if course not in job.courses:
                job.courses.append(course)
                course.unfinished += 1
            if not known:
                jobs.append(job)
        left = step.left if course.unfinished else 0
        self._left += left - course.left
        course.left = left
        self._place(jobs)

    def _is_hopeless(self, task: Task) -> bool:
        """Whether a task that a plan asks for is not to be run any more."""
        trial_id = task.spec.trial_id
        if self._ended[task] >= RUNS and trial_id not in self.outcome.failures:
            self._note_failure(task, f"it has ended {RUNS} times, and is asked for again")
        return trial_id in self.outcome.failures or trial_id in self.outcome.held_back

    def _job(self, task: Task, rank: _Rank) -> _Job:
        """The job of a task; one that is known already gets the better of its ranks."""
        job = self._jobs.get(task)
        if job is None:
            job = self._jobs[task] = _Job(task, task.spec.trial_id, rank)
            if task.last_level is not None:
                self._partial[job.trial_id, task.last_level] = job
        elif rank < job.rank:
            job.rank = rank
            if job.entry is not None:
                self._make_ready([job])
        return job

    # --- who waits for what ---------------------------------------------------------------

    def _place(self, jobs: Iterable[_Job]) -> None:
        """Let each job wait for its teacher, or for a worker when its teacher is there or it has none."""
        needs: dict[TeacherRef, Task | Diverged | None] = {}
        for job in jobs:
            task = self._teacher_task(job.task.spec, needs)
            if task is None:
                self._make_ready([job])
                continue
            if isinstance(task, Diverged):
                teacher_id = task.trial.trial_id
                self.outcome.failures.setdefault(teacher_id, task.reason)
                self.outcome.diverged.add(teacher_id)
                self._hold_back(job, teacher_id)
                continue
            teacher_id = task.spec.trial_id
            if teacher_id in self.outcome.failures:
                self._hold_back(job, teacher_id)
                continue
            known = task in self._jobs
            teacher = self._job(task, job.rank._replace(task=False))
            teacher.students.append(job)
            if not known:
                self._make_ready([teacher])

    def _teacher_task(self, spec: TrialSpec, needs: dict[TeacherRef, Task | Diverged | None]) -> Task | Diverged | None:
        """What has to run before a trial: its teacher's (or its teacher's teacher's) trial, as far as it is needed.

        Or the teacher that can never be there, because its training diverged.

        None when nothing has to, or when that has run already: a GPU does not make dropped weights again byte
        for byte, and then each student makes them for itself. `needs` remembers the answers for a while.
        """
        if not spec.distilled or spec.teacher is None:
            return None
        if spec.teacher not in needs:
            need = self.store.teacher_needed(spec)
            task = Task(need.trial, None, need.last_level) if need is not None else None
            ready = task is None or self._ended[task]
            needs[spec.teacher] = self.store.diverged_teacher(spec) or (None if ready else task)
        return needs[spec.teacher]

    def _let_students_go_on(self, teacher: _Job) -> None:
        students, teacher.students = teacher.students, []
        self._place(students)

    def _make_ready(self, jobs: Iterable[_Job]) -> None:
        for job in jobs:
            job.entry = (job.rank, next(self._count), job)
            heapq.heappush(self._ready, job.entry)

    def _first(self) -> Task | None:
        """The first of the ready tasks that may start. Those before it now wait for another trial."""
        while self._ready:
            entry = heapq.heappop(self._ready)
            job = entry[2]
            if job.entry is not entry:  # it has got a better rank since, and stands elsewhere
                continue
            job.entry = None
            if job.trial_id in self.outcome.failures:
                self._give_up(job)
            elif not (job.courses or job.students):  # a longer run of the same trial has been there first
                self._remove(job)
            elif self._may_start(job):
                self._running[job.task] = job
                return job.task
        return None

    def _may_start(self, job: _Job) -> bool:
        """Whether no running trial computes a level that this one would compute too; else it waits for that trial."""
        if job.dense is None:
            keys = self.store.level_keys(job.task.spec)
            # Without keys its teacher has run and is not there: the worker will say why.
            job.dense, job.levels = next(keys, job.trial_id), next(keys, job.trial_id)
        if not self._trajectories.hold(job.levels, job):
            return False
        if self.store.record(job.dense) is None:
            return self._dense_levels.hold(job.dense, job)
        self._make_ready(self._dense_levels.end(job.dense))
        return True

    # --- what is over ---------------------------------------------------------------------

    def _remove(self, job: _Job) -> None:
        """A job is over: whoever waits for its levels may have them, and its plans may be asked again."""
        del self._jobs[job.task]
        if job.task.last_level is not None:
            self._partial.pop((job.trial_id, job.task.last_level), None)
        for course in job.courses:
            course.unfinished -= 1
            if course.unfinished == 0:
                self._due.append(course)
        if job.dense is not None:
            self._make_ready(self._trajectories.pass_on(job.levels, job))
            self._make_ready(self._dense_levels.pass_on(job.dense, job))

    def _give_up(self, job: _Job) -> None:
        """A job whose trial has failed is over, and so are its students."""
        self._remove(job)
        for student in job.students:
            self._hold_back(student, job.trial_id)

    def _hold_back(self, student: _Job, teacher_id: str) -> None:
        self.outcome.held_back[student.trial_id] = teacher_id
        self._remove(student)

    def _note_failure(self, task: Task, reason: str) -> None:
        self.outcome.failures[task.spec.trial_id] = reason
        for listener in self.listeners:
            listener.failed(task, reason)
