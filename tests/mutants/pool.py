"""Deliberate bugs in the pool."""

from __future__ import annotations

from . import Mutant

SHELF, STOCK, POOL = "resilience/_shelf.py", "resilience/_stock.py", "resilience/pool.py"
ACQUISITION, LEASE, INJECTION = "resilience/_acquisition.py", "resilience/_lease.py", "resilience/_injection.py"
MACHINE = ("tests/machines/test_pool.py",)
LENDING = ("tests/test_pool.py",)
WAITING = ("tests/test_pool_waiting.py",)
TASKS = ("tests/test_pool_tasks.py",)
OWNERS = ("tests/test_pool_owners.py",)
RACES = ("tests/test_pool_races.py",)
SHELVES = ("tests/test_pool_shelf.py",)
INJECT = ("tests/test_pool_inject.py",)


def shelf(name: str, old: str, new: str, tests: tuple[str, ...] = LENDING) -> Mutant:
    return Mutant(f"pool: {name}", SHELF, old, new, (*SHELVES, *tests))


def stock(name: str, old: str, new: str, tests: tuple[str, ...] = TASKS) -> Mutant:
    return Mutant(f"pool: {name}", STOCK, old, new, tests)


def way(name: str, old: str, new: str, tests: tuple[str, ...] = TASKS) -> Mutant:
    return Mutant(f"pool: {name}", ACQUISITION, old, new, tests)


def pool(name: str, old: str, new: str, tests: tuple[str, ...] = (*LENDING, *MACHINE)) -> Mutant:
    return Mutant(f"pool: {name}", POOL, old, new, tests)


MUTANTS = [
    # the shelf: lending
    shelf("the oldest is lent first", "item = self.idle.pop()", "item = self.idle.popleft()"),
    shelf(
        "nothing is evicted by who borrows",
        "        self.evict_locked(now)\n        return self.next_locked",
        "        return self.next_locked",
    ),
    shelf("what is too old is lent", "            if item.expires > now:\n", "            if True:\n", RACES),
    shelf(
        "lent at its very end", "            if item.expires > now:\n", "            if item.expires >= now:\n", MACHINE
    ),
    shelf("one too many", "if len(self.items) >= self.max_size or", "if len(self.items) > self.max_size or"),
    shelf("a crowd connects to a server that is down", "or (self.wary and self.creating) or", "or", WAITING),
    shelf("nobody connects again", "(self.wary and self.creating)", "self.wary"),
    shelf(
        "a closed pool creates",
        "(self.wary and self.creating) or self.closed:",
        "(self.wary and self.creating):",
        MACHINE,
    ),
    shelf("one spare too many", "if len(self.idle) >= self.min_idle or", "if len(self.idle) > self.min_idle or"),
    shelf("several refill", "self.min_idle or self.refilling or", "self.min_idle or", MACHINE),
    shelf("spares are tried again and again", "self.refilling or self.wary:", "self.refilling:"),
    shelf("lifetimes have no jitter", "(1.0 - _JITTER * self.rng.random())", "1.0"),
    shelf("jitter makes lives longer", "(1.0 - _JITTER", "(1.0 + _JITTER"),
    shelf(
        "creation of a parent counts",
        "        if item.generation != self.generation:\n            return []\n        self.creating -= 1\n",
        "        self.creating -= 1\n",
        RACES,
    ),
    shelf(
        "what is created is still being created",
        "        self.creating -= 1\n        self.created += 1\n",
        "        self.created += 1\n",
    ),
    shelf(
        "success does not end the worry",
        "        self.wary = False\n        return self.fill",
        "        return self.fill",
        WAITING,
    ),
    shelf(
        "success lets nobody else try",
        "        return self.fill_locked(now)  # who had to wait while others tried may try too",
        "        return []",
        WAITING,
    ),
    shelf("failure is forgotten", "        self.wary = self.wary or wary\n", "", WAITING),
    shelf("cancelling is failure", "self.wary = self.wary or wary", "self.wary = True", MACHINE),
    shelf(
        "a failed creation keeps its slot",
        "        self._gone_locked(item)\n        return self.fill_locked(now)\n\n    # -- returning",
        "        return self.fill_locked(now)\n\n    # -- returning",
    ),
    shelf(
        "a failed creation gives its slot to nobody",
        "        self._gone_locked(item)\n        return self.fill_locked(now)\n\n    # -- returning",
        "        self._gone_locked(item)\n        return []\n\n    # -- returning",
        MACHINE,
    ),
    # the shelf: returning
    shelf(
        "generation check off",
        '        """An item comes back, to be lent again or closed. One that is not lent, or of the parent, changes nothing."""\n        if item.generation != self.generation or item.state is not LENT:',
        '        """An item comes back, to be lent again or closed. One that is not lent, or of the parent, changes nothing."""\n        if item.state is not LENT:',
        (*MACHINE, *RACES),
    ),
    shelf(
        "returned twice",
        '        """An item comes back, to be lent again or closed. One that is not lent, or of the parent, changes nothing."""\n        if item.generation != self.generation or item.state is not LENT:',
        '        """An item comes back, to be lent again or closed. One that is not lent, or of the parent, changes nothing."""\n        if item.generation != self.generation:',
    ),
    shelf(
        "an interrupted one is used again",
        '        if verdict is ABANDONED:\n            return self.doom_locked(item, "interrupted", now)\n',
        "",
    ),
    shelf(
        "a failed one is used again unchecked",
        '        if verdict is FAILURE and not self.checks:\n            return self.doom_locked(item, "failed", now)\n',
        "",
    ),
    shelf(
        "a failed one is not doubted", "        item.doubtful = verdict is FAILURE\n", "        item.doubtful = False\n"
    ),
    shelf(
        "who never used it vouches for it",
        "        item.doubtful = self.due(item, now)\n",
        "        item.doubtful = False\n",
        MACHINE,
    ),
    shelf("checks are for the doubtful alone", "(item.doubtful or now - item.returned > FRESH)", "item.doubtful"),
    shelf("every loan is checked", "now - item.returned > FRESH", "now - item.returned >= 0.0"),
    shelf("half a second is stale", "now - item.returned > FRESH", "now - item.returned >= FRESH", MACHINE),
    shelf(
        "a closed pool keeps what comes back",
        '        if self.closed:\n            return self.doom_locked(item, "closed", now)\n',
        "",
    ),
    shelf(
        "what is too old is kept",
        '        if item.expires <= now:\n            return self.doom_locked(item, "lifetime", now)\n',
        "",
    ),
    shelf(
        "kept at its very end",
        "        if item.expires <= now:\n            return",
        "        if item.expires < now:\n            return",
    ),
    shelf(
        "a smaller pool keeps what comes back",
        '        if len(self.items) - self.closing > self.max_size:\n            return self.doom_locked(item, "resized", now)\n',
        "",
    ),
    shelf(
        "what is being closed is too many",
        "        if len(self.items) - self.closing > self.max_size:",
        "        if len(self.items) > self.max_size:",
        MACHINE,
    ),
    shelf(
        "the time of the return is not noted",
        "        item.returned = now\n        if self.queue:",
        "        if self.queue:",
        MACHINE,
    ),
    shelf(
        "waiters are not served", "        if self.queue:\n            return [self._grant_locked(item)]\n", "", WAITING
    ),
    # the shelf: closing
    shelf(
        "the idle are kept beyond their life",
        '            if idle[0].expires <= now:\n                reason = "lifetime"\n            elif',
        "            if",
        MACHINE,
    ),
    shelf("the minimum is evicted", "elif len(idle) > self.min_idle and", "elif", MACHINE),
    shelf(
        "one below the minimum", "elif len(idle) > self.min_idle and", "elif len(idle) >= self.min_idle and", MACHINE
    ),
    shelf(
        "evicted too late",
        "idle[0].returned + self.max_idle_time <= now",
        "idle[0].returned + self.max_idle_time < now",
        MACHINE,
    ),
    shelf(
        "a doomed one lets nobody in",
        "        self._doom_locked(item, reason)\n        return self.fill_locked(now)",
        "        self._doom_locked(item, reason)\n        return []",
        MACHINE,
    ),
    shelf(
        "nothing to close keeps the slot", "        if not self.closes:\n            self._closed_locked(item)\n", ""
    ),
    shelf(
        "closed twice",
        "        if item.generation != self.generation or item.state is not CLOSING:\n            return []\n",
        "",
        RACES,
    ),
    shelf(
        "a closed one lets nobody in",
        "        self._closed_locked(item)\n        return self.fill_locked(now)",
        "        self._closed_locked(item)\n        return []",
        WAITING,
    ),
    shelf("a closed one keeps its slot", "        self.items.discard(item)\n", "", LENDING),
    # the shelf: waiting
    shelf("who could have a slot soon is rejected", "len(self.queue) < self.closing or (patient", "(patient", WAITING),
    shelf("one more in the queue", "len(self.queue) < self.max_queue)", "len(self.queue) <= self.max_queue)", WAITING),
    shelf(
        "the impatient queue",
        "(patient and len(self.queue) < self.max_queue)",
        "(len(self.queue) < self.max_queue)",
        WAITING,
    ),
    shelf("who found a broken one is last", "        if first:\n", "        if False:\n", MACHINE),
    shelf(
        "a closed pool has a queue",
        "        if self.closed:\n            place.granted = True",
        "        if False:\n            place.granted = True",
        RACES,
    ),
    shelf("last come, first served", "self.queue.popitem(last=False)", "self.queue.popitem(last=True)", WAITING),
    shelf(
        "a waiter is let in without being told",
        "        place.granted = True\n        return place",
        "        return place",
        WAITING,
    ),
    shelf(
        "the longest wait is the last",
        "self.longest_wait = max(self.longest_wait, seconds)",
        "self.longest_wait = seconds + 1.0",
        WAITING,
    ),
    # the shelf: the pool as a whole
    shelf(
        "a larger pool lets nobody in",
        '            self._doom_locked(self.idle.popleft(), "resized")\n        return self.fill_locked(now)',
        '            self._doom_locked(self.idle.popleft(), "resized")\n        return []',
        MACHINE,
    ),
    shelf(
        "a smaller pool keeps the idle",
        "        while self.idle and len(self.items) - self.closing > max_size:",
        "        while False:",
    ),
    shelf(
        "a closed pool keeps the idle",
        "        self.closed = True\n        while self.idle:",
        "        self.closed = True\n        while False:",
    ),
    shelf(
        "waiters of a closed pool are not told",
        "            place.granted = True\n        return woken",
        "            pass\n        return woken",
        WAITING,
    ),
    shelf("drained before it is empty", "if not self.closed or self.items:", "if not self.closed:"),
    shelf(
        "nobody learns that it is empty",
        "            ticket.granted = True\n        return drained",
        "            pass\n        return drained",
        LENDING,
    ),
    shelf("leaks are reported early", "if item.borrowed + self.leak_after > now:", "if item.borrowed > now:", OWNERS),
    shelf(
        "leaks are reported late",
        "if item.borrowed + self.leak_after > now:",
        "if item.borrowed + self.leak_after >= now:",
        OWNERS,
    ),
    shelf("what came back is a leak", "            self.out.pop(item, None)\n", "", OWNERS),
    shelf("a leak is counted twice", "if self.leak_after is None or item in self.out:", "if True:", OWNERS),
    shelf(
        "a lost one is lent again",
        "        return self.put_locked(item, ABANDONED, now)",
        "        item.doubtful = False\n        return self._shelve_locked(item, now)",
        OWNERS,
    ),
    shelf(
        "what is lost twice is lost",
        '        """A borrower dropped its lease. It may still use the resource, so that nobody else gets it."""\n        if item.generation != self.generation or item.state is not LENT:\n            return []\n',
        "",
        OWNERS,
    ),
    shelf("what has no resource in it is emptied out", " if item.state in {LENT, IDLE}]", "]"),
    shelf("the stack of a loan outlives it", "            item.stack = None\n", ""),
    shelf("a child keeps what its parent has", "        self.emptied_locked()\n", "", (*OWNERS, *MACHINE)),
    shelf("a child says goodbye for its parent", "        self.inherited += self.items\n", "", OWNERS),
    shelf("a child keeps the queue", "        self.queue.clear()\n        self.doomed", "        self.doomed", MACHINE),
    # the stock
    stock("two loops share", "if self.loop is not None and not self.loop.is_closed():", "if False:"),
    stock("no new loop", "if self.loop is not None and not self.loop.is_closed():", "if self.loop is not None:"),
    stock("loans of the old loop count", "            self.generation += 1  # no loan of the old loop counts\n", ""),
    stock(
        "what the old loop had is forgotten unclosed",
        "                self.doomed.append(item)\n        self.unlocked()",
        "                pass\n        self.unlocked()",
    ),
    stock(
        "a coroutine is lent", "if inspect.iscoroutine(resource) or asyncio.isfuture(resource):", "if False:", OWNERS
    ),
    stock(
        "a check that raises is the caller's trouble",
        "        except Exception:  # noqa: BLE001 - that is how many checks say no\n            return False\n\n    async def",
        "        except ZeroDivisionError:\n            return False\n\n    async def",
        LENDING,
    ),
    stock("nothing said is no", "return answer is None or bool(answer)", "return bool(answer)", LENDING),
    stock("false is yes", "return answer is None or bool(answer)", "return True", LENDING),
    stock(
        "a refill never ends",
        "                self.refilling = False\n            if error",
        "                pass\n            if error",
        LENDING,
    ),
    stock("one spare is enough", "                spare = self.spare_locked()\n", "", LENDING),
    stock(
        "a failed refill keeps its slot",
        "                woken += self.failed_locked(item, now, wary=True)\n",
        "                pass\n",
        TASKS + MACHINE,
    ),
    stock(
        "a cancelled refill keeps its slot",
        "                self.late.append((self._given_up_locked, item, ABANDONED))\n",
        "",
    ),
    stock(
        "a refill of the parent ends that of the child",
        "            if item.generation == self.generation:\n                self.refilling",
        "            if True:\n                self.refilling",
        RACES,
    ),
    stock("nothing is closed", "                    self._throw_away(item)\n", "                    pass\n", LENDING),
    stock("closed in the wrong loop", "            elif self.loop is running_loop():", "            elif True:"),
    stock(
        "what cannot be closed keeps its slot",
        "                self.disposed(item)\n            else:",
        "                pass\n            else:",
    ),
    stock(
        "without a thread nothing is closed",
        "                self.dispose(item)\n\n    def dispose",
        "                self.disposed(item)\n\n    def dispose",
    ),
    stock(
        "an error in closing keeps the slot",
        "            self._complain(error)\n        finally:\n            self.disposed(item)\n\n    async",
        "            self._complain(error)\n        else:\n            self.disposed(item)\n\n    async",
        LENDING,
    ),
    stock("closing may hang", "asyncio.timeout(_PATIENCE)", "asyncio.timeout(None)"),
    stock(
        "the log tells of loops that are closed",
        "            if item.generation == self.generation:  # else its loop",
        "            if True:  # else its loop",
    ),
    stock(
        "disposed without anybody knowing",
        "        self.late.append((self._disposed_locked, item, ABANDONED))\n",
        "",
        LENDING,
    ),
    stock("tasks are held weakly", "        self.tasks.add(task)\n", ""),
    stock(
        "leaks are not watched",
        "        if self.leak_after is not None:\n            stack",
        "        if False:\n            stack",
        OWNERS,
    ),
    # the way to a resource
    way(
        "waiting ignores the deadline",
        "patience, left = self._pool._patience, deadline.remaining()",
        "patience, left = self._pool._patience, None",
        WAITING,
    ),
    way("patience begins again and again", "self._began + patience - self._pool._clock.now()", "patience"),
    way("the deadline is never blamed", "DeadlineExceededError(pool.name) if self._hurried else", "", WAITING),
    way(
        "who gives up stays in the queue",
        "                stock.queue.pop(place, None)\n                stock.timed_out += 1\n",
        "                stock.timed_out += 1\n",
        MACHINE,
    ),
    way(
        "giving up is not counted",
        "                stock.queue.pop(place, None)\n                stock.timed_out += 1\n",
        "                stock.queue.pop(place, None)\n",
        WAITING,
    ),
    way(
        "nothing from a closed pool is something",
        "        if self.item is None:\n            raise self._pool._rejected(PoolClosedError(self._pool.name))\n",
        "",
        WAITING,
    ),
    way(
        "what was handed over is not checked",
        "item.state is LENT and not self._stock.due(item, self._pool._clock.now())",
        "item.state is LENT",
        WAITING,
    ),
    way("a failed creation is not told to the shelf", "*stock.failed_locked(item, now, wary=True)]", "]", LENDING),
    way(
        "a broken one is kept",
        'woken += stock.doom_locked(item, "broken", now) if same else stock.fill_locked(now)',
        "woken += stock.fill_locked(now)",
        LENDING,
    ),
    way(
        "a broken one of the parent is closed",
        'stock.doom_locked(item, "broken", now) if same else stock.fill_locked(now)',
        'stock.doom_locked(item, "broken", now)',
        RACES,
    ),
    way("creating is waiting", "            metered(began - self._pool._clock.now())", "            pass", WAITING),
    way(
        "create cannot see its time",
        "        token = ambient.set(Deadline(",
        "        token = ambient.set(outer) if True else ambient.set(Deadline(",
        LENDING,
    ),
    way(
        "creating is never cut off",
        "        if limit is None:\n            yield\n            return\n        scope",
        "        if True:\n            yield\n            return\n        scope",
    ),
    way("a timeout of the driver is ours", "            if scope.expired():\n", "            if True:\n"),
    way(
        "a slow errand is waited for",
        "            late = self._busy\n",
        "            late = False\n",
    ),
    way("an errand does not see that its caller left", "            if self._left:\n", "            if False:\n"),
    way(
        "who leaves takes what an errand works on",
        "        if self._busy:\n            self._left = True\n            return []\n",
        "",
    ),
    way(
        "a cancelled waiter stays in the queue",
        "            stock.queue.pop(place, None)\n            if place.granted:",
        "            if place.granted:",
        MACHINE,
    ),
    way(
        "missing release on cancel",
        "            if place.granted:\n                place.granted = False\n                item = place.item\n",
        "",
        (*MACHINE, *WAITING),
    ),
    way("what a check was cut off in is used again", "        if self._touched:\n", "        if False:\n", WAITING),
    way(
        "a check that ended well is held against it",
        "        self._touched = False\n        if healthy:",
        "        if healthy:",
        TASKS + MACHINE,
    ),
    way("what was given up by nobody", "return self.abandon_locked() if ticket.granted else []", "return []", WAITING),
    way(
        "a place that got nothing is abandoned",
        "return self.abandon_locked() if ticket.granted else []",
        "return self.abandon_locked()",
        RACES,
    ),
    way("no thread, no slot", "            self._busy = False\n            raise", "            raise"),
    # the pool
    pool("the quick way takes what is too old", "if item.expires > now and (not stock.checks", "if (not stock.checks"),
    pool(
        "the quick way does not check",
        "(not stock.checks or (now - item.returned <= FRESH and not item.doubtful))",
        "True",
    ),
    pool(
        "the quick way trusts the doubtful",
        "now - item.returned <= FRESH and not item.doubtful",
        "now - item.returned <= FRESH",
    ),
    pool(
        "the quick way does not look for what was handed over",
        "if len(idle) > stock.min_idle and not stock.late:",
        "if len(idle) > stock.min_idle:",
        RACES,
    ),
    pool(
        "the quick way does not look again",
        "if len(idle) > stock.min_idle and not stock.late:",
        "if not stock.late:",
        RACES,
    ),
    pool(
        "the quick way is blind for leaks",
        "<= stock.min_idle or stock.leak_after is not None:",
        "<= stock.min_idle:",
        OWNERS,
    ),
    pool("the quick way does not count", "                    stock.borrowed += 1\n", ""),
    pool(
        "the lock is kept",
        "        finally:\n            free.append(None)\n        return self._admit_slowly()",
        "        finally:\n            pass\n        return self._admit_slowly()",
    ),
    pool(
        "a return under the lock is lost",
        "            stock.late.append((self._put_locked, permit, verdict))\n",
        "            pass\n",
        MACHINE,
    ),
    pool(
        "every return is a success",
        "                    verdict is SUCCESS\n                    and not (",
        "                    not (",
    ),
    pool("the quick return serves no waiter", "not (stock.queue or stock.closed", "not (stock.closed", WAITING),
    pool("the quick return keeps what a closed pool has", "not (stock.queue or stock.closed or", "not (stock.queue or"),
    pool("the quick return forgets the watch", " or stock.leak_after)", ")", OWNERS),
    pool("the quick return keeps too many", "                    and len(stock.items) <= stock.max_size\n", ""),
    pool("the quick return takes what is not lent", "                    and permit.state is LENT\n", ""),
    pool(
        "the quick return takes what is the parent's",
        "                    and permit.generation == stock.generation\n",
        "",
        (*MACHINE, *OWNERS),
    ),
    pool("the quick return keeps what is too old", "                    and permit.expires > now\n", ""),
    pool(
        "the quick return evicts nothing",
        "                    and (not idle or (idle[0].expires > now and idle[0].returned + stock.max_idle_time > now))\n",
        "",
    ),
    pool("the quick return does not note the time", "                    permit.returned = now\n", "", LENDING),
    pool("a returned one wakes nobody", "            if woken:\n                stock.wake(woken)\n", "", WAITING),
    pool(
        "a timeout leaves nothing behind",
        "isinstance(error, Exception) and not isinstance(error, TimeoutError)",
        "isinstance(error, Exception)",
    ),
    pool(
        "a group is judged by its best",
        "ABANDONED if any(self.judge(leaf) is ABANDONED",
        "ABANDONED if all(self.judge(leaf) is ABANDONED",
    ),
    pool(
        "closing waits for ever",
        "drained.block(self._clock, _nearer(limit, deadline.remaining()))",
        "drained.block(self._clock, deadline.remaining())",
    ),
    pool(
        "closing ignores the deadline",
        "drained.suspend(self._clock, _nearer(limit, deadline.remaining()))",
        "drained.suspend(self._clock, limit)",
    ),
    pool(
        "who waited for the end is remembered",
        "            self._machine.drainers.remove(drained)\n",
        "            pass\n",
    ),
    pool("an empty pool is waited for", "            woken += stock.drained_locked()\n", ""),
    pool("without time one may queue", "                elif not in_time:\n", "                elif False:\n", RACES),
    pool(
        "without time one may create",
        "            elif in_time:\n                permit = Wait(",
        "            elif True:\n                permit = Wait(",
    ),
    pool("no time takes a slot", "                woken += stock.give_up_locked(item, now)\n", ""),
    pool("rejections are not counted", "            stock.rejected += refusal is not None\n", "", WAITING),
    pool(
        "the minimum is not filled up",
        "        if spare is not None:\n            stock.refill(spare)\n",
        "        if spare is not None:\n            pass\n",
    ),
    pool(
        "who does not wait waits for ever",
        "_PATIENCE if self._max_wait == 0.0 else self._max_wait",
        "self._max_wait",
        TASKS,
    ),
    # leases and injection
    Mutant(
        "pool: a method is given the resource as its self",
        INJECTION,
        'parameters[0].name not in {"self", "cls"} or',
        "True or",
        INJECT,
    ),
    Mutant(
        "pool: a method of a class is given the resource as its cls",
        INJECTION,
        'parameters[0].name not in {"self", "cls"} or',
        'parameters[0].name not in {"self"} or',
        INJECT,
    ),
    Mutant(
        "pool: whatever stands in a class is a method",
        INJECTION,
        'parameters[0].name not in {"self", "cls"} or',
        "",
        INJECT,
    ),
    Mutant(
        "pool: a method of the resource is a method that wants one",
        INJECTION,
        " or not has_no_name_yet(fn)",
        "",
        INJECT,
    ),
    Mutant(
        "pool: a function in a function is taken for a method",
        INJECTION,
        ' and not scope.endswith("<locals>")',
        "",
        INJECT,
    ),
    Mutant(
        "pool: a method that takes no resource is taken",
        INJECTION,
        "taken = parameters[len(own) : len(own) + 1]",
        "taken = parameters[:1]",
        INJECT,
    ),
    Mutant(
        "pool: a method shows the resource among its parameters",
        INJECTION,
        "rest = parameters[len(own) + (",
        "rest = parameters[(",
        INJECT,
    ),
    Mutant(
        "pool: a lease is for many",
        LEASE,
        "        self._spent = True\n        pool = self._pool",
        "        pool = self._pool",
        LENDING,
    ),
    Mutant("pool: discarding is forgotten", LEASE, "        if self._discarded:\n", "        if False:\n", LENDING),
    Mutant(
        "pool: a dropped lease is lost",
        LEASE,
        "            stock.late.append((stock.lost, item, ABANDONED))\n",
        "",
        OWNERS,
    ),
    Mutant(
        "pool: the error of a block is not looked at",
        LEASE,
        "            self._pool._fail(item, error)",
        "            self._pool.settle(item)",
        LENDING,
    ),
    Mutant(
        "pool: a generator may return before it ends",
        INJECTION,
        "                return (yield from fn(resource, *args, **kwargs))",
        "                pass\n            return (yield from fn(resource, *args, **kwargs))",
        INJECT,
    ),
    Mutant(
        "pool: a function that raises keeps its resource",
        INJECTION,
        "                result = fn(item.resource, *args, **kwargs)\n            except BaseException as error:\n                fail(item, error)\n",
        "                result = fn(item.resource, *args, **kwargs)\n            except BaseException as error:\n",
        INJECT,
    ),
    Mutant(
        "pool: what is awaited later has no resource",
        INJECTION,
        "            if type(result) not in PLAIN and (rest := unfinished(item, result, fn)) is not None:\n                return rest\n",
        "",
        INJECT,
    ),
    Mutant(
        "pool: a plain function is never refused",
        INJECTION,
        "        if self._machine.is_async:\n",
        "        if False:\n",
        INJECT,
    ),
]
