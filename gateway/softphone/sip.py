"""The SIP endpoint: pyVoIP's ``SIPClient`` with its transport and transactions mended."""

from __future__ import annotations

import queue
import secrets
import select
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

from pyVoIP import SIP

from gateway.softphone.dialog import Request
from gateway.softphone.digest import DigestError, authorization
from gateway.softphone.message import Message, NameAddress, Uri, render
from gateway.softphone.rtp import RtpError
from gateway.softphone.transaction import Address, ClientTransaction, ServerTransaction
from gateway.softphone.wire import SipError, ack_text, resolve, response_bytes


class SipEndpoint(SIP.SIPClient):
    """UDP transport, transactions and message building for one phone.

    What of pyVoIP 1.6.8's ``SIPClient`` is replaced, and why:

    - ``gen_ack`` (SIP.py:1554): invented a To tag, so the peer never saw its ACK.
    - ``gen_call_id`` (SIP.py:995): a hash of a counter, equal in all processes.
    - ``gen_tag``, ``gen_branch``: RFC 3261 section 19.3 wants cryptographic randomness.
    - ``start``/``recv_loop``/``recv``: registered at once, polled under a lock with
      a 1 s delay, dropped parse errors; the reader here also runs all timers.
    - ``parse_message``: answered to the server whoever asked, knew five answers.
    - ``_gen_response_via_header``: rebuilt Via lines and lost parameters.
    - ``invite``/``register``/``deregister``/``bye``: read the socket themselves;
      superseded by ``send_request`` and ``transact``.

    Args:
        phone: the owner; gets every new request and ACK through ``callback``.
        listen: where to listen; port 0 picks a free one, see ``myPort`` after start.
        user: the user part of our addresses.
        auth: user name and password for digest authentication.
        warn: gets a line of text for everything unexpected.

    """

    def __init__(
        self,
        phone: Any,
        listen: Address,
        user: str,
        auth: tuple[str, str],
        warn: Callable[[str], None],
    ) -> None:
        super().__init__(listen[0], listen[1], user, auth[1], phone, listen[0], listen[1], phone.callback)
        self._auth = auth
        self._warn = warn
        self._lock = threading.RLock()
        self._clients: dict[tuple[str, str], ClientTransaction] = {}
        self._servers: dict[tuple[str, str, int, str], ServerTransaction] = {}
        self._receiver: threading.Thread | None = None
        self.on_ack_timeout: Callable[[Message], None] = lambda _: None

    def gen_call_id(self) -> str:
        """A Call-ID no other process makes (RFC 3261 section 8.1.1.4)."""
        return f"{secrets.token_hex(16)}@{self.myIP}"

    def gen_tag(self) -> str:
        """A random tag of 64 bits (section 19.3)."""
        return secrets.token_hex(8)

    def gen_branch(self, length: int = 32) -> str:
        """A random branch with the magic cookie (section 8.1.1.7)."""
        return "z9hG4bK" + secrets.token_hex(max(8, (length - 7) // 2))

    @property
    def contact(self) -> str:
        """Our Contact value."""
        return f"<sip:{self.username}@{self.myIP}:{self.myPort}>"

    def start(self) -> None:
        """Bind and begin to receive; registration is a separate step.

        Raises:
            OSError: the address cannot be bound.

        """
        if self.NSD:
            raise RuntimeError("Attempted to start already started SIPClient")
        self.s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.s.bind((self.myIP, self.myPort))
        self.s.setblocking(False)
        self.myPort = self.s.getsockname()[1]
        self.out = self.s
        self._wake_in, self._wake_out = socket.socketpair()
        self.NSD = True
        self._receiver = threading.Thread(target=self.recv_loop, name="SIP receiver", daemon=True)
        self._receiver.start()

    def stop(self) -> None:
        """End the receiver thread and close the sockets."""
        if not self.NSD:
            return
        self.NSD = False
        self._wake()
        if self._receiver is not None:
            self._receiver.join()
        for sock in (self.s, self._wake_in, self._wake_out):
            sock.close()

    def drain(self, seconds: float) -> None:
        """Wait, so long at most, until no final answer to an INVITE awaits its ACK."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            with self._lock:
                if not any(server.awaits_ack for server in self._servers.values()):
                    return
            time.sleep(0.01)

    def _wake(self) -> None:
        self._wake_out.send(b"x")

    def recv_loop(self) -> None:
        """Receive and run the timers until ``stop``."""
        while self.NSD:
            wait = self._run_timers()
            ready, _, _ = select.select([self.s, self._wake_in], [], [], wait)
            if self._wake_in in ready:
                self._wake_in.recv(64)
            if self.s in ready:
                self.recv()

    def recv(self) -> None:
        """Take one datagram. Whatever is wrong with it is reported, never fatal."""
        try:
            data, source = self.s.recvfrom(65535)
        except OSError as error:
            # An ICMP error of an earlier send is reported on the next receive.
            self._warn(f"SIP socket: {error}")
            return
        if not data.strip(b"\r\n\x00 "):
            return  # keep-alive, RFC 5626 section 4.4.1
        try:
            self.parse_message(Message(data, source))
        except (SIP.SIPParseError, SipError, ValueError) as error:
            self._warn(f"unusable SIP message from {source[0]}:{source[1]}: {error}")

    def parse_message(self, message: SIP.SIPMessage) -> None:
        """Hand a message to its transaction, new requests and ACKs to the phone."""
        if not isinstance(message, Message):
            raise TypeError("this endpoint parses its own messages")
        if message.is_response:
            self._on_response(message)
        elif message.method == "ACK":
            self._on_ack(message)
        else:
            self._on_request(message)

    def _run_timers(self) -> float:
        """Retransmit and forget what is due; the seconds until the next look."""
        now, late = time.monotonic(), []
        with self._lock:
            for key, client in list(self._clients.items()):
                if client.retransmit(now):
                    self._send(client.request.raw, client.address)
                if client.expired(now):
                    del self._clients[key]
            for place, server in list(self._servers.items()):
                if server.response and server.retransmit(now):
                    self._send(*server.response)
                if server.final and now >= server.deadline:
                    del self._servers[place]
                    if server.awaits_ack:
                        late.append(server.request)
            pending = [c.due for c in self._clients.values() if c.final is None]
            pending += [s.due for s in self._servers.values() if s.awaits_ack]
        for request in late:
            self.on_ack_timeout(request)
        return max(0.01, min(0.5, min(pending, default=now + 0.5) - now))

    def _send(self, data: bytes, address: Address) -> None:
        try:
            self.out.sendto(data, address)
        except OSError as error:
            # Like a lost datagram: the transaction times out and says so.
            self._warn(f"cannot send to {address[0]}:{address[1]}: {error}")

    def render(self, request: Request, cseq: int, branch: str, extra: tuple[tuple[str, str], ...] = ()) -> Message:
        """The request with its transaction headers, as it is sent."""
        fields = [
            ("Via", f"SIP/2.0/UDP {self.myIP}:{self.myPort};branch={branch};rport"),
            *(("Route", route) for route in request.routes),
            ("Max-Forwards", "70"),
            ("From", request.sender),
            ("To", request.to),
            ("Call-ID", request.call_id),
            ("CSeq", f"{cseq} {request.method}"),
        ]
        if request.method in ("INVITE", "REGISTER") and "Contact" not in dict(request.extra):
            fields.append(("Contact", self.contact))
        fields += [*request.extra, *extra]
        return Message(render(f"{request.method} {request.uri} SIP/2.0", fields, request.content))

    def send_request(self, message: Message, address: Address) -> ClientTransaction:
        """Send a rendered request; the receiver thread repeats it as needed."""
        transaction = ClientTransaction(message, address)
        with self._lock:
            self._clients[message.branch, message.method] = transaction
            self._send(message.raw, address)
        self._wake()
        return transaction

    def transact(
        self,
        request: Request,
        address: Address,
        next_cseq: Callable[[], int],
        give_up: Callable[[], str | None] = lambda: None,
    ) -> Message:
        """Send a non-INVITE request, log in if asked to, and wait for its final answer.

        ``give_up`` is looked at while waiting; what it returns is the reason to stop.

        Raises:
            SipError: no answer within 32 s or given up (408), or an answer that is not 2xx.

        """
        extra: tuple[tuple[str, str], ...] = ()
        while True:
            message = self.render(request, next_cseq(), self.gen_branch(), extra)
            transaction = self.send_request(message, address)
            response = self._await_final(transaction, give_up)
            if response.code in (401, 407) and not extra:
                extra = (self.log_in(message, response),)
                continue
            if response.code >= 300:
                raise SipError(response.code, response.phrase)
            return response

    @staticmethod
    def _await_final(transaction: ClientTransaction, give_up: Callable[[], str | None]) -> Message:
        host, port = transaction.address
        while True:
            try:
                response = transaction.responses.get(timeout=0.05)
            except queue.Empty:
                reason = give_up()
                if reason is None:
                    continue
                raise SipError(408, f"{reason}, {transaction.request.method} unanswered") from None
            if response is None:
                raise SipError(408, f"no answer to {transaction.request.method} from {host}:{port}")
            if response.code >= 200:
                return response

    def log_in(self, request: Message, response: Message) -> tuple[str, str]:
        """The header that answers a 401 or 407 (RFC 3261 section 22).

        Raises:
            SipError: no password, or no challenge we can answer; has the response's code.

        """
        proxy = response.code == 407
        challenges = response.get_all("proxy-authenticate" if proxy else "www-authenticate")
        problem = "no challenge" if self._auth[1] else "no --password"
        for challenge in challenges if self._auth[1] else []:
            try:
                value = authorization(challenge, request.method, request.request_uri, *self._auth)
            except DigestError as error:
                problem = str(error)
                continue
            return ("Proxy-Authorization" if proxy else "Authorization", value)
        raise SipError(response.code, f"{response.phrase} ({problem})")

    def _on_response(self, response: Message) -> None:
        with self._lock:
            transaction = self._clients.get((response.branch, response.method))
            if transaction is None:
                self._warn(f"stray response {response.code} to {response.method}")
                return
            fresh = transaction.accept(response)
            if response.method == "INVITE" and response.code >= 200:
                if transaction.ack is None:
                    ack = self.gen_ack(response).encode()
                    transaction.ack = ack, self._ack_address(transaction, response)
                self._send(*transaction.ack)
            if not fresh and transaction.final and response.code != transaction.final.code:
                self._warn(f"second final response {response.code} ignored")

    @staticmethod
    def _ack_address(transaction: ClientTransaction, response: Message) -> Address:
        if response.code >= 300:
            return transaction.address
        routes = list(reversed(response.get_all("record-route")))
        target = NameAddress.parse(routes[0]).uri if routes else response.contact
        return resolve(Uri.parse(target)) if target else transaction.address

    def gen_ack(self, request: SIP.SIPMessage) -> str:
        """The ACK for a final response to our INVITE (``request`` as pyVoIP names it).

        To comes with the tag of the response, CSeq keeps the number. For a 2xx the
        request URI is the remote target and the branch is new (RFC 3261 section
        13.2.2.4); otherwise URI, Via and Route are those of the INVITE (17.1.1.3).

        Raises:
            SipError: no INVITE of ours has this response.

        """
        if not isinstance(request, Message):
            raise TypeError("this endpoint parses its own messages")
        transaction = self._clients.get((request.branch, "INVITE"))
        if transaction is None:
            raise SipError(481, "no INVITE for this response")
        via = f"SIP/2.0/UDP {self.myIP}:{self.myPort};branch={self.gen_branch()};rport"
        return ack_text(transaction.request, request, via)

    @staticmethod
    def _server_key(request: Message, method: str) -> tuple[str, str, int, str]:
        via = request.via
        return request.branch or request.call_id, via.host, via.port, method

    def _on_request(self, request: Message) -> None:
        key = self._server_key(request, request.method)
        with self._lock:
            known = self._servers.get(key)
            if known is not None:
                if known.response is not None:
                    self._send(*known.response)
                return
            self._servers[key] = ServerTransaction(request)
        if request.method == "INVITE":
            self.respond(request, 100)
        try:
            if self.callCallback is not None:
                self.callCallback(request)
        except (ValueError, SipError) as error:
            self._warn(f"{request.method} refused: {error}")
            self.respond(request, 400)
        except RtpError as error:
            self._warn(f"{request.method} refused: {error}")
            self.respond(request, 500)

    def _on_ack(self, ack: Message) -> None:
        with self._lock:
            # By Call-ID and number, since the ACK of a 2xx has a branch of its own.
            for server in self._servers.values():
                invite = server.request
                if (invite.method, invite.call_id) == ("INVITE", ack.call_id):
                    server.acked = server.acked or invite.cseq == ack.cseq
        if self.callCallback is not None:
            self.callCallback(ack)

    def invite_of(self, cancel: Message) -> ServerTransaction | None:
        """The INVITE transaction a CANCEL means (section 9.2)."""
        with self._lock:
            return self._servers.get(self._server_key(cancel, "INVITE"))

    def respond(
        self,
        request: Message,
        code: int,
        tag: str = "",
        extra: tuple[tuple[str, str], ...] = (),
        content: bytes = b"",
    ) -> None:
        """Answer a request: every Via in order, and to where RFC 3581 says."""
        contact = self.contact if request.method == "INVITE" and 100 < code < 300 else ""
        fields = [*([("Contact", contact)] if contact else []), *extra]
        data, address = response_bytes(request, code, tag or self.gen_tag(), fields, content)
        with self._lock:
            server = self._servers.get(self._server_key(request, request.method))
            if server is not None:
                server.answered(data, address, code >= 200)
            self._send(data, address)
        self._wake()
