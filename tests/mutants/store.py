"""Deliberate bugs in shared state: the machines of a store, the courier, and the policies' parts of them."""

from __future__ import annotations

from . import Mutant

STORE = ("tests/test_store.py", "tests/test_store_closing.py")
REDIS = ("tests/test_redis_store.py",)
CLIENTS = ("tests/test_redis_clients.py",)
TROUBLE = ("tests/test_redis_trouble.py",)
RACES = ("tests/test_store_races.py",)
POLICIES = ("tests/test_shared_policies.py",)
SWEEP = ("tests/test_shared_hammer.py",)
LIMITER = ("tests/machines/test_shared_limiter.py",)
CIRCUIT = ("tests/machines/test_shared_circuit.py",)
SCRIPTS = ("tests/machines/test_redis_scripts.py",)


def remote(name: str, file: str, old: str, new: str, tests: tuple[str, ...]) -> Mutant:
    return Mutant(f"redis: {name}", f"integrations/resilience_redis/{file}.py", old, new, tests)


def mutant(name: str, file: str, old: str, new: str, tests: tuple[str, ...]) -> Mutant:
    return Mutant(f"store: {name}", f"resilience/{file}.py", old, new, tests)


MUTANTS = [
    # the ledger
    mutant("a look takes tokens", "_ledger", "if admitted and take:", "if admitted:", LIMITER),
    mutant("the deadline is not looked at", "_ledger", "wait <= max_wait and wait <= left", "wait <= max_wait", POLICIES),
    mutant("a limit holds for the first rate only", "_ledger", "start = max(start, after - tolerance)", "return max(start, after - tolerance)", LIMITER),
    mutant("an earlier reservation is refunded", "_ledger", "if tuple(self.tats) != marks[:count]:", "if False:", LIMITER),
    mutant("a refund gives nothing back", "_ledger", "self.tats = list(marks[count:])", "self.tats = list(marks[:count])", LIMITER),
    mutant("a charge is free", "_ledger", "self.tats = [max(tat, now) + cost * interval for tat, interval", "self.tats = [max(tat, now) for tat, interval", POLICIES),
    mutant("one slot too many", "_ledger", "len(self.leases) < capacity", "len(self.leases) <= capacity", POLICIES),
    mutant("fencing numbers repeat", "_ledger", "max(self.fence + 1.0,", "max(self.fence,", POLICIES),
    mutant("a lease does not expire", "_ledger", "if until <= now", "if until < -now", SCRIPTS),
    mutant("a lost lease is renewed", "_ledger", "            if has_one:\n", "            if True:\n", POLICIES),
    mutant("a budget forgets nothing", "_ledger", "number <= index - BUCKETS", "number <= index - 9 * BUCKETS", SCRIPTS),
    # the circuit in the store
    mutant("an old round counts", "_ledger_circuit", "and round_ == self._round and", "and", SCRIPTS + CIRCUIT),
    mutant("a streak goes on after a success", "_ledger_circuit", "trailing if successes else", "self._streak + failures if successes else", SCRIPTS + CIRCUIT),
    mutant("one probe too many", "_ledger_circuit", "len(self._leases) < places", "len(self._leases) <= places", SCRIPTS + CIRCUIT),
    mutant("a probe before its time", "_ledger_circuit", "self._state == OPEN and now >= self._until", "self._state == OPEN", SCRIPTS + CIRCUIT),
    mutant("a lease of a probe never expires", "_ledger_circuit", "            if now < expiry:", "            if True:", SCRIPTS + CIRCUIT),
    mutant("an expired probe is no failure", "_ledger_circuit", "            self._probe_failed(expiry, 0.0, jitter)", "            pass", SCRIPTS + CIRCUIT),
    mutant("the pause does not grow", "_ledger_circuit", "2.0 ** min(self._reopened, 1000.0)", "1.0", SCRIPTS + CIRCUIT),
    mutant("what the failure asks for is ignored", "_ledger_circuit", "pause = max(pause, min(retry_after, longest))", "pass", SCRIPTS),
    mutant("leases survive a change of state", "_ledger_circuit", "        self._leases.clear()\n        self._good", "        self._good", SCRIPTS + CIRCUIT),
    mutant("evidence survives a change of state", "_ledger_circuit", "            self._buckets.clear()", "            pass", SCRIPTS + CIRCUIT),
    mutant("buckets never leave the window", "_ledger_circuit", "            del self._buckets[index]", "            pass", SCRIPTS + CIRCUIT),
    # the courier
    mutant("what was granted to nobody is kept", "_courier", "        elif self.undo is not None:\n            self.undo(reply)", "", STORE),
    mutant("an answer in the turn of the cancellation is kept", "_courier", "                self.undo(future.result())", "                pass", RACES),
    mutant("everyone travels alone", "_courier", "        batch.entries.append(entry)\n        return True", "        batch.entries.append(entry)\n        self.leave(batch)\n        return True", STORE),
    mutant("a batch may take for ever", "_courier", "            self.task.cancel()\n", "            pass\n", STORE),
    mutant("any number of batches at a time", "_courier", "batch.task is None and len(self._under_way) < _MOST_BATCHES", "batch.task is None", STORE),
    mutant("any number of batches gathers", "_courier", "_ENOUGH and len(self._under_way) < _MOST_BATCHES", "_ENOUGH", STORE),
    mutant("a batch has never enough", "_courier", "len(batch.entries) >= _ENOUGH", "False", STORE),
    mutant("a batch has enough too late", "_courier", "len(batch.entries) >= _ENOUGH", "len(batch.entries) > _ENOUGH", STORE),
    mutant("who waits for a batch is never served", "_courier", "        self.leave(batch)\n        self._start()", "        self.leave(batch)", STORE),
    mutant("reports end with their loop", "_courier", "            self._hand_over()", "            pass", STORE),
    mutant("the outbox of a loop has no bound", "_courier", "        elif len(batch.entries) >= MOST_REPORTS and", "        elif False and", STORE),
    mutant("the courier starts when the interpreter ends", "_courier", "if sys.is_finalizing() or not", "if not", STORE),
    mutant("the outbox of the thread has no bound", "_courier", "if self._outbox.qsize() >= MOST_REPORTS:", "if False:", STORE),
    mutant("a failed journey loses nothing", "_courier", "        replies = [error] * len(sent)", "        return", STORE),
    mutant("the thread renews nothing", "_courier", "[*reports, *store.due_renewals()]", "reports", STORE),
    # the store
    mutant("trouble of threads is not counted", "store", "            self._gate.leave(permit, FAILURE, error)\n            raise StoreUnavailableError(self.name) from error\n        except BaseException as error:\n            self._gate.leave(permit, ABANDONED", "            self._gate.leave(permit, ABANDONED, error)\n            raise StoreUnavailableError(self.name) from error\n        except BaseException as error:\n            self._gate.leave(permit, ABANDONED", STORE),
    mutant("trouble of tasks is not counted", "store", "            self._gate.leave(permit, FAILURE, error)\n            raise StoreUnavailableError(self.name) from error\n        except BaseException as error:\n            self._gate.leave(permit, FAILURE if", "            self._gate.leave(permit, ABANDONED, error)\n            raise StoreUnavailableError(self.name) from error\n        except BaseException as error:\n            self._gate.leave(permit, FAILURE if", STORE),
    mutant("an interruption is trouble", "store", "self._gate.leave(permit, ABANDONED, error)", "self._gate.leave(permit, FAILURE, error)", STORE),
    mutant("slowness is no trouble", "store", "FAILURE if expired() else ABANDONED", "ABANDONED", STORE),
    mutant("a store is copied", "store", "    def __reduce_ex__(", "    def _reduce_ex(", STORE),
    mutant("how long it refuses without asking is told as the pause", "_shared_circuit", "            self.refuses_until = -math.inf\n", "            self.refuses_until = min(self.refuses_until, self._heard_at + self._fresh)\n", STORE),
    mutant("a long name stays long", "_keys", 'return text if len(text) <= _LONGEST else "%"', 'return text if True else "%"', CLIENTS),
    mutant("a failed reply is no trouble", "store", "SUCCESS if trouble is None else FAILURE", "SUCCESS", STORE),
    mutant("trouble is told each time", "store", "if verdict is FAILURE and store._healthy:", "if verdict is FAILURE:", STORE),
    mutant("recovery is not told", "store", "                self._tell(store, StoreRecovered)", "                pass", STORE),
    mutant("no probe finds out", "store", "recovery_time=0.5", "recovery_time=5.0", STORE),
    mutant("old loops are kept", "store", "                    self._lines.pop(number, None)", "                    pass", STORE),
    mutant("keys of different types are one", "_keys", '        return "b-" + quote', '        return "s-" + quote', STORE),
    mutant("parts of a key run together", "_keys", 'f"{len(part)}.{part}"', 'f"{part}"', STORE),
    mutant("a long key stays long", "_keys", 'if len(text) <= _LONGEST else "h-"', 'if True else "h-"', STORE),
    mutant("a memory store has no bound", "_memory_store", "return len(self.states) < self._max_keys", "return True", STORE),
    mutant("a full memory store is swept each time", "_memory_store", "and now < self._next_look", "and False", STORE),
    mutant("what was told in between is not heard", "_memory_store", "        self._told.append(report)\n        self._hear()", "        self._told.append(report)", POLICIES),
    mutant("the child of a fork holds the parent's slots", "_memory_store", "            state.forked()", "            pass", STORE),
    mutant("closing does not wait for the thread", "store", "        self.thread.flush()", "        pass", STORE),
    mutant("closing does not wait for the loop", "store", "            await line.flush()\n", "", STORE),
    mutant("a thread waits for itself", "_courier", "thread is threading.current_thread() or", "", STORE),
    # the connections
    remote("closed connections of tasks are used", "_connections", "await _ended(link):", "False:", REDIS),
    remote("closed connections look sound", "_connections", "return bool(await look() or", "return False and bool(", REDIS),
    remote("settings of one colour are given to the other", "_connections", "if not issubclass(kind, self._kind):", "if False:", CLIENTS),
    remote("demands of TLS are dropped", "_connections", ' or (name.startswith("ssl_") and value)', "", CLIENTS),
    remote("a circuit is written in one command", "_scripts", "if #values >= 1000 then write() end", "", REDIS),
    remote("a dribbling server holds a thread", "_connections", "            self._socket.settimeout(self._limits.left())", "            pass", TROUBLE),
    remote("each write has all the time", "_connections", "        while rest:\n            self._limit()", "        while rest:", CLIENTS),
    remote("lost scripts have the time again", "_redis_store", "self._threads.exchange(again, end)", "self._threads.exchange(again, self._threads.end())", TROUBLE),
    remote("settings are looked at when it is too late", "_connections", "            self._made(kind, self._retries[self._sync is not kind], 1.0)", "            pass", CLIENTS),
    remote("a class of somebody's own is used in the wrong colour", "_connections", "    if issubclass(kind, module.AbstractConnection):", "    if True:", CLIENTS),
    remote("a sentinel's connections are used as others", "_connections", 'if any(one.__name__.startswith("Sentinel") for one in kind.__mro__):', "if False:", CLIENTS),
    remote("the client is forgotten", "_connections", "        self._client = client ", "        self._client = None ", CLIENTS),
    # the policies
    mutant("a wait in the store is not waited for", "_shared_limiter", "            if answer.wait <= 0.0:", "            if True:", POLICIES),
    mutant("a cancelled question keeps its tokens", "_shared_limiter", "failed, None if pays_later else undo)", "failed, None)", SWEEP + POLICIES),
    mutant("who gave up a reservation pays", "rate_limiter", "            wait.permit.forsake()", "            pass", SWEEP + POLICIES),
    mutant("open is closed", "_shared_limiter", '            case "open":\n                return _EXEMPT', '            case "open" if False:\n                return _EXEMPT', STORE),
    mutant("blocks add to the burst", "_shared_limiter", "limit.allowance - held * limit.interval", "limit.allowance", POLICIES),
    mutant("a block is good for ever", "_local_tokens", "block is None or now >= block[1]", "block is None", POLICIES),
    mutant("a block is never used up", "_local_tokens", "            block[0] -= cost\n", "", POLICIES),
    mutant("newcomers overtake", "_shared_bulkhead", "self.turn._machine.used and", "False and", POLICIES),
    mutant("a slot is given back twice", "_shared_bulkhead", "elif self._held.pop(permit.owner, None) is not None:", "elif self._held.pop(permit.owner, None) or True:", POLICIES),
    mutant("a cancelled question keeps its slot", "_shared_bulkhead", "lambda: self.without_store(policy), self.undo(owner)", "lambda: self.without_store(policy), None", SWEEP),
    mutant("a lost lease is not told", "_shared_bulkhead", "                policy._tell(LeaseLost)", "                pass", POLICIES),
    mutant("a wait has no end", "_shared_bulkhead", "if rest is not None and rest <= 0.0:", "if False:", POLICIES),
    mutant("news of the same round are news", "_shared_circuit", "if shared is before and round_ == known:", "if False:", CIRCUIT + POLICIES),
    mutant("permits of an old round count", "_shared_circuit", "if shared is before and round_ == known:", "if shared is before:", POLICIES),
    mutant("a command by hand is forgotten in trouble", "_shared_circuit", "        if self._command is not None:\n            return\n", "", POLICIES + CIRCUIT),
    mutant("advice is an order", "_shared_circuit", "if self.state is CLOSED and self._has_evidence_locked(now):", "if False:", POLICIES),
    mutant("a cancelled probe keeps its place", "_shared_circuit", "            if reply[0]:\n", "            if False:\n", POLICIES),
    mutant("alone nothing opens", "_shared_circuit", "if self._alone or self._advisory or not self.store.available:", "if self._advisory:", POLICIES),
    mutant("a budget knows only itself", "_shared_budget", "if now >= self._heard_until or self.store.refuses:", "if True:", POLICIES),
    mutant("a child of a fork tells what its parent has counted", "budget", "        self._account.shared = self._shared\n", "", ("tests/test_store_leftovers.py",)),
    mutant("a lost report is waited for", "_shared_budget", "    def lost(self) -> None:\n        self._under_way = (0, 0)\n        self._telling_until = -float(\"inf\")", "    def lost(self) -> None:\n        self._under_way = (0, 0)", POLICIES),
]  # fmt: skip
