"""Deliberate bugs in the bulkhead."""

from __future__ import annotations

from . import Mutant

FILE = "resilience/bulkhead.py"
IN_USE = ("tests/test_bulkhead.py",)
WAITING = ("tests/test_bulkhead_waiting.py",)
MACHINE = ("tests/machines/test_bulkhead.py",)
KERNEL = ("tests/test_machine.py", "tests/test_machine_events.py")
TICKET = ("tests/test_ticket.py",)
RACES = (f"{KERNEL[0]}::test_the_last_slot_is_looked_at_again_under_the_lock",)
# Snippets that more than one mutant changes.
LOOK_AGAIN = (
    "        machine.wake(woken)\n        if machine.late or machine.outbox:\n            self._deliver(permit)\n"
    "        if refusal"
)
GIVING_UP = (
    "        machine.wake(woken)\n        if machine.late or machine.outbox:\n            machine.unlocked()\n"
    "        return not granted"
)
PROCESSES = ("tests/test_processes.py",)


def mutant(name: str, old: str, new: str, tests: tuple[str, ...]) -> Mutant:
    return Mutant(f"bulkhead: {name}", FILE, old, new, tests)


MUTANTS = [
    # admit, the short way
    mutant(
        "one too many on the short way",
        "            try:\n                if machine.used < machine.capacity and not machine.late:",
        "            try:\n                if machine.used <= machine.capacity and not machine.late:",
        (*RACES,),
    ),
    mutant(
        "the short way does not look for what was handed over",
        "machine.used < machine.capacity and not machine.late:",
        "machine.used < machine.capacity:",
        KERNEL,
    ),
    mutant(
        "the short way does not count",
        "                    machine.used += 1\n                    return machine.generation",
        "                    return machine.generation",
        IN_USE,
    ),
    mutant(
        "a full bulkhead forgets its queue",
        "machine.max_queue or machine.late or SUBSCRIBERS",
        "machine.late or SUBSCRIBERS",
        WAITING,
    ),
    mutant(
        "a full bulkhead does not look for what was handed over",
        "machine.late or SUBSCRIBERS",
        "SUBSCRIBERS",
        KERNEL,
    ),
    mutant("a quick rejection is told to no subscriber", "machine.late or SUBSCRIBERS or", "machine.late or", IN_USE),
    mutant(
        "a quick rejection is told to no listener",
        "SUBSCRIBERS or self._listeners or machine.used",
        "SUBSCRIBERS or machine.used",
        KERNEL,
    ),
    mutant(
        "a quick rejection is not counted",
        "            machine.rejected += 1  # a statistic; a lost count under contention is cheaper than a lock\n",
        "",
        IN_USE,
    ),
    mutant(
        "the lock is kept after a quick admission",
        "                free.append(None)\n        elif",
        "                pass\n        elif",
        IN_USE,
    ),
    # settle
    mutant(
        "settling under the lock is lost",
        "            machine.late.append((self._release_locked, permit, verdict))\n        else:",
        "            pass\n        else:",
        KERNEL,
    ),
    mutant(
        "waiters are not served when a call ends",
        "                if machine.queue:",
        "                if not machine.queue:",
        MACHINE,
    ),
    mutant(
        "generation check off on the short way",
        "                elif permit == machine.generation:",
        "                else:",
        (f"{PROCESSES[0]}::test_a_new_generation_ignores_what_belongs_to_the_old_one",),
    ),
    mutant(
        "a settled slot is not free", "                    machine.used -= 1\n", "                    pass\n", IN_USE
    ),
    mutant(
        "granted waiters are not woken",
        "            if woken:\n                machine.wake(woken)",
        "            if woken:\n                pass",
        IN_USE,
    ),
    mutant(
        "settling does not look again",
        "                machine.wake(woken)\n        if machine.late or machine.outbox:",
        "                machine.wake(woken)\n        if machine.outbox:",
        (*KERNEL, *TICKET),
    ),
    # resize, statistics
    mutant(
        "resizing does not change the limit",
        "            machine.capacity = capacity\n            woken",
        "            woken",
        IN_USE,
    ),
    mutant("growing lets nobody in", "            woken = self._fill_locked()\n", "            woken = []\n", MACHINE),
    mutant(
        "growing wakes nobody",
        "            woken = self._fill_locked()\n        machine.wake(woken)\n",
        "            woken = self._fill_locked()\n",
        IN_USE,
    ),
    mutant(
        "resizing does not look again",
        "            woken = self._fill_locked()\n        machine.wake(woken)\n        machine.unlocked()\n",
        "            woken = self._fill_locked()\n        machine.wake(woken)\n",
        TICKET,
    ),
    mutant(
        "statistics do not see what was handed over",
        "            woken = machine.caught_up_locked()\n            result",
        "            woken = []\n            result",
        KERNEL,
    ),
    mutant(
        "statistics grant without waking",
        "        machine.wake(woken)\n        machine.unlocked()\n        return result",
        "        machine.unlocked()\n        return result",
        KERNEL,
    ),
    mutant(
        "statistics do not look again",
        "        machine.wake(woken)\n        machine.unlocked()\n        return result",
        "        machine.wake(woken)\n        return result",
        TICKET,
    ),
    mutant("never at rest", "return self.statistics().in_use == 0", "return self.statistics().in_use != 0", IN_USE),
    # admit, the long way
    mutant(
        "the long way does not see what was handed over",
        "            woken = machine.caught_up_locked()\n            if machine.used",
        "            woken = []\n            if machine.used",
        KERNEL,
    ),
    mutant(
        "one too many on the long way",
        "            if machine.used < machine.capacity:\n                machine.used += 1",
        "            if machine.used <= machine.capacity:\n                machine.used += 1",
        MACHINE,
    ),
    mutant(
        "the long way does not count",
        "                machine.used += 1\n                permit = machine.generation",
        "                permit = machine.generation",
        KERNEL,
    ),
    mutant("impatient calls queue", "elif self._max_wait == 0.0 or len(", "elif len(", WAITING),
    mutant(
        "one more in the queue",
        "len(machine.queue) >= machine.max_queue",
        "len(machine.queue) > machine.max_queue",
        MACHINE,
    ),
    mutant(
        "the queue has no bound",
        "self._max_wait == 0.0 or len(machine.queue) >= machine.max_queue",
        "self._max_wait == 0.0",
        MACHINE,
    ),
    mutant(
        "full is not counted",
        "                machine.rejected += 1\n                refusal = BulkheadFullError",
        "                refusal = BulkheadFullError",
        MACHINE,
    ),
    mutant("calls without time queue", "elif left is not None and left <= 0.0:", "elif False:", WAITING),
    mutant(
        "calls at the very deadline queue",
        "left is not None and left <= 0.0",
        "left is not None and left < 0.0",
        WAITING,
    ),
    mutant(
        "no time left is not counted",
        "                machine.rejected += 1\n                refusal = DeadlineExceededError",
        "                refusal = DeadlineExceededError",
        WAITING,
    ),
    mutant("waiters are not counted", "                machine.queued += 1\n", "", MACHINE),
    mutant("queueing is not told", "                self._note(CallQueued, seconds=self._max_wait)\n", "", WAITING),
    mutant(
        "queueing is told too late",
        LOOK_AGAIN,
        "        machine.wake(woken)\n        if machine.late:\n            self._deliver(permit)\n        if refusal",
        IN_USE,
    ),
    mutant(
        "queueing does not look again",
        LOOK_AGAIN,
        "        machine.wake(woken)\n        if machine.outbox:\n            self._deliver(permit)\n        if refusal",
        KERNEL,
    ),
    mutant("a rejection is not told", "            raise self._rejected(refusal)", "            raise refusal", IN_USE),
    # the private transitions
    mutant(
        "generation check off",
        "        if permit != machine.generation:\n            if",
        "        if False:\n            if",
        (*MACHINE, *PROCESSES),
    ),
    mutant(
        "a released slot is not free",
        "            return ()\n        machine.used -= 1\n",
        "            return ()\n",
        MACHINE,
    ),
    mutant("last come, first served", "popitem(last=False)", "popitem(last=True)", IN_USE),
    mutant(
        "the queue is let in without a limit",
        "while machine.queue and machine.used < machine.capacity:",
        "while machine.queue:",
        MACHINE,
    ),
    mutant(
        "one too many from the queue",
        "while machine.queue and machine.used < machine.capacity:",
        "while machine.queue and machine.used <= machine.capacity:",
        MACHINE,
    ),
    mutant(
        "a granted slot is not counted",
        "            ticket.granted = True\n            machine.used += 1\n",
        "            ticket.granted = True\n",
        MACHINE,
    ),
    mutant("a waiter is let in without being told", "            ticket.granted = True\n", "", MACHINE),
    mutant(
        "a cancelled waiter stays in the queue", "        self._machine.queue.pop(wait.ticket, None)\n", "", MACHINE
    ),
    mutant(
        "missing release on cancel",
        "return self._take_back_locked(wait.ticket, verdict) if wait.permit == self._machine.generation else ()",
        "return ()",
        MACHINE,
    ),
    mutant(
        "a fork takes back what the parent granted",
        "return self._take_back_locked(wait.ticket, verdict) if wait.permit == self._machine.generation else ()",
        "return self._take_back_locked(wait.ticket, verdict)",
        PROCESSES,
    ),
    mutant(
        "a waiter without a slot gives one back", "        if not ticket.granted:\n            return ()\n", "", MACHINE
    ),
    mutant(
        "a slot is given back twice",
        "            return ()\n        ticket.granted = False\n",
        "            return ()\n",
        TICKET,
    ),
    mutant(
        "a waiter that gives up does not look what was handed over",
        "            woken = machine.caught_up_locked()\n            granted",
        "            woken = []\n            granted",
        WAITING,
    ),
    mutant(
        "a waiter that gives up loses the slot it just got",
        "            granted = wait.ticket.granted\n",
        "            granted = False\n",
        MACHINE,
    ),
    mutant(
        "a waiter that gives up stays in the queue", "                del machine.queue[wait.ticket]\n", "", MACHINE
    ),
    mutant(
        "giving up is not counted",
        "                del machine.queue[wait.ticket]\n                machine.rejected += 1\n",
        "                del machine.queue[wait.ticket]\n",
        MACHINE,
    ),
    mutant(
        "giving up wakes nobody",
        GIVING_UP,
        "        if machine.late or machine.outbox:\n            machine.unlocked()\n        return not granted",
        WAITING,
    ),
    mutant(
        "giving up does not look again",
        "            machine.unlocked()\n        return not granted",
        "            pass\n        return not granted",
        WAITING,
    ),
    mutant("giving up always succeeds", "        return not granted", "        return True", MACHINE),
    # fork, limits
    mutant(
        "a child keeps what is in flight",
        "        super().forked()\n        self.used = 0\n",
        "        super().forked()\n",
        (*MACHINE, *PROCESSES),
    ),
    mutant("a child keeps the queue", "        self.queue.clear()\n", "", (*MACHINE, *PROCESSES)),
    mutant(
        "max_wait is not validated",
        '_arguments.optional_seconds("max_wait", changes["max_wait"], zero=True)',
        'changes["max_wait"]',
        IN_USE,
    ),
    mutant("a max_wait of 0 is refused", ', changes["max_wait"], zero=True)', ', changes["max_wait"])', WAITING),
    mutant("a queue is always needed", "max_queue, minimum=0)", "max_queue)", IN_USE),
    mutant(
        "a wait without a queue",
        "return self._max_wait if queue else 0.0",
        "return self._max_wait",
        IN_USE,
    ),
]

EQUIVALENT = [
    (
        "resilience/bulkhead.py",
        (
            "machine.max_queue or machine.late or SUBSCRIBERS or self._listeners or machine.used < machine.capacity"
            " => machine.max_queue or machine.late or SUBSCRIBERS or self._listeners or (machine.used <= machine.capacity)"
        ),
        "a full bulkhead then refuses the long way: slower, and the same",
    )
]
