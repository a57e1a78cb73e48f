"""Registrations (RFC 3261 §10.3) over the fake wire, with the gateway's own client side of the digest."""

from __future__ import annotations

import itertools

import pytest
from aiosipua.message import SipRequest, SipResponse
from sip_bench import Bench, authorize, request

from gateway.consent.order import normalise_number
from gateway.telephony.auth import NONCE_TTL_S, Credentials, DigestServer
from gateway.telephony.registrar import DEFAULT_EXPIRES_S, SHORTEST_EXPIRES_S, Registrar
from gateway.telephony.transport import Hop

ALICE = Credentials("100", "secret")
PHONE = Hop("198.51.100.7", 31337)


class Phone:
    """A registrar on a bench, and a phone that registers there."""

    def __init__(self) -> None:
        self.bench = Bench(self._take)
        self.now = 1_000_000.0
        self.source = PHONE
        self.registrar = Registrar(
            DigestServer("gateway", {"100": "secret", "200": "other"}, lambda: self.now), lambda: self.now
        )
        self._numbers = itertools.count(1)

    def _take(self, incoming: object) -> None:
        self.registrar.take(incoming)  # type: ignore[arg-type]

    def send(self, register: SipRequest, source: Hop | None = None) -> SipResponse:
        self.bench.take(register, source or self.source)
        answer = self.bench.wire.last
        assert isinstance(answer, SipResponse)
        return answer

    def make(self, headers: dict[str, str] | None = None) -> SipRequest:
        number = next(self._numbers)
        made = request("REGISTER", branch=f"z9hG4bK-{number}", via_params=";rport", seq=number)
        for name, value in (headers or {}).items():
            made.remove_header(name)
            if value:
                made.set_header(name, value)
        return made

    def register(self, headers: dict[str, str] | None = None, credentials: Credentials = ALICE) -> SipResponse:
        """The answer to a REGISTER that was challenged and came again with *credentials*."""
        challenge = self.send(self.make(headers))
        again = self.make(headers)
        assert authorize(again, challenge, credentials)
        return self.send(again)


@pytest.fixture
def phone() -> Phone:
    return Phone()


class TestAuthentication:
    """RFC 3261 §22."""

    def test_a_stranger_is_challenged_with_both_algorithms(self, phone: Phone) -> None:
        answer = phone.send(phone.make())
        assert 401 == answer.status_code
        assert 2 == len(answer.get_header_values("WWW-Authenticate"))
        assert phone.registrar.find("100") is None

    def test_the_right_password_registers(self, phone: Phone) -> None:
        assert 200 == phone.register().status_code
        assert phone.registrar.find("100") is not None

    def test_a_wrong_password_is_challenged_again_and_not_called_stale(self, phone: Phone) -> None:
        answer = phone.register(credentials=Credentials("100", "wrong"))
        assert 401 == answer.status_code
        assert not any("stale" in value for value in answer.get_header_values("WWW-Authenticate"))

    def test_an_old_nonce_is_called_stale(self, phone: Phone) -> None:
        challenge = phone.send(phone.make())
        phone.now += NONCE_TTL_S + 1
        again = phone.make()
        assert authorize(again, challenge, ALICE)
        answer = phone.send(again)
        assert 401 == answer.status_code
        assert all("stale=true" in value for value in answer.get_header_values("WWW-Authenticate"))

    def test_an_overheard_answer_is_worth_nothing_from_elsewhere(self, phone: Phone) -> None:
        challenge = phone.send(phone.make())
        again = phone.make()
        assert authorize(again, challenge, ALICE)
        assert 401 == phone.send(again, Hop("203.0.113.9", PHONE.port)).status_code
        assert phone.registrar.find("100") is None

    def test_a_user_registers_nobody_but_himself(self, phone: Phone) -> None:
        assert 401 == phone.register(credentials=Credentials("200", "other")).status_code
        assert phone.registrar.find("100") is None
        assert phone.registrar.find("200") is None


class TestBindings:
    """RFC 3261 §10.3."""

    def test_a_binding_knows_the_contact_and_the_source(self, phone: Phone) -> None:
        phone.register({"Contact": "<sip:100@192.168.0.7:5062;transport=udp>"})
        binding = phone.registrar.find("100")
        assert binding is not None
        assert ("100", "sip:100@192.168.0.7:5062;transport=udp", PHONE) == (
            binding.user,
            binding.contact,
            binding.source,
        )

    def test_a_binding_is_found_by_its_source(self, phone: Phone) -> None:
        phone.register()
        assert phone.registrar.find("100") == phone.registrar.at(PHONE)
        assert phone.registrar.at(Hop(PHONE.host, PHONE.port + 1)) is None

    @pytest.mark.parametrize(
        ("headers", "granted"),
        [
            ({"Expires": "600"}, 600),
            ({"Contact": "<sip:100@h>;expires=90", "Expires": "600"}, 90),
            ({}, DEFAULT_EXPIRES_S),
            ({"Expires": "999999999"}, DEFAULT_EXPIRES_S),
            ({"Expires": "soon"}, DEFAULT_EXPIRES_S),
            ({"Expires": "²"}, DEFAULT_EXPIRES_S),
            ({"Expires": "9" * 5000}, DEFAULT_EXPIRES_S),
            ({"Expires": str(SHORTEST_EXPIRES_S)}, SHORTEST_EXPIRES_S),
        ],
    )
    def test_the_time_granted_is_told_in_the_contact(self, phone: Phone, headers: dict[str, str], granted: int) -> None:
        answer = phone.register(headers)
        assert [str(granted)] == [contact.params["expires"] for contact in answer.contact]

    def test_a_time_too_short_is_refused_with_the_shortest(self, phone: Phone) -> None:
        answer = phone.register({"Expires": str(SHORTEST_EXPIRES_S - 1)})
        assert (423, str(SHORTEST_EXPIRES_S)) == (answer.status_code, answer.get_header("Min-Expires"))
        assert phone.registrar.find("100") is None

    def test_a_binding_ends_with_its_time(self, phone: Phone) -> None:
        phone.register({"Expires": "60"})
        phone.now += 59
        assert phone.registrar.find("100") is not None
        phone.now += 1
        assert phone.registrar.find("100") is None
        assert phone.registrar.at(PHONE) is None

    def test_a_refresh_begins_the_time_anew(self, phone: Phone) -> None:
        phone.register({"Expires": "60"})
        phone.now += 50
        phone.register({"Expires": "60"})
        phone.now += 50
        assert phone.registrar.find("100") is not None

    @pytest.mark.parametrize(
        "headers", [{"Contact": "*", "Expires": "0"}, {"Contact": "<sip:100@h>;expires=0"}, {"Expires": "0"}]
    )
    def test_a_binding_is_removed(self, phone: Phone, headers: dict[str, str]) -> None:
        phone.register()
        answer = phone.register(headers)
        assert (200, []) == (answer.status_code, answer.contact)
        assert phone.registrar.find("100") is None

    def test_without_a_contact_the_binding_is_only_asked_for(self, phone: Phone) -> None:
        phone.register({"Expires": "60"})
        phone.now += 20
        answer = phone.register({"Contact": ""})
        assert ["40"] == [contact.params["expires"] for contact in answer.contact]

    def test_the_new_phone_of_a_user_replaces_the_old_one(self, phone: Phone) -> None:
        phone.register({"Contact": "<sip:100@old>"})
        phone.register({"Contact": "<sip:100@new>"})
        binding = phone.registrar.find("100")
        assert "sip:100@new" == (binding.contact if binding else None)

    def test_a_phone_on_a_connection_is_reached_over_it(self, phone: Phone) -> None:
        """RFC 5626: behind a router there is no other way."""
        flow = Hop("198.51.100.7", 40000, "tcp")
        phone.source = flow
        phone.register()
        binding = phone.registrar.find("100")
        assert flow == (binding.flow if binding else None)

    def test_a_phone_on_udp_is_reached_at_its_contact(self, phone: Phone) -> None:
        phone.register()
        binding = phone.registrar.find("100")
        assert binding is not None
        assert binding.flow is None


class TestWho:
    """Who sent a request: by password, or from the address that registered."""

    def asked(self, phone: Phone, source: Hop, headers: dict[str, str] | None = None) -> str | None:
        bench = Bench()
        bench.take(request("INVITE", branch="z9hG4bK-invite", headers=headers), source)
        return phone.registrar.who(bench.requests[0])

    def test_the_connection_of_a_registered_phone_is_proof(self, phone: Phone) -> None:
        phone.source = PHONE._replace(transport="tcp")
        phone.register()
        assert "100" == self.asked(phone, phone.source)

    def test_its_address_alone_is_none_for_a_datagram_can_be_forged(self, phone: Phone) -> None:
        phone.register()
        assert self.asked(phone, PHONE) is None

    @pytest.mark.parametrize(
        "source", [Hop("198.51.100.7", 31338), Hop("203.0.113.9", 31337), PHONE._replace(transport="tcp")]
    )
    def test_any_other_address_proves_nobody(self, phone: Phone, source: Hop) -> None:
        phone.register()
        assert self.asked(phone, source) is None

    def test_an_address_whose_registration_ran_out_proves_nobody(self, phone: Phone) -> None:
        phone.register({"Expires": "60"})
        phone.now += 61
        assert self.asked(phone, PHONE) is None

    def test_a_password_is_proof_from_anywhere(self, phone: Phone) -> None:
        bench = Bench(
            lambda incoming: None if phone.registrar.who(incoming) else phone.registrar.challenge(incoming) and None
        )
        source = Hop("203.0.113.9", 5060)
        bench.take(request("INVITE", branch="z9hG4bK-a"), source)
        refusal = bench.wire.last
        assert isinstance(refusal, SipResponse)
        again = request("INVITE", branch="z9hG4bK-b", seq=2)
        assert authorize(again, refusal, ALICE)
        assert "100" == self.asked(phone, source, {"Authorization": again.get_header("Authorization") or ""})

    def test_without_any_password_nobody_is_asked_for_one(self) -> None:
        registrar, bench = Registrar(DigestServer("gateway", {}, float), float), Bench()
        bench.take(request("INVITE"))
        assert not registrar.challenge(bench.requests[0])
        assert [] == bench.wire.sent


class TestKnowing:
    """Nobody else speaks for a number that has a password here, however he writes it."""

    @pytest.mark.parametrize("written", ["+821012345678", "01012345678", "+82-10-1234-5678"])
    def test_a_number_is_known_in_any_form(self, written: str) -> None:
        registrar = Registrar(
            DigestServer("gateway", {"+821012345678": "secret"}, lambda: 0.0), lambda: 0.0,
            lambda user: normalise_number(user, "KR"),
        )  # fmt: skip
        assert registrar.knows(written)
        assert not registrar.knows("+821099999999")
