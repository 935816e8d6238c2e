"""The permits of one request: taken from policy after policy, and given back innermost first.

None of the usual policies makes a request wait, so they are passed without a coroutine; from the first one that does,
or that may, the rest is awaited.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

from resilience import Bulkhead, Keyed, Policy, Retry, Timeout
from resilience._policy import Guard
from resilience._wait import Wait
from resilience.keyed import _KeyedGuard

from .protocol import RawHeaders, Scope

Held = tuple[Policy | None, Any, Guard | None]
Door = tuple[Policy, Callable[[tuple[Any, ...]], Any] | None, bool]


@dataclass(frozen=True, slots=True)
class ResponseOutcome:
    """What `charge_if` and `failure_if` of a layer look at: the `status` and the raw `headers` of a response."""

    status: int
    headers: RawHeaders = ()


def judges(policy: Policy) -> bool:
    """Whether it matters to a policy how a call has ended. To a bulkhead it matters that it has."""
    return policy._settles and type(policy) is not Bulkhead


def door(policy: Policy) -> Door:
    """A policy with what admits, looked up once, and whether there is something to settle.

    A `Keyed` does not admit by itself: it chooses the policy that does.
    """
    return policy, None if type(policy) is Keyed else policy.admit, policy._settles


def admitted(doors: Iterator[Door], scope: Scope, held: list[Held]) -> Awaitable[None] | None:
    """Pass `doors` and add to `held` what has to be settled. What is returned has to be awaited, if anything is."""
    arguments = (scope,)
    for policy, admit, settles in doors:
        if admit is None:
            return _admitted_by_key(cast("Keyed", policy), doors, scope, held)
        permit = admit(arguments)
        if type(permit) is Wait:
            return _admitted_later(policy, permit, doors, scope, held)
        if settles:
            held.append((policy, permit, None))
    return None


async def _admitted_later(policy: Policy, wait: Wait, doors: Iterator[Door], scope: Scope, held: list[Held]) -> None:
    permit = await wait.suspend()
    if policy._settles:
        held.append((policy, permit, None))
    further = admitted(doors, scope, held)
    if further is not None:
        await further


async def _admitted_by_key(keyed: Keyed, doors: Iterator[Door], scope: Scope, held: list[Held]) -> None:
    guard = keyed.guard(scope)
    await guard.__aenter__()
    held.append(_behind(guard))
    further = admitted(doors, scope, held)
    if further is not None:
        await further


def _behind(guard: Guard) -> Held:
    """The policy and the permit behind the guard of a Keyed; no policy if the request has no key."""
    inner = cast("_KeyedGuard", guard)._inner
    if inner is None:
        return None, None, guard
    if isinstance(inner._policy, (Retry, Timeout)):
        guard.__exit__(None, None, None)
        raise TypeError(f"a layer of the middleware cannot be {inner._policy!r}, behind a Keyed neither")
    return inner._policy, inner.release(), guard


def given_back(
    held: Sequence[Held], settle: Callable[[Policy, Any, BaseException | None], None], error: BaseException | None
) -> None:
    """Settle every permit, innermost first. A judge of the user's that raises keeps none of the others."""
    failures: list[BaseException] = []
    for policy, permit, guard in reversed(held):
        try:
            if policy is not None:
                settle(policy, permit, error)
        except BaseException as failure:  # noqa: BLE001 - raised on below
            failures.append(failure)
        finally:
            if guard is not None:
                guard.__exit__(None, None, None)
    if failures:
        raise failures.pop()


def succeeded(held: list[Held]) -> None:
    """Settle every permit as a success, innermost first, where none is behind a Keyed. One that raises (Ctrl-C, say)
    keeps none of the others.
    """
    try:
        while held:
            policy, permit, _ = held.pop()
            assert policy is not None  # only a Keyed can have none
            policy.settle(permit)
    finally:
        if held:
            succeeded(held)
