"""A bench for SIP without socket or clock: a hand-turned clock, a wire that remembers, and messages as they arrive."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from aiosipua.message import SipMessage, SipRequest, SipResponse

from gateway.telephony.auth import ClientAuth, Credentials
from gateway.telephony.endpoint import Endpoint, Incoming
from gateway.telephony.message import HostPort, make_response
from gateway.telephony.transaction import (
    Action,
    Arm,
    ClientTransaction,
    Deliver,
    Disarm,
    Ended,
    Send,
    ServerTransaction,
    TimedOut,
)
from gateway.telephony.transport import Hop

US: HostPort = ("192.0.2.1", 5060)
PEER = Hop("192.0.2.2", 5070)

OFFER = (
    b"v=0\r\no=- 1 1 IN IP4 192.0.2.2\r\ns=-\r\nc=IN IP4 192.0.2.2\r\nt=0 0\r\nm=audio 4000 RTP/AVP 8 0 101\r\n"
    b"a=rtpmap:8 PCMA/8000\r\na=rtpmap:0 PCMU/8000\r\na=rtpmap:101 telephone-event/8000\r\n"
)


@dataclass
class Alarm:
    at: float
    callback: Callable[[], None]
    cancelled: bool = False

    def cancel(self) -> None:
        self.cancelled = True


class FakeClock:
    """Time that passes only when :meth:`advance` is called; alarms ring in order, at their own time."""

    def __init__(self) -> None:
        self.now = 0.0
        self._alarms: list[Alarm] = []

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Alarm:
        alarm = Alarm(self.now + seconds, callback)
        self._alarms.append(alarm)
        return alarm

    @property
    def waiting(self) -> int:
        """Alarms that would still ring."""
        return sum(not alarm.cancelled for alarm in self._alarms)

    def advance(self, seconds: float) -> None:
        end = self.now + seconds
        while True:
            self._alarms = [alarm for alarm in self._alarms if not alarm.cancelled]
            due = [alarm for alarm in self._alarms if alarm.at <= end + 1e-9]
            if not due:
                break
            alarm = min(due, key=lambda a: a.at)
            self._alarms.remove(alarm)
            self.now = max(self.now, alarm.at)
            alarm.callback()
        self.now = end


@dataclass
class Wire:
    """What was sent, when and to whom. Hops in *broken* cannot be reached; *failures* tell so later, as a connection does that
    is closed.
    """

    clock: FakeClock
    sent: list[tuple[float, SipRequest | SipResponse, Hop]] = field(default_factory=list)
    broken: set[Hop] = field(default_factory=set)
    failures: list[Callable[[], None]] = field(default_factory=list)

    def send(self, data: bytes, peer: Hop, failed: Callable[[], None]) -> None:
        if peer in self.broken:
            failed()
            return
        self.sent.append((self.clock.now, SipMessage.parse(data), peer))
        self.failures.append(failed)

    @property
    def messages(self) -> list[SipRequest | SipResponse]:
        return [message for _, message, _ in self.sent]

    @property
    def times(self) -> list[float]:
        return [round(at, 3) for at, _, _ in self.sent]

    @property
    def summary(self) -> list[str | int]:
        """Methods of requests and status codes of responses, in order."""
        return [m.method if isinstance(m, SipRequest) else m.status_code for m in self.messages]

    @property
    def last(self) -> SipRequest | SipResponse:
        return self.messages[-1]

    def clear(self) -> None:
        self.sent.clear()


class Bench:
    """An endpoint on a fake clock and wire; what it hands up is kept."""

    def __init__(self, on_request: Callable[[Incoming], None] | None = None) -> None:
        self.clock = FakeClock()
        self.wire = Wire(self.clock)
        self.requests: list[Incoming] = []
        """What the user agent was given."""
        self.acks: list[SipRequest] = []
        self.responses: list[int | None] = []
        self.endpoint = Endpoint(
            self.wire.send, self.clock.call_later, on_request or self.requests.append, self.acks.append, lambda _: US
        )

    def take(self, message: bytes | SipMessage, source: Hop = PEER) -> None:
        self.endpoint.receive(bytes(message), source)

    def send(self, message: SipRequest, peer: Hop = PEER) -> SipRequest:
        """*message* in a client transaction; the statuses that come are kept in ``responses``."""
        return self.endpoint.request(message, peer, self.keep)

    def keep(self, response: SipResponse | None) -> None:
        self.responses.append(response.status_code if response is not None else None)


class Ladder:
    """One transaction on a fake clock: sends and times are noted, timers fire by themselves."""

    def __init__(self, transaction: ClientTransaction | ServerTransaction) -> None:
        self.clock = FakeClock()
        self.transaction = transaction
        self.sent: list[tuple[float, SipMessage]] = []
        self.delivered: list[int] = []
        self.timed_out_at: float | None = None
        self.ended_at: float | None = None
        self._alarms: dict[str, Alarm] = {}

    @property
    def send_times(self) -> list[float]:
        return [round(at, 3) for at, _ in self.sent]

    @property
    def armed(self) -> set[str]:
        return {name for name, alarm in self._alarms.items() if not alarm.cancelled}

    def run(self, actions: Iterator[Action]) -> Ladder:
        for action in actions:
            match action:
                case Send(message):
                    self.sent.append((self.clock.now, message))
                case Arm(timer, seconds):
                    self._disarm(timer)
                    self._alarms[timer] = self.clock.call_later(seconds, lambda t=timer: self._fire(t))
                case Disarm(timer):
                    self._disarm(timer)
                case Deliver(response):
                    self.delivered.append(response.status_code)
                case TimedOut():
                    self.timed_out_at = self.clock.now
                case Ended():
                    self.ended_at = self.clock.now
                    for name in tuple(self._alarms):
                        self._disarm(name)
        return self

    def _fire(self, timer: str) -> None:
        del self._alarms[timer]
        self.run(self.transaction.fire(timer))

    def _disarm(self, timer: str) -> None:
        alarm = self._alarms.pop(timer, None)
        if alarm is not None:
            alarm.cancel()


def request(
    method: str = "INVITE",
    *,
    branch: str = "z9hG4bK-1",
    via: str = "192.0.2.2:5070",
    via_params: str = "",
    seq: int = 1,
    call_id: str = "call@192.0.2.2",
    from_tag: str = "theirs",
    to_tag: str = "",
    headers: dict[str, str] | None = None,
    body: bytes = b"",
) -> SipRequest:
    """A request of the peer's, as it comes from the wire."""
    lines = [
        f"{method} sip:100@192.0.2.1 SIP/2.0",
        f"Via: SIP/2.0/UDP {via};branch={branch}{via_params}",
        "Max-Forwards: 70",
        f"From: <sip:200@192.0.2.2>;tag={from_tag}",
        f"To: <sip:100@192.0.2.1>{';tag=' + to_tag if to_tag else ''}",
        f"Call-ID: {call_id}",
        f"CSeq: {seq} {method}",
        "Contact: <sip:200@192.0.2.2:5070>",
        *(f"{name}: {value}" for name, value in (headers or {}).items()),
        f"Content-Length: {len(body)}",
    ]
    parsed = SipMessage.parse("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
    assert isinstance(parsed, SipRequest)
    return parsed


def response(
    to: SipRequest, status: int, *, to_tag: str = "theirs", headers: dict[str, str] | None = None
) -> SipResponse:
    """The peer's response to a request of ours."""
    made = make_response(to, status, to_tag=to_tag)
    for name, value in (headers or {}).items():
        made.set_header(name, value)
    return made


def ours(method: str = "INVITE", *, seq: int = 1) -> SipRequest:
    """A request of ours, without Via: the endpoint adds it."""
    made = request(method, seq=seq, from_tag="ours")
    made.remove_header("Via")
    return made


def authorize(again: SipRequest, refusal: SipResponse, credentials: Credentials) -> bool:
    """Answer the challenges in *refusal* in *again*; False when there is none that can be answered."""
    auth = ClientAuth(credentials)
    if not auth.take(refusal, again):
        return False
    auth.apply(again)
    return True
