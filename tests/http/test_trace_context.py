"""W3C Trace Context, read strictly; the cases of the recommendation's own test suite among others."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from resilience_http.trace_context import (
    TraceContext,
    begin_trace,
    bind_trace,
    parse_trace_context,
    parse_traceparent,
    parse_tracestate,
    trace_context,
    traced,
    unbind_trace,
)

from resilience import new_id

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
VALID = f"00-{TRACE}-{PARENT}-01"


def test_a_valid_traceparent_is_read() -> None:
    context = parse_traceparent(VALID)
    assert context is not None
    assert context == TraceContext(TRACE, PARENT, 1)
    assert context.sampled
    assert context.traceparent == VALID


@pytest.mark.parametrize(
    "value",
    [
        None,
        "",
        "garbage",
        VALID.upper(),
        f"ff-{TRACE}-{PARENT}-01",
        f"0-{TRACE}-{PARENT}-01",
        f".0-{TRACE}-{PARENT}-01",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE[:-1]}-{PARENT}-01",
        f"00-{TRACE}1-{PARENT}-01",
        f"00-{TRACE[:-1]}x-{PARENT}-01",
        f"00-{TRACE}-{PARENT}-1",
        f"00-{TRACE}-{PARENT}-0x",
        f"00-{TRACE}-{PARENT}",
        f"{VALID}-",
        f"{VALID}-what",
        f"{VALID}.",
        f"cc-{TRACE}-{PARENT}-01.what",
        f"00_{TRACE}_{PARENT}_01",
        f"00-{TRACE}-{PARENT}-\u0660\u0661",
        f"{VALID},{VALID}",
    ],
)
def test_a_traceparent_that_breaks_a_rule_is_as_good_as_none(value: str | None) -> None:
    assert parse_traceparent(value) is None


@pytest.mark.parametrize("version,rest", [("cc", ""), ("cc", "-what-the-future"), ("01", "-"), ("00", "")])
def test_later_versions_are_read_as_far_as_known_and_passed_on_as_version_00(version: str, rest: str) -> None:
    context = parse_traceparent(f" {version}-{TRACE}-{PARENT}-ff{rest}\t")
    assert context is not None
    assert context.traceparent == f"00-{TRACE}-{PARENT}-03"


@pytest.mark.parametrize("flags,sampled", [("00", False), ("01", True), ("02", False), ("03", True)])
def test_the_flags_of_level_two_are_kept(flags: str, sampled: bool) -> None:
    context = parse_traceparent(f"00-{TRACE}-{PARENT}-{flags}")
    assert context is not None
    assert context.sampled is sampled
    assert context.traceparent.endswith(flags)


@pytest.mark.parametrize(
    "values,state",
    [
        ([], ()),
        ([""], ()),
        (["foo=1"], (("foo", "1"),)),
        (["foo=1,bar=2", "rojo=1"], (("foo", "1"), ("bar", "2"), ("rojo", "1"))),
        ([" foo=1 ,\t bar=2\t,, "], (("foo", "1"), ("bar", "2"))),
        (["t61rcWkgMzE=1"], ()),
        (["fw529a3039@dt=FfAAAA", "0a@b=x"], (("fw529a3039@dt", "FfAAAA"), ("0a@b", "x"))),
        (["a-_*/=x y~!"], (("a-_*/", "x y~!"),)),
        (["foo= 1"], (("foo", " 1"),)),
        ([f"{'a' * 256}={'v' * 256}"], (("a" * 256, "v" * 256),)),
        ([f"{'a' * 257}=1"], ()),
        ([f"a={'v' * 257}"], ()),
        (["foo =1"], ()),
        (["FOO=1"], ()),
        (["foo.bar=1"], ()),
        (["foo"], ()),
        (["foo="], ()),
        (["=1"], ()),
        (["foo=bar=baz"], ()),
        (["foo=1", "foo=2"], ()),
        (["foo=1;bar=2", "föö=1"], ()),
        (["foo=\x7f"], ()),
    ],
)
def test_a_tracestate_keeps_its_order_or_is_dropped(values: list[str], state: tuple[tuple[str, str], ...]) -> None:
    assert parse_tracestate(values) == state


def test_a_tracestate_has_at_most_32_members() -> None:
    members = [f"bar{number:02}={number:02}" for number in range(33)]
    assert len(parse_tracestate([",".join(members[:32])])) == 32
    assert parse_tracestate([",".join(members)]) == ()


def test_a_bad_tracestate_goes_alone_and_a_bad_traceparent_takes_it_along() -> None:
    assert parse_trace_context([VALID], ["foo=1"]) == TraceContext(TRACE, PARENT, 1, (("foo", "1"),))
    assert parse_trace_context([VALID], ["foo"]) == TraceContext(TRACE, PARENT, 1)
    assert parse_trace_context(["x"], ["foo=1"]) is None
    assert parse_trace_context([]) is None
    assert parse_trace_context([VALID, VALID]) is None


def test_a_child_is_in_the_same_trace_under_a_fresh_parent_id() -> None:
    context = TraceContext(TRACE, PARENT, 1, (("foo", "1"),))
    child, other = context.child(), context.child()
    assert child.trace_id == TRACE
    assert child.state == context.state
    assert child.flags == 1
    assert len({PARENT, child.parent_id, other.parent_id}) == 3
    assert parse_traceparent(child.traceparent) is not None


def test_a_member_of_our_own_stands_in_front_and_pushes_the_last_one_out() -> None:
    context = parse_trace_context([VALID], [",".join(f"k{n}={n}" for n in range(32))])
    assert context is not None
    changed = context.with_member("mine", "x")
    assert changed.tracestate.startswith("mine=x,k0=0,")
    assert len(changed.state) == 32
    assert changed.state[-1] == ("k30", "30")
    moved = context.with_member("k5", "new")
    assert moved.state[:2] == (("k5", "new"), ("k0", "0"))
    assert len(moved.state) == 32


@pytest.mark.parametrize("key,value", [("Bad", "1"), ("", "1"), ("a" * 257, "1"), ("a", ""), ("a", "x,y"), ("a", "x ")])
def test_a_member_that_breaks_a_rule_is_refused(key: str, value: str) -> None:
    with pytest.raises(ValueError, match="must be"):
        TraceContext(TRACE, PARENT).with_member(key, value)


def test_a_new_trace_takes_a_correlation_id_that_can_be_a_trace_id() -> None:
    identity = new_id()
    assert begin_trace(identity).trace_id == identity
    assert begin_trace(identity).flags == 0
    assert begin_trace(identity, sampled=True).flags == 1


@pytest.mark.parametrize("identity", [None, "order-7", "0" * 32, TRACE.upper(), TRACE + "0"])
def test_otherwise_the_id_of_a_new_trace_is_random_and_says_so(identity: str | None) -> None:
    context = begin_trace(identity)
    assert context.flags == 2
    assert context.trace_id != identity
    assert parse_traceparent(context.traceparent) == context


def test_an_id_of_all_zeros_is_never_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secrets.token_hex", lambda size: "0" * 2 * size)
    assert TraceContext(TRACE, PARENT).child().parent_id == "0000000000000001"


@given(st.text(), st.lists(st.text(), max_size=3))
def test_no_text_from_outside_breaks_the_parsers(parent: str, states: list[str]) -> None:
    parse_trace_context([parent], states)
    for key, value in parse_tracestate(states):
        assert "," not in key + value


def test_the_trace_of_the_running_work_is_bound_for_a_block() -> None:
    context = begin_trace()
    assert trace_context() is None
    with traced(context) as inside:
        assert inside is trace_context() is context
        with traced(None):
            assert trace_context() is None
    assert trace_context() is None


def test_unbinding_in_another_context_is_harmless() -> None:
    import contextvars

    token = contextvars.copy_context().run(bind_trace, begin_trace())
    unbind_trace(token)
    assert trace_context() is None
