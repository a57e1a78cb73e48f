"""What the user agent sends again until it is acknowledged (RFC 3261 §13.3.1.4, RFC 3262 §3)."""

from __future__ import annotations

from sip_bench import FakeClock

from gateway.telephony.repeater import Repeater


class Sent:
    """A repeater on a clock; when it sent, and when it gave up."""

    def __init__(self, **options: float) -> None:
        self.clock = FakeClock()
        self.times: list[float] = []
        self.lost: list[float] = []
        self.repeater = Repeater(
            self.clock.call_later,
            lambda: self.times.append(self.clock.now),
            lambda: self.lost.append(self.clock.now),
            **options,
        )


def test_a_2xx_is_sent_again_at_doubling_intervals_up_to_t2() -> None:
    sent = Sent()
    sent.clock.advance(20)
    assert [0.5, 1.5, 3.5, 7.5, 11.5, 15.5, 19.5] == sent.times


def test_a_reliable_provisional_response_goes_on_doubling() -> None:
    """RFC 3262 §3 knows no T2."""
    sent = Sent(longest=32.0)
    sent.clock.advance(100)
    assert [0.5, 1.5, 3.5, 7.5, 15.5, 31.5] == sent.times


def test_after_64_t1_it_is_lost_once() -> None:
    for options in ({}, {"longest": 32.0}):
        sent = Sent(**options)
        sent.clock.advance(500)
        assert [32.0] == sent.lost
        assert max(sent.times) < 32.0
        assert 0 == sent.clock.waiting


def test_an_acknowledgement_ends_it() -> None:
    sent = Sent()
    sent.clock.advance(2)
    sent.repeater.stop()
    sent.clock.advance(500)
    assert ([0.5, 1.5], []) == (sent.times, sent.lost)
    assert 0 == sent.clock.waiting


def test_a_second_acknowledgement_changes_nothing() -> None:
    sent = Sent()
    sent.repeater.stop()
    sent.repeater.stop()
    sent.clock.advance(500)
    assert ([], []) == (sent.times, sent.lost)


def test_it_may_be_stopped_by_what_it_sends() -> None:
    clock = FakeClock()
    sent: list[float] = []

    def again() -> None:
        sent.append(clock.now)
        repeater.stop()

    repeater = Repeater(clock.call_later, again, lambda: None)
    clock.advance(500)
    assert [0.5] == sent
