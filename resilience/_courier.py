"""How operations travel to a store: together, in the background, and never for longer than the store may take.

Tasks that decide in the same turn of an event loop share a *batch*, or a few if they are many. It has a task of its
own: cancelling a caller takes nothing away from the others, and what the store then grants to somebody who is gone is
undone. Reports wait in a bounded outbox; they travel with the loop's next batch, or with one daemon thread where no
loop runs.

::

    suspend ──► Entry ──┐
    suspend ──► Entry ──┼─► Batch ──► store ──► replies ──► each to its own entry
    settle  ──► Report ─┘      (a turn of the loop)
"""

from __future__ import annotations

import asyncio
import queue
import sys
import threading
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from ._ledger import Argument, Reply
from .clock import Clock, TimerHandle

MOST_REPORTS = 10_000  # waiting in an outbox; beyond that they are dropped
BATCH = "resilience store"  # the name of its task
_MOST_BATCHES = 4  # under way in one loop; whoever comes then travels with the next
_ENOUGH = 50  # operations in a batch; others have one of their own, so that the store works while that is made ready
_MOST_TOGETHER = 500  # operations in one journey of the thread

Undo = Callable[[Reply], object]


class Operation(NamedTuple):
    """One atomic operation: a verb of a machine, on the state of `key` of the policy called `name`."""

    machine: str
    verb: str
    name: str
    key: str
    arguments: tuple[Argument, ...]


class Report(Protocol):
    """Something a policy has to tell. None of these methods may block: a finaliser may be what calls them."""

    def operation(self) -> Operation | None:
        """What to send, now that it is sent; None if there is nothing left to say."""
        ...

    def heard(self, reply: Reply) -> None:
        """The store's answer."""
        ...

    def lost(self) -> None:
        """It did not arrive, or nobody knows."""
        ...


class Sender(Protocol):
    """What this module needs of a store."""

    clock: Clock
    store_timeout: float
    renewal_interval: float
    thread: Courier

    def due_renewals(self) -> list[Report]: ...

    def journey(self, operations: list[Operation]) -> list[Any]: ...

    async def ajourney(self, operations: list[Operation], expired: Callable[[], bool]) -> list[Any]: ...


class Entry:
    """A decision on its way. `undo(reply)` takes back what was granted to a caller who has gone."""

    __slots__ = ("future", "question", "undo")

    def __init__(self, question: Operation, undo: Undo | None, loop: asyncio.AbstractEventLoop) -> None:
        self.question = question
        self.undo = undo
        self.future: asyncio.Future[Reply] = loop.create_future()

    def operation(self) -> Operation | None:
        return None if self.future.done() else self.question

    def heard(self, reply: Reply) -> None:
        if not self.future.done():
            self.future.set_result(reply)
        elif self.undo is not None:
            self.undo(reply)

    def fail(self, error: BaseException) -> None:
        if not self.future.done():
            self.future.set_exception(error)
            self.future.exception()  # nobody may be left to look at it

    async def answer(self) -> Reply:
        """The reply; whoever stops waiting for it has taken nothing."""
        future = self.future
        try:
            return await future
        except BaseException:
            if not future.done():
                future.cancel()
            elif not future.cancelled() and future.exception() is None and self.undo is not None:
                self.undo(future.result())  # it came in the very turn in which its caller was cancelled
            raise


class Batch:
    """What one event loop sends together. It is given up when the oldest in it has waited for `store_timeout`."""

    __slots__ = ("_late", "_line", "_questions", "entries", "task", "timer")

    def __init__(self, line: Line) -> None:
        self._line = line
        self._late = False
        self.entries: list[Entry | Report] = []  # those without an answer
        self._questions: list[Operation] = []  # theirs, once it has left
        self.task: asyncio.Task[None] | None = None
        sender = line.sender
        self.timer: TimerHandle = sender.clock.call_later(line.loop, sender.store_timeout, self._expire)

    def start(self) -> None:
        # Not by the loop's task factory: an eager one would send it off before anybody is in it.
        self.task = asyncio.Task(self._run(), loop=self._line.loop, name=BATCH)
        self.task.add_done_callback(self._over)

    def expired(self) -> bool:
        """Whether it took too long: the task is then cancelled because of that."""
        return self._late

    async def _run(self) -> None:
        self._line.leave(self)
        sent, questions = [], []
        for entry in self.entries:
            question = entry.operation()
            if question is not None:
                sent.append(entry)
                questions.append(question)
        self.entries, self._questions = sent, questions
        replies = await self._line.sender.ajourney(questions, self.expired) if questions else []
        self.entries = []
        for entry, reply in zip(sent, replies, strict=True):
            deliver(entry, reply)

    def _expire(self) -> None:
        self._late = True
        if self.task is None:
            self._line.leave(self)
            self._give_up(None)
        else:
            self.task.cancel()

    def _over(self, task: asyncio.Task[None]) -> None:
        self.timer.cancel()
        self._line.ended(self)
        if task.cancelled() and not self._late:
            self._hand_over()
        self._give_up(None if task.cancelled() else task.exception())

    def _hand_over(self) -> None:
        """The loop is about to end: what is still to be told is the thread's to tell."""
        kept: list[Entry | Report] = []
        for place, entry in enumerate(self.entries):
            if isinstance(entry, Entry):
                kept.append(entry)
                continue
            report = Again(entry, self._questions[place]) if self._questions else entry
            if not self._line.sender.thread.put(report):
                kept.append(entry)
        self.entries = kept

    def _give_up(self, error: BaseException | None) -> None:
        for entry in self.entries:
            if isinstance(entry, Entry):
                entry.fail(error or TimeoutError("the store took too long"))
            else:
                entry.lost()


class Again:
    """A report that has said what it had to say, and is told once more because nobody knows whether it arrived."""

    __slots__ = ("_question", "heard", "lost")

    def __init__(self, report: Report, question: Operation) -> None:
        self._question = question
        self.heard = report.heard
        self.lost = report.lost

    def operation(self) -> Operation:
        return self._question


def deliver(entry: Entry | Report, reply: Any) -> None:
    """Hand over what the store has answered to one operation: a reply, or an exception."""
    if not isinstance(reply, BaseException):
        entry.heard(reply)
    elif isinstance(entry, Entry):
        entry.fail(reply)
    else:
        entry.lost()


class Line:
    """The batches of one event loop: one that gathers, and those under way."""

    __slots__ = ("_gathering", "_under_way", "loop", "sender")

    def __init__(self, sender: Sender, loop: asyncio.AbstractEventLoop) -> None:
        self.sender = sender
        self.loop = loop
        self._gathering: Batch | None = None
        self._under_way: set[Batch] = set()

    async def ask(self, question: Operation, undo: Undo | None) -> Reply:
        """The answer to a question, within `store_timeout`."""
        entry = Entry(question, undo, self.loop)
        self.add(entry)
        return await entry.answer()

    def add(self, entry: Entry | Report) -> bool:
        """Let it travel with the batch that leaves next; False if too much waits already."""
        batch = self._gathering
        if batch is None or (len(batch.entries) >= _ENOUGH and len(self._under_way) < _MOST_BATCHES):
            batch = self._gathering = Batch(self)
            self._start()
        elif len(batch.entries) >= MOST_REPORTS and not isinstance(entry, Entry):
            return False
        batch.entries.append(entry)
        return True

    async def flush(self) -> None:
        """Wait until all that travels has arrived or was given up, which takes each `store_timeout` at most."""
        while self._under_way:
            await asyncio.wait([batch.task for batch in self._under_way if batch.task is not None])

    def leave(self, batch: Batch) -> None:
        """From now on others gather for another batch."""
        if self._gathering is batch:
            self._gathering = None

    def ended(self, batch: Batch) -> None:
        self._under_way.discard(batch)
        self.leave(batch)
        self._start()

    def _start(self) -> None:
        batch = self._gathering
        if batch is not None and batch.task is None and len(self._under_way) < _MOST_BATCHES:
            self._under_way.add(batch)
            batch.start()


class Courier:
    """A daemon thread that takes reports to the store, and renews the leases that are held. It starts when needed."""

    def __init__(self, sender: Sender) -> None:
        self._sender = weakref.ref(sender)
        self.forked()

    def forked(self) -> None:
        """In the child of a fork there is no thread, and what was to be told is the parent's to tell."""
        self._outbox: queue.SimpleQueue[Report | _Mark | None] = queue.SimpleQueue()  # its put() is safe in a finaliser
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()

    def put(self, report: Report | None) -> bool:
        """Have it told soon (None: only see to it that the thread runs); False if too much waits already."""
        if self._outbox.qsize() >= MOST_REPORTS:
            return False
        self._outbox.put(report)
        if self._thread is None or not self._thread.is_alive():
            self._start()
        return True

    def flush(self) -> None:
        """Wait until what was put here has been told, or was given up."""
        sender, thread = self._sender(), self._thread
        if sender is None or thread is None or thread is threading.current_thread() or not thread.is_alive():
            return
        mark = _Mark()
        self._outbox.put(mark)
        mark.passed.wait(min(sender.store_timeout * MOST_REPORTS / _MOST_TOGETHER, threading.TIMEOUT_MAX))

    def _start(self) -> None:
        # What a finaliser gives back when the interpreter is about to end: starting a thread would then wait for ever.
        if sys.is_finalizing() or not self._starting.acquire(False):
            return
        try:
            if self._thread is None or not self._thread.is_alive():
                thread = threading.Thread(
                    target=_work, args=(self._sender, self._outbox), name="resilience-store", daemon=True
                )
                thread.start()
                self._thread = thread
        except RuntimeError:  # the interpreter is shutting down
            pass
        finally:
            self._starting.release()


class _Mark:
    """`passed` when all that waited in the outbox before it has been told."""

    def __init__(self) -> None:
        self.passed = threading.Event()


def _work(sender: weakref.ref[Sender], outbox: queue.SimpleQueue[Report | _Mark | None]) -> None:
    """The thread: it ends when the store it works for is gone."""
    while (store := sender()) is not None:
        pause = store.renewal_interval
        del store
        reports: list[Report] = []
        marks: list[_Mark] = []
        try:
            found = outbox.get(timeout=pause)
            while True:
                if isinstance(found, _Mark):
                    marks.append(found)
                elif found is not None:
                    reports.append(found)
                if len(reports) >= _MOST_TOGETHER:
                    break
                found = outbox.get_nowait()
        except queue.Empty:
            pass
        store = sender()
        if store is not None:
            carry(store, [*reports, *store.due_renewals()])
        for mark in marks:
            mark.passed.set()


def carry(sender: Sender, reports: list[Report]) -> None:
    """Tell the store what there is to tell, in one journey of this thread."""
    sent = [(report, question) for report in reports if (question := report.operation()) is not None]
    if not sent:
        return
    try:
        replies: list[Any] = sender.journey([question for _, question in sent])
    except Exception as error:  # noqa: BLE001 - whatever it is, it has been told to the listeners
        replies = [error] * len(sent)
    for (report, _), reply in zip(sent, replies, strict=True):
        deliver(report, reply)
