"""When a server wants to be asked again: `Retry-After`, and the RateLimit fields of the IETF draft.

`Retry-After` is a number of seconds or an HTTP-date (RFC 9110, sections 10.2.3 and 5.6.7)::

    Retry-After: 120
    Retry-After: Fri, 31 Dec 1999 23:59:59 GMT

The RateLimit fields (draft-ietf-httpapi-ratelimit-headers) are structured fields (RFC 9651). They tell the same when
`r`, the quota that remains, is 0, and `t` is the seconds until there is some again; `Retry-After` goes before them::

    RateLimit-Policy: "burst";q=100;w=60
    RateLimit: "burst";r=0;t=30

These come from outside: whatever is malformed, negative or longer than 2³¹ seconds is ignored.
"""

from __future__ import annotations

import calendar
import math
import re
from collections.abc import Callable

from resilience import clock

RETRY_AFTER = "Retry-After"
RATE_LIMIT = "RateLimit"
RATE_LIMIT_POLICY = "RateLimit-Policy"

_LONGEST = 2.0**31  # seconds; what RFC 9111 (section 1.2.2) has recipients understand
_LONGEST_FIELD = 8192  # characters of a RateLimit field that are looked at
_SECONDS = re.compile(r"[0-9]+", re.ASCII)
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_MONTH = rf"(?P<month>{'|'.join(_MONTHS)})"
_TIME = r"(?P<hour>[0-9]{2}):(?P<minute>[0-9]{2}):(?P<second>[0-9]{2})"
_DATES = (
    re.compile(rf"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun), (?P<day>[0-9]{{2}}) {_MONTH} (?P<year>[0-9]{{4}}) {_TIME} GMT"),
    re.compile(
        r"(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day,"
        rf" (?P<day>[0-9]{{2}})-{_MONTH}-(?P<year>[0-9]{{2}}) {_TIME} GMT"
    ),
    re.compile(rf"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun) {_MONTH} (?P<day>[ 0-9][0-9]) {_TIME} (?P<year>[0-9]{{4}})"),
)
_STRING = r'"(?:[\x20\x21\x23-\x5b\x5d-\x7e]|\\["\\])*"'
_TOKEN = r"[A-Za-z*][!#$%&'*+\-.^_`|~0-9A-Za-z:/]*"
_BARE = rf"-?[0-9]{{1,12}}\.[0-9]{{1,3}}|-?[0-9]{{1,15}}|{_STRING}|{_TOKEN}|:[A-Za-z0-9+/=]*:|\?[01]"
_PARAMETER = re.compile(rf"; *(?P<key>[a-z*][a-z0-9_\-.*]*)(?:=(?P<value>{_BARE}))?")
_NAME = re.compile(rf"{_STRING}|{_TOKEN}")
_COMMA = re.compile(r"[ \t]*,[ \t]*")
_NOT_VISIBLE = re.compile(r"[^\x20-\x7e]")


def parse_http_date(value: str) -> float | None:
    """An HTTP-date in any of its three forms as Unix seconds, or None if it is none."""
    found = next(filter(None, (form.fullmatch(value.strip()) for form in _DATES)), None)
    if found is None:
        return None
    year, day = int(found["year"]), int(found["day"])
    hour, minute, second = int(found["hour"]), int(found["minute"]), int(found["second"])
    if len(found["year"]) == 2:
        # More than 50 years ahead means the last century (RFC 9110, section 5.6.7).
        this_year = 1970 + int(clock.unix_milliseconds() / (1000 * 86_400 * 365.2425))
        year += this_year - this_year % 100
        year -= 100 if year > this_year + 50 else 0
    month = 1 + _MONTHS.index(found["month"])
    possible = year >= 1 and 1 <= day <= calendar.monthrange(year, month)[1]
    if not possible or hour > 23 or minute > 59 or second > 60:  # 60: a leap second
        return None
    return float(calendar.timegm((year, month, day, hour, minute, second)))


def parse_retry_after(value: str | None, date: str | None = None) -> float | None:
    """The seconds that a `Retry-After` header asks to wait, or None if it is missing or makes no sense.

    A date is compared with `date`, the `Date` header of the same response, because the clocks of two machines differ;
    without one, with the clock of this machine. One that has passed is 0.0.
    """
    if value is None:
        return None
    value = value.strip()
    if _SECONDS.fullmatch(value):
        seconds = float(value) if len(value) < 20 else math.inf
    else:
        when = parse_http_date(value)
        if when is None:
            return None
        sent = None if date is None else parse_http_date(date)
        seconds = max(0.0, when - (clock.unix_milliseconds() / 1000.0 if sent is None else sent))
    return seconds if seconds <= _LONGEST else None


def parse_rate_limit(value: str | None) -> tuple[tuple[str, int, float | None], ...]:
    """The members of a `RateLimit` field: (name of the policy, remaining quota, seconds until more or None).

    A field that is not what the draft describes has no members.
    """
    members = []
    for name, parameters in _items(value or ""):
        remaining, reset = parameters.get("r", ""), parameters.get("t")
        if not _SECONDS.fullmatch(remaining):
            return ()
        if reset is not None and not (_SECONDS.fullmatch(reset) and float(reset) <= _LONGEST):
            return ()
        members.append((name, int(remaining), None if reset is None else float(reset)))
    return tuple(members)


def retry_after(get: Callable[[str], str | None]) -> float | None:
    """The seconds that a response asks to wait before the next request, or None if it does not say.

    `get` looks up a header by its name, whatever its case (`response.headers.get`). `Retry-After` goes first; then the
    longest `t` among the exhausted policies of `RateLimit`; then the `RateLimit-Remaining` and `RateLimit-Reset` of
    earlier drafts.
    """
    asked = parse_retry_after(get(RETRY_AFTER), get("Date"))
    if asked is not None:
        return asked
    exhausted = [reset for _, left, reset in parse_rate_limit(get(RATE_LIMIT)) if left == 0 and reset is not None]
    if exhausted:
        return max(exhausted)
    if (get("RateLimit-Remaining") or "").strip() == "0":
        reset = (get("RateLimit-Reset") or "").strip()
        return parse_retry_after(reset) if _SECONDS.fullmatch(reset) else None
    return None


def format_retry_after(seconds: float) -> str:
    """`seconds` as a `Retry-After` value: whole seconds, rounded up, so that nobody comes back too early."""
    return str(max(0, math.ceil(min(seconds, _LONGEST))))


def format_rate_limit(policy: str, remaining: float, reset_after: float | None = None) -> str:
    """A member of a `RateLimit` field: quota left (rounded down) and seconds until there is more (rounded up)."""
    member = f"{_quoted(policy)};r={max(0, math.floor(remaining))}"
    return member if reset_after is None else f"{member};t={format_retry_after(reset_after)}"


def format_rate_limit_policy(policy: str, quota: float, window: float) -> str:
    """A member of a `RateLimit-Policy` field: `quota` requests per `window` seconds (at least 1)."""
    return f"{_quoted(policy)};q={max(0, math.floor(quota))};w={max(1, math.ceil(window))}"


def _quoted(text: str) -> str:
    """A structured-field string; what such a string cannot hold becomes a question mark."""
    return '"' + _NOT_VISIBLE.sub("?", text).replace("\\", "\\\\").replace('"', '\\"') + '"'


def _items(field: str) -> list[tuple[str, dict[str, str]]]:
    """The items of a structured-field list, each with its parameters; none at all if the field is malformed."""
    field = field[: _LONGEST_FIELD + 1].strip(" ")
    items: list[tuple[str, dict[str, str]]] = []
    place = 0
    while field and len(field) <= _LONGEST_FIELD:
        name = _NAME.match(field, place)
        if name is None:
            return []
        place, parameters = name.end(), {}
        while (parameter := _PARAMETER.match(field, place)) is not None:
            parameters[parameter["key"]] = parameter["value"] or ""
            place = parameter.end()
        items.append((_unquoted(name[0]), parameters))
        if place == len(field):
            return items
        comma = _COMMA.match(field, place)
        if comma is None:
            return []
        place = comma.end()
    return []


def _unquoted(name: str) -> str:
    return re.sub(r"\\(.)", r"\1", name[1:-1]) if name.startswith('"') else name
