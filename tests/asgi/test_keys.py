"""Key functions: whose limit it is, and that no client can choose it."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from resilience_asgi import ResilienceMiddleware, client_address, header_key, path_key
from resilience_asgi.forwarded import MOST_HOPS, address_of, forwarded, parsed, x_forwarded_for
from resilience_asgi.keys import UNKNOWN

from resilience import RateLimiter
from resilience.testing import ManualClock

from .wire import answering, served

PROXIES = ["10.0.0.0/8", "fd00::/8"]


def scope(client: Any = ("10.0.0.1", 80), headers: list[tuple[bytes, bytes]] | None = None, **more: Any) -> Any:
    return {"type": "http", "client": client, "headers": headers or [], "path": "/", **more}


def through(value: str | bytes, *, name: str = "x-forwarded-for", client: Any = ("10.0.0.1", 80)) -> Any:
    raw = value.encode("latin-1") if isinstance(value, str) else value
    return scope(client, [(name.encode(), raw)])


def test_without_trusted_proxies_the_peer_is_the_client_whatever_headers_say() -> None:
    key = client_address()
    assert key(through("6.6.6.6", client=("203.0.113.7", 1))) == "203.0.113.7"
    assert key(scope(("2001:db8:1:2:3::4", 1))) == "2001:db8:1:2::/64"
    assert key(scope(("::ffff:203.0.113.7", 1))) == "203.0.113.7"
    assert key(scope(("203.0.113.7", "50000"))) == "203.0.113.7"  # Granian's port is a string


@pytest.mark.parametrize(
    "client", [None, (), ("", 0), ("testclient", 5), ("/run/app.sock", None), (None, None), (7, 7)]
)
def test_a_peer_without_an_address_shares_a_key_with_its_like(client: Any) -> None:
    assert client_address()(scope(client)) == UNKNOWN
    assert client_address(PROXIES)(scope(client)) == UNKNOWN
    missing = scope()
    del missing["client"]
    assert client_address()(missing) == UNKNOWN


@pytest.mark.parametrize(
    "value,expected",
    [
        ("203.0.113.7", "203.0.113.7"),
        ("6.6.6.6, 203.0.113.7", "203.0.113.7"),
        ("6.6.6.6, 203.0.113.7, 10.0.0.2", "203.0.113.7"),
        ("6.6.6.6,203.0.113.7 ,\t10.0.0.2,10.9.9.9", "203.0.113.7"),
        ("203.0.113.7:51000", "203.0.113.7"),
        ("[2001:db8::7]:443", "2001:db8::/64"),
        ("2001:db8::7", "2001:db8::/64"),
        ("[2001:db8::7]", "2001:db8::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("10.0.0.2", "10.0.0.2"),  # ours only: the left-most of them
        # Malformed: the proxy that reported it is what is known.
        ("", "10.0.0.1"),
        ("unknown", "10.0.0.1"),
        ("6.6.6.6, garbage", "10.0.0.1"),
        ("6.6.6.6, , 10.0.0.2", "10.0.0.2"),
        ("6.6.6.6, 999.1.1.1", "10.0.0.1"),
        ("1" * 10_000, "10.0.0.1"),
        ("203.0.113.7\x00", "10.0.0.1"),
        (b"\xff\xfe\xfd", "10.0.0.1"),
        ("0x7f.1", "10.0.0.1"),
        ("203.0.113.07", "10.0.0.1"),
    ],
)
def test_the_right_most_address_that_is_no_proxy_of_ours_is_the_client(value: str | bytes, expected: str) -> None:
    assert client_address(PROXIES)(through(value)) == expected


@pytest.mark.parametrize(
    "value,expected",
    [
        ("for=203.0.113.7", "203.0.113.7"),
        ("For=203.0.113.7;proto=https;by=10.0.0.9", "203.0.113.7"),
        ('proto=https;for="203.0.113.7:4711"', "203.0.113.7"),
        ('for="[2001:db8::7]:4711"', "2001:db8::/64"),
        ("for=6.6.6.6, for=203.0.113.7, for=10.0.0.2", "203.0.113.7"),
        ('for=6.6.6.6;host="a, for=6.6.6.6;x=y", for=203.0.113.7;host="b, for=6.6.6.6;x=y"', "203.0.113.7"),
        ('for=203.0.113.7;host="quote \\" in, for=6.6.6.6"', "203.0.113.7"),
        # Malformed or hidden: the proxy counts.
        ("for=unknown", "10.0.0.1"),
        ("for=_hidden", "10.0.0.1"),
        ("proto=https", "10.0.0.1"),
        ("for=1.1.1.1;for=203.0.113.7", "10.0.0.1"),
        ('for="203.0.113.7', "10.0.0.1"),
        ('for=203.0.113.7, for="10.0.0.2', "10.0.0.1"),
        ('x="for=6.6.6.6, for=203.0.113.7', "10.0.0.1"),
        ("203.0.113.7", "10.0.0.1"),
        ("", "10.0.0.1"),
        (";;;", "10.0.0.1"),
        ("for=203.0.113.7;;", "10.0.0.1"),
    ],
)
def test_forwarded_is_read_as_rfc_7239_has_it(value: str, expected: str) -> None:
    key = client_address(PROXIES, header="Forwarded")
    assert key(through(value, name="forwarded")) == expected
    assert key(through("6.6.6.6")) == "10.0.0.1"  # the other header is nobody's business


def test_several_headers_count_as_one_list() -> None:
    headers = [(b"x-forwarded-for", b"6.6.6.6"), (b"x-forwarded-for", b"203.0.113.7, 10.0.0.2")]
    assert client_address(PROXIES)(scope(headers=headers)) == "203.0.113.7"
    pairs = [(b"forwarded", b"for=6.6.6.6"), (b"forwarded", b"for=203.0.113.7, for=10.0.0.2")]
    assert client_address(PROXIES, header="forwarded")(scope(headers=pairs)) == "203.0.113.7"


def test_a_peer_that_is_no_proxy_of_ours_cannot_say_who_it_is() -> None:
    assert client_address(PROXIES)(through("6.6.6.6", client=("203.0.113.9", 1))) == "203.0.113.9"


def test_a_proxy_on_a_unix_socket_is_ours() -> None:
    key = client_address(PROXIES)
    assert key(through("6.6.6.6, 203.0.113.7, 10.0.0.2", client=None)) == "203.0.113.7"
    assert key(through("garbage", client=("", 0))) == UNKNOWN


def test_more_proxies_than_anybody_has_are_not_followed() -> None:
    hops = ", ".join(["6.6.6.6", *["10.0.0.2"] * 200])
    assert client_address(PROXIES)(through(hops)) == "10.0.0.2"
    enough = ", ".join(["203.0.113.7", *["10.0.0.2"] * (MOST_HOPS - 1)])
    assert client_address(PROXIES)(through(enough)) == "203.0.113.7"
    beyond = ", ".join(["203.0.113.7", *["10.0.0.2"] * MOST_HOPS])
    assert client_address(PROXIES)(through(beyond)) == "10.0.0.2"


def test_a_zone_does_not_make_another_client() -> None:
    key = client_address(PROXIES, ipv6_prefix=128)
    assert key(through("fe80::1%a")) == key(through("fe80::1%b")) == "fe80::1"


def test_without_proxies_a_peer_without_an_address_cannot_say_who_it_is() -> None:
    assert client_address()(through("6.6.6.6", client=None)) == UNKNOWN


def test_what_is_remembered_of_addresses_is_bounded() -> None:
    before = parsed.cache_info().currsize
    for size in range(65, 200):
        assert address_of("1" * size) is None
    assert parsed.cache_info().currsize == before


@pytest.mark.parametrize(
    "prefix,expected", [(128, "2001:db8:1:2:3::4"), (56, "2001:db8:1::/56"), (48, "2001:db8:1::/48")]
)
def test_addresses_of_ipv6_are_grouped_by_network(prefix: int, expected: str) -> None:
    key = client_address(ipv6_prefix=prefix)
    assert key(scope(("2001:db8:1:2:3::4", 1))) == expected
    assert key(scope(("203.0.113.7", 1))) == "203.0.113.7"


addresses = st.ip_addresses().map(str)
junk = st.text(st.characters(codec="latin-1"), max_size=30)


@given(st.lists(st.one_of(addresses, junk), max_size=6), st.ip_addresses(network="203.0.0.0/8"))
def test_whatever_a_client_puts_in_front_its_key_is_the_address_the_proxy_saw(
    forged: list[str], seen: ipaddress.IPv4Address
) -> None:
    key = client_address(PROXIES)
    honest = key(through(str(seen)))
    assert key(through(", ".join([*forged, str(seen)]))) == honest
    headers = [(b"x-forwarded-for", entry.encode("latin-1")) for entry in [*forged, str(seen)]]
    assert key(scope(headers=headers)) == honest


@given(st.one_of(junk, st.lists(st.sampled_from(["for=", '"', ";", ",", "=", "\\", "1.2.3.4", " ", "x"])).map("".join)))
def test_no_header_crashes_the_parsers(value: str) -> None:
    assert isinstance(client_address(PROXIES)(through(value)), str)
    assert isinstance(client_address(PROXIES, header="Forwarded")(through(value, name="forwarded")), str)
    assert all(isinstance(entry, str) for entry in [*forwarded([value]), *x_forwarded_for([value])])
    address_of(value)


def test_a_hostile_forwarded_header_is_read_in_linear_time() -> None:
    for value in ('for="' + '\\"' * 30_000, "for=1.1.1.1;" * 5000, '"' * 60_000, "=" * 60_000, ";" * 60_000):
        assert client_address(PROXIES, header="Forwarded")(through(value, name="forwarded")) == "10.0.0.1"


def test_a_header_is_a_key_and_long_values_are_hashed() -> None:
    key = header_key("X-API-Key")
    one = scope(headers=[(b"x-api-key", b"secret")])
    assert key(one) == "secret"
    assert key(scope(headers=[(b"x-api-key", b"a"), (b"x-api-key", b"b")])) == "a, b"
    assert key(scope(headers=[(b"x-api-key", b"\xff")])) == "\xff"
    long, longer = (key(scope(headers=[(b"x-api-key", b"x" * size)])) for size in (10_000, 10_001))
    assert len(long) == len(longer) == 40
    assert long != longer
    assert key(scope(headers=[(b"x-api-key", b"x" * 256)])) == "x" * 256


def test_requests_without_the_header_share_a_limit_unless_they_are_exempt() -> None:
    assert header_key("X-API-Key")(scope()) == "anonymous"
    assert header_key("X-API-Key", missing="guests")(scope()) == "guests"
    assert header_key("X-API-Key", missing=None)(scope()) is None


@pytest.mark.parametrize(
    "segments,path,expected",
    [
        (None, "/items/7", "/items/7"),
        (1, "/items/7", "/items"),
        (2, "/items/7", "/items/7"),
        (3, "/items/7", "/items/7"),
        (1, "/", "/"),
        (1, "", ""),
        (2, "/a/b/c/d", "/a/b"),
        (None, "/\udcff", "/\udcff"),
    ],
)
def test_a_path_is_a_key(segments: int | None, path: str, expected: str) -> None:
    assert path_key(segments)(scope(path=path)) == expected
    assert len(path_key()(scope(path="/\udcff" * 300))) == 40


def test_keys_take_requests_as_well_as_scopes() -> None:
    class Request:
        scope = scope(("203.0.113.7", 1))

    assert client_address()(Request(), "another argument", more=1) == "203.0.113.7"
    assert path_key()(Request()) == "/"
    with pytest.raises(TypeError, match="needs an ASGI scope or a request that has one, not 7"):
        path_key()(7)


class Asked:
    """A request as frameworks have them."""

    headers: Any = property(lambda _: {})
    url: Any = property(lambda _: "http://service/")

    def __init__(self, host: str) -> None:
        self.scope = scope((host, 1))


class Sent:
    """What a client can send: a document with any fields."""

    def __init__(self, **fields: Any) -> None:
        vars(self).update(fields)


def test_keys_find_the_request_among_the_arguments_of_an_endpoint() -> None:
    """FastAPI and Litestar call endpoints with named arguments, and those that are methods have `self` in front."""
    key = client_address()
    forged = {"type": "http", "client": ("6.6.6.6", 1)}
    assert key(request=Asked("203.0.113.7")) == "203.0.113.7"
    assert key(object(), Asked("203.0.113.7")) == "203.0.113.7"
    assert key(document=forged, other=Sent(scope=forged, headers={}, url=""), r=Asked("203.0.113.7")) == "203.0.113.7"
    assert header_key("X-User")(r=Asked("203.0.113.7")) == "anonymous"
    assert path_key()(r=Asked("203.0.113.7")) == "/"
    for arguments in ({}, {"document": forged}, {"document": Sent(scope=forged, headers={}, url="")}):
        with pytest.raises(TypeError, match="needs an ASGI scope or a request that has one, not "):
            key(**arguments)


def test_a_path_as_a_key_begins_inside_the_application() -> None:
    """Else every request to a server with a `--root-path` would share one limit."""
    facts = scope(("203.0.113.7", 1)) | {"path": "/api/items/7", "root_path": "/api"}
    assert path_key(1)(facts) == "/items"
    mounted = facts | {"path": "/api/a/items/7", "root_path": "/api/a", "app_root_path": "/api"}
    assert path_key(1)(mounted) == "/a"


def test_each_client_has_a_limit_of_its_own(clock: ManualClock) -> None:
    app = ResilienceMiddleware(answering(), layers=[RateLimiter(1, 60.0, key=client_address())])
    clients = [("203.0.113.1", 1), ("203.0.113.2", 1), ("203.0.113.1", 2), None, None]
    assert [served(app, clock, client=client).status for client in clients] == [200, 200, 429, 200, 429]


# Without the annotations, so that a type checker lets the mistakes pass.
ADDRESS: Any = client_address
HEADER: Any = header_key
PATH: Any = path_key


@pytest.mark.parametrize(
    "make",
    [
        lambda: ADDRESS("10.0.0.0/8"),
        lambda: ADDRESS(7),
        lambda: ADDRESS([7]),
        lambda: ADDRESS(["10.0.0.1/8"]),
        lambda: ADDRESS(["example.org"]),
        lambda: ADDRESS(header="X-Real-IP"),
        lambda: ADDRESS(header=None),
        lambda: ADDRESS(ipv6_prefix=0),
        lambda: ADDRESS(ipv6_prefix=129),
        lambda: ADDRESS(ipv6_prefix=True),
        lambda: HEADER(""),
        lambda: HEADER("X Y"),
        lambda: HEADER("Ä"),
        lambda: HEADER(None),
        lambda: HEADER("X", missing=""),
        lambda: PATH(0),
        lambda: PATH(1.5),
    ],
)
def test_a_mistake_is_an_error_at_once(make: Any) -> None:
    with pytest.raises((TypeError, ValueError)) as caught:
        make()
    assert any(
        name in str(caught.value)
        for name in ("trusted_proxies", "header", "ipv6_prefix", "name", "missing", "segments")
    )
