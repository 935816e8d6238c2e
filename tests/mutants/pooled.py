"""Deliberate bugs in PooledTransport: what is done with connections outside the book-keeper."""

from __future__ import annotations

from . import Mutant

FOLDER = "integrations/resilience_http/"
BASICS = "tests/test_pooled.py"
BROKEN = "tests/test_pooled_broken_servers.py"
CANCELLED = "tests/test_pooled_cancellation.py"
THREADS = "tests/test_pooled_threads.py"
STREAMS = "tests/test_pooled_streams.py"
TLS = "tests/test_pooled_tls.py"
PROXIES = "tests/test_pooled_proxies.py"
SWEEP = f"{CANCELLED}::test_a_cancellation_at_any_point_leaks_nothing"
INTERRUPTS = f"{THREADS}::test_an_interrupt_at_any_step_leaks_nothing"


def mutant(file: str, name: str, old: str, new: str, *tests: str) -> Mutant:
    return Mutant(f"pooled: {name}", f"{FOLDER}{file}.py", old, new, tests)


MUTANTS = [
    # what both colours share
    mutant(
        "_exchange",
        "nothing doomed is closed",
        "                    place.stream.close()\n            finally",
        "                    pass\n            finally",
        SWEEP,
    ),
    mutant(
        "_exchange", "a closed place is not told", "                closed(place)\n", "                pass\n", SWEEP
    ),
    mutant(
        "_exchange",
        "closing the client leaves sockets open",
        "            if place.stream is None:\n                continue\n            if place.state",
        "            continue\n            if place.state",
        SWEEP,
    ),
    mutant(
        "_exchange",
        "names of certificates are mixed up",
        'request.extensions.get("sni_hostname"))',
        "None)",
        f"{TLS}::test_a_certificate_for_another_name_is_a_connect_error",
    ),
    mutant(
        "_exchange",
        "a request is repeated after a part of its answer",
        "if stream.received or not",
        "if not",
        f"{BASICS}::test_a_request_whose_response_had_begun_is_not_sent_again",
    ),
    mutant(
        "_exchange",
        "a request that timed out is repeated",
        "stream.received or not isinstance(error, self._disconnects)",
        "stream.received",
        f"{BASICS}::test_a_request_on_a_kept_connection_that_times_out_is_not_sent_again",
    ),
    mutant(
        "_exchange",
        "any method is repeated",
        "request.method in IDEMPOTENT_METHODS and isinstance",
        "isinstance",
        f"{BASICS}::test_a_request_that_may_have_been_processed_is_not_sent_again",
    ),
    mutant(
        "_exchange",
        "any body is repeated",
        " and isinstance(request.stream, self.binding.client.ByteStream)",
        "",
        f"{BASICS}::test_an_idempotent_request_whose_body_is_gone_is_not_sent_again",
    ),
    mutant(
        "_exchange",
        "nothing is repeated",
        "        return not stream.sent or (",
        "        return False and (",
        f"{BASICS}::test_an_idempotent_request_that_met_a_closing_connection_is_sent_again",
    ),
    mutant(
        "_exchange",
        "the deadline is not looked at",
        "if timeout is None or (left is not None and left < timeout):",
        "if timeout is None:",
        f"{BASICS}::test_a_request_waits_for_a_connection_no_longer_than_the_deadline",
    ),
    mutant(
        "_exchange",
        "what came too much is the next answer",
        "is_idle() and not surplus(place.connection)",
        "is_idle()",
        f"{BROKEN}::test_a_response_longer_than_it_says_is_cut_and_its_connection_not_used_again",
    ),
    mutant(
        "_exchange",
        "a closed transport connects",
        "        if place.generation != self.connections.generation:\n            raise self.core.ConnectError",
        "        if False:\n            raise self.core.ConnectError",
        f"{THREADS}::test_closing_the_transport_ends_a_request_that_is_just_connecting",
    ),
    mutant(
        "_exchange",
        "a socket to be replaced stays open",
        "        place.stream.close()\n        place.connection = place.stream = None",
        "        place.connection = place.stream = None",
        f"{THREADS}::test_a_connection_that_has_expired_is_closed_before_another_takes_its_place",
    ),
    # tasks
    mutant(
        "_pooled_async",
        "a failed request keeps its place",
        "        except BaseException as error:\n            self.release(place, False)\n",
        "        except BaseException as error:\n",
        SWEEP,
    ),
    mutant(
        "_pooled_async",
        "only errors give the place back",
        "        except BaseException as error:\n            self.release(place, False)\n",
        "        except Exception as error:\n            self.release(place, False)\n",
        SWEEP,
    ),
    mutant("_pooled_async", "a cancelled waiter stays", "            self.connections.leave(waiter)\n", "", SWEEP),
    mutant(
        "_pooled_async",
        "a body that broke keeps its place",
        "            if place is not None:\n                self._pool.release(place, False)\n",
        "",
        f"{BROKEN}::test_a_body_that_breaks_gives_its_place_back_before_it_is_closed",
    ),
    mutant(
        "_pooled_async",
        "a body whose closing was cut off keeps its place",
        "        except BaseException as error:\n            self._pool.release(place, False)\n            self._pool.translate(error, self._request)\n            raise\n        self._pool.release(place, reusable)",
        "        except ZeroDivisionError:\n            raise\n        self._pool.release(place, reusable)",
        SWEEP,
    ),
    mutant(
        "_pooled_async",
        "every connection is used again",
        "self._pool.release(place, reusable)",
        "self._pool.release(place, True)",
        f"{BASICS}::test_a_response_closed_early_ends_its_connection",
    ),
    mutant(
        "_pooled_async",
        "an expired connection is used",
        "            if connection.has_expired():",
        "            if False:",
        f"{BASICS}::test_a_connection_the_server_has_closed_while_idle_is_replaced_even_for_a_post",
        f"{BROKEN}::test_what_comes_late_after_a_response_is_not_the_next_answer",
    ),
    mutant(
        "_pooled_async",
        "a dropped response keeps its place",
        "            self._pool.drop(self._place)",
        "            pass",
        f"{BASICS}::test_a_response_dropped_without_being_closed_gives_its_place_back",
    ),
    mutant(
        "_pooled_async",
        "two loops share connections",
        "            if connections.places and not before.is_closed():",
        "            if False:",
        f"{CANCELLED}::test_connections_of_a_loop_that_is_alive_are_not_used_by_another",
    ),
    mutant(
        "_pooled_async",
        "connections of a closed loop are kept",
        "            self.forget()\n        self._loop",
        "        self._loop",
        f"{CANCELLED}::test_a_loop_that_was_closed_with_requests_pending_is_left_behind",
    ),
    mutant(
        "_pooled_async",
        "waiting is not metered",
        "        metered(clock.now() - began)\n",
        "",
        f"{CANCELLED}::test_waiting_for_a_connection_is_not_part_of_the_duration_that_a_breaker_sees",
    ),
    # threads
    mutant(
        "_pooled_sync",
        "a failed request keeps its place, in a thread",
        "        except BaseException as error:\n            self.release(place, False)\n",
        "        except BaseException as error:\n",
        INTERRUPTS,
    ),
    mutant(
        "_pooled_sync",
        "an interrupted waiter stays",
        "            self.connections.leave(waiter)\n",
        "",
        f"{THREADS}::test_a_thread_interrupted_while_it_waits_leaves_the_queue",
    ),
    mutant(
        "_pooled_sync",
        "a body that broke keeps its place, in a thread",
        "            if place is not None:\n                self._pool.release(place, False)\n",
        "",
        f"{BROKEN}::test_a_body_that_breaks_gives_its_place_back_before_it_is_closed",
    ),
    mutant(
        "_pooled_sync",
        "a dropped response keeps its place, in a thread",
        "            self._pool.drop(self._place)",
        "            pass",
        f"{THREADS}::test_a_response_finalised_while_its_own_thread_holds_the_lock_does_not_hang",
    ),
    mutant(
        "_pooled_sync",
        "a dropped connection stays open",
        "        self.connections.drop(place)\n        self.tidy()",
        "        self.connections.drop(place)",
        f"{BASICS}::test_a_response_dropped_without_being_closed_gives_its_place_back",
    ),
    mutant(
        "_pooled_sync",
        "an expired connection is used, in a thread",
        "            if connection.has_expired():",
        "            if False:",
        f"{BASICS}::test_a_connection_the_server_has_closed_while_idle_is_replaced_even_for_a_post",
        f"{BROKEN}::test_what_comes_late_after_a_response_is_not_the_next_answer",
    ),
    # connecting and the streams
    mutant(
        "_dial_async",
        "the loser of a race stays open",
        "                attempt.add_done_callback(_close)\n",
        "",
        f"{STREAMS}::test_two_that_answer_at_once_and_a_cancellation_leave_no_socket_behind",
    ),
    mutant(
        "_dial_async",
        "a cancelled attempt stays open",
        "    except BaseException:\n        raw.close()\n        raise\n    return raw",
        "    except ZeroDivisionError:\n        raise\n    return raw",
        f"{CANCELLED}::test_after_a_storm_of_requests",
    ),
    mutant(
        "_dial_async",
        "Nagle's algorithm delays small writes",
        "0 if family == socket.AF_UNIX else socket.IPPROTO_TCP",
        "0",
        f"{BASICS}::test_the_own_address_and_socket_options_are_set",
    ),
    mutant(
        "_stream_async",
        "a handshake that was hung up on says nothing",
        ' or "closed during the TLS handshake"',
        "",
        "tests/test_pooled_tls.py",
    ),
    mutant(
        "_stream_async",
        "a fast peer is not slowed down",
        "            self._transport.pause_reading()\n",
        "            pass\n",
        f"{STREAMS}::test_a_peer_that_sends_faster_than_is_read_is_slowed_down",
    ),
    mutant(
        "_stream_async",
        "a request is sent to a peer that has gone",
        " or (self._ended and not self.sent)",
        "",
        f"{STREAMS}::test_nothing_is_sent_to_a_peer_that_has_said_goodbye_before",
    ),
    mutant(
        "_stream_sync",
        "an interrupted connect stays open",
        "        if raw is not None:\n            raw.close()\n",
        "",
        f"{STREAMS}::test_an_interrupt_while_connecting_closes_the_socket",
    ),
    mutant(
        "_stream_sync",
        "each byte begins the read timeout anew",
        "settimeout(_within_the_deadline(timeout))\n            data",
        "settimeout(timeout)\n            data",
        f"{BROKEN}::test_one_byte_now_and_then_does_not_outlast_the_deadline",
    ),
    mutant(
        "_stream_sync",
        "each byte begins the write timeout anew",
        "settimeout(_within_the_deadline(timeout))\n                count",
        "settimeout(timeout)\n                count",
        f"{BROKEN}::test_a_peer_that_takes_little_does_not_outlast_the_deadline",
    ),
    mutant(
        "_stream_sync",
        "each address of a host has the time of all",
        "settimeout(_within_the_deadline(timeout))\n                if local",
        "settimeout(timeout)\n                if local",
        f"{STREAMS}::test_the_deadline_is_for_all_addresses_of_a_host_together",
    ),
    mutant(
        "_stream_sync",
        "an interrupted attempt stays open",
        "                raw.close()\n                if not isinstance",
        "                if not isinstance",
        f"{STREAMS}::test_an_interrupt_while_an_address_is_tried_closes_the_socket",
    ),
    mutant(
        "_stream_sync",
        "a deadline that has passed is waited for without end",
        "    if left <= 0.0:\n",
        "    if False:\n",
        f"{STREAMS}::test_a_step_after_the_deadline_is_a_timeout_of_its_kind",
    ),
    mutant(
        "_exchange",
        "closing the transport leaves a thread asleep",
        "                place.stream.interrupt()",
        "                place.stream.close()",
        f"{THREADS}::test_closing_the_transport_wakes_a_thread_that_is_reading",
    ),
    mutant(
        "_exchange",
        "what was granted too late stays open",
        "            self.release(place, False)\n            place = None",
        "            place = None",
        f"{THREADS}::test_closing_the_transport_closes_what_was_granted_to_one_who_did_not_wake_up_yet",
    ),
    mutant(
        "_exchange",
        "a client of the other library is served",
        "        if not isinstance(request, self.binding.client.Request):\n",
        "        if False:\n",
        "tests/test_pooled_arguments.py::test_a_client_of_the_other_library_is_refused_before_anything_is_sent",
    ),
    # the library's own transport
    mutant(
        "_borrowed",
        "all event loops share one transport",
        "self._transport(asyncio.get_running_loop())",
        "self._transport(self)",
        f"{PROXIES}::test_each_event_loop_has_connections_of_its_own_to_a_proxy",
    ),
    mutant(
        "_borrowed",
        "the transport of a closed loop is kept",
        "                    self._transports.pop(other, None)",
        "                    pass",
        f"{PROXIES}::test_each_event_loop_has_connections_of_its_own_to_a_proxy",
    ),
    mutant(
        "_borrowed",
        "the child uses the connections of its parent",
        "        if generation != self._generation:",
        "        if False:",
        f"{PROXIES}::test_a_forked_child_does_not_talk_on_its_parents_connection_to_a_proxy",
    ),
    mutant(
        "_borrowed",
        "a thread that lost the race uses a transport that nobody closes",
        "            transport = self._transports.setdefault(loop, made)",
        "            transport = self._transports[loop] = made",
        f"{PROXIES}::test_threads_that_come_first_at_once_share_one_transport_of_the_library",
    ),
    mutant(
        "_borrowed",
        "a failed request keeps its permit",
        "            response = await transport.handle_async_request(request)\n        except BaseException:\n            self._bulkhead.settle(permit, ABANDONED)",
        "            response = await transport.handle_async_request(request)\n        except BaseException:\n            pass",
        f"{PROXIES}::test_a_failed_or_dropped_request_through_a_proxy_gives_its_permit_back",
    ),
    mutant(
        "_borrowed",
        "a dropped body keeps its permit",
        "    def __del__(self) -> None:\n        self._give_back()",
        "    def __del__(self) -> None:\n        pass",
        f"{PROXIES}::test_a_failed_or_dropped_request_through_a_proxy_gives_its_permit_back",
    ),
    mutant(
        "_borrowed",
        "the pool timeout is not looked at",
        "self._bulkhead if timeout is None else",
        "self._bulkhead if True else",
        f"{PROXIES}::test_requests_through_a_proxy_wait_in_front_of_the_library",
    ),
]
