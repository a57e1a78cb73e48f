"""The gateway's telephony against a real Asterisk 22, with the files of `dialplans/asterisk/`: both ways, sample for sample."""

from __future__ import annotations

import asyncio
import re

import pytest
from asterisk import (
    CONSENT_NUMBER,
    ECHO,
    GATEWAY_HOST,
    KEYS,
    PHONE_HOST,
    PLAY,
    READ_KEYS,
    RECORD,
    SECRETS,
    SEND_KEYS,
    SITE,
    US,
    Asterisk,
    first_site,
)
from exchange import HALF_A_SECOND, House, Houses, a_second_of, differing, exact, frames, noise, recorded, soon, until

from gateway.audio.codec import decoder
from gateway.resources import data_folder
from gateway.telephony.errors import CallFailed

pytestmark = pytest.mark.interop


class TestTrunkOut:
    """The gateway calls through Asterisk, which challenges it."""

    async def test_asterisk_records_what_the_gateway_plays_sample_for_sample(
        self, asterisk: Asterisk, gateway: House
    ) -> None:
        async def attempt(number: int) -> list[int]:
            said = noise(2.0, number)
            call = await soon(gateway.dial(RECORD))
            assert 100 == (await soon(call.play(frames(said)))).sent
            await until(lambda: len(asterisk.recording()) >= len(said) + HALF_A_SECOND, "the recording")
            call.hangup("done")
            return [differing(said, decoder("PCMA").decode(asterisk.take_recording()))]

        assert [0] == await exact(attempt)

    async def test_the_gateway_records_what_asterisk_plays_sample_for_sample(
        self, asterisk: Asterisk, gateway: House
    ) -> None:
        async def attempt(number: int) -> list[int]:
            said = noise(2.0, number)
            asterisk.give_sound("consent-check.alaw", said)
            call = await soon(gateway.dial(PLAY))
            assert "caller" == (await soon(call.ended)).by
            return [differing(said, (await recorded(call))[0])]

        assert [0] == await exact(attempt)

    async def test_an_echo_comes_back_as_it_went(self, gateway: House) -> None:
        async def attempt(number: int) -> list[int]:
            said = noise(2.0, number)
            call = await soon(gateway.dial(ECHO))
            await soon(call.play(frames(said)))
            await a_second_of(call)
            return [differing(said, channel) for channel in await recorded(call)]

        assert [0, 0] == await exact(attempt)

    async def test_all_sixteen_keys_of_the_gateway_are_read(self, asterisk: Asterisk, gateway: House) -> None:
        call = await soon(gateway.dial(READ_KEYS))
        call.stream.send_keys(KEYS)
        assert KEYS == await asterisk.logged("Ext. 602: consent-check heard the keys ")
        await soon(call.ended)

    async def test_all_sixteen_keys_of_asterisk_are_heard_once(self, gateway: House) -> None:
        call = await soon(gateway.dial(SEND_KEYS))
        heard: list[str] = []
        call.stream.on_key = heard.append
        await soon(call.ended)
        assert KEYS == "".join(heard)

    async def test_a_wrong_password_gets_no_call(self, asterisk: Asterisk, gateway: House, houses: Houses) -> None:
        stranger = await houses.open(GATEWAY_HOST, asterisk.line("consent") | {"password": "guess"})
        with pytest.raises(CallFailed) as failed:
            await soon(stranger.dial(ECHO))
        assert 401 == failed.value.status

    async def test_asterisk_is_answered_with_the_stronger_digest(self, asterisk: Asterisk, gateway: House) -> None:
        """RFC 8760: a 401 with two challenges."""
        call = await soon(gateway.dial(ECHO))
        await call.close()
        assert ["sha-256", "md5"] == re.findall(
            r"WWW-Authenticate: .*algorithm=([^,\s]+)", asterisk.said.lower(), re.IGNORECASE
        )
        assert {"sha-256"} == set(re.findall(r"\nauthorization: .*algorithm=([^,\s]+)", asterisk.said.lower()))

    async def test_a_call_that_nobody_answers_is_cancelled_all_the_way(
        self, asterisk: Asterisk, houses: Houses, subscriber: House
    ) -> None:
        gateway = await houses.open(GATEWAY_HOST, asterisk.line("consent", ring_s=1))
        subscriber.policy = subscriber.ring
        with pytest.raises(CallFailed) as failed:
            await soon(gateway.dial("+821090000001"))
        assert 487 == failed.value.status
        await asterisk.until(
            lambda: "CANCEL sip:821090000001" in asterisk.said or "CANCEL sip:+821090000001" in asterisk.said, "CANCEL"
        )

    async def test_a_busy_subscriber_is_told_as_busy(self, gateway: House, subscriber: House) -> None:
        subscriber.policy = subscriber.reject
        with pytest.raises(CallFailed) as failed:
            await soon(gateway.dial("+821090000001"))
        assert 486 == failed.value.status


class TestTrunkIn:
    """Asterisk calls the gateway."""

    async def test_a_subscriber_is_known_by_his_number_and_heard_sample_for_sample(
        self, gateway: House, subscriber: House
    ) -> None:
        async def attempt(number: int) -> list[int]:
            said, replied = noise(2.0, number), noise(2.0, 10 + number)
            theirs = await soon(subscriber.dial(CONSENT_NUMBER))
            ours = await soon(gateway.taken.get())
            assert "+821090000001" == await soon(gateway.callers.get())
            await soon(asyncio.gather(theirs.play(frames(said)), ours.play(frames(replied))))
            await a_second_of(ours)
            theirs.hangup("done")
            assert "caller" == (await soon(ours.ended)).by
            mine, yours = await recorded(ours), await recorded(theirs)
            return [differing(said, mine[0]), differing(replied, mine[1]),
                    differing(replied, yours[0]), differing(said, yours[1])]  # fmt: skip

        assert [0, 0, 0, 0] == await exact(attempt)

    async def test_what_asterisk_plays_is_recorded_sample_for_sample(self, asterisk: Asterisk, gateway: House) -> None:
        async def attempt(number: int) -> list[int]:
            said = noise(2.0, number)
            asterisk.give_sound("consent-check.alaw", said)
            await asterisk.originate(f"PJSIP/{CONSENT_NUMBER}@consent", PLAY)
            call = await soon(gateway.taken.get())
            await soon(call.ended)
            return [differing(said, (await recorded(call))[0])]

        assert [0] == await exact(attempt)

    async def test_keys_sent_as_info_are_heard(self, asterisk: Asterisk, gateway: House) -> None:
        await asterisk.set_site({"site-consent": {"dtmf_mode": "info"}})
        call = await soon(gateway.dial(SEND_KEYS))
        heard: list[str] = []
        call.stream.on_key = heard.append
        await soon(call.ended)
        assert KEYS == "".join(heard)
        assert "INFO sip:" in asterisk.said

    async def test_the_gateway_ends_a_call_and_asterisk_lets_go(self, asterisk: Asterisk, gateway: House) -> None:
        await asterisk.originate(f"PJSIP/{CONSENT_NUMBER}@consent", ECHO)
        call = await soon(gateway.taken.get())
        await until(lambda: call.stream.received > 10, "the echo")
        call.hangup("done")
        await asterisk.until(asterisk.is_idle, "the channel gone")


class TestRegistration:
    """The gateway as an extension of Asterisk, and Asterisk as a softphone of the gateway."""

    async def test_a_registered_line_is_called(self, asterisk: Asterisk, houses: Houses) -> None:
        house = await houses.open(PHONE_HOST, asterisk.line("7000", register=True))
        await asterisk.until(lambda: asterisk.shows("pjsip show aor 7000", "7000@127.0.0.5"), "7000 registered")
        await asterisk.originate("PJSIP/7000", SEND_KEYS)
        call = await soon(house.taken.get())
        heard: list[str] = []
        call.stream.on_key = heard.append
        await soon(call.ended)
        assert KEYS == "".join(heard)

    async def test_asterisk_registers_at_the_gateway_and_is_reached_there(
        self, asterisk: Asterisk, houses: Houses
    ) -> None:
        house = await houses.open(GATEWAY_HOST, phones={US: SECRETS[US]})
        await asterisk.set_site(
            {
                "site-consent-aor": {"contact": house.uri},
                "consent-registration": {
                    "type": "registration", "transport": "transport-udp", "server_uri": house.uri,
                    "client_uri": f"sip:{US}@{house.uri.removeprefix('sip:')}", "contact_user": CONSENT_NUMBER, "max_random_initial_delay": "0",
                    "outbound_auth": "we-call-consent",
                },
            }
        )  # fmt: skip
        await asterisk.until(lambda: asterisk.shows("pjsip show registrations", "Registered"), "Asterisk registered")
        assert "SIP/2.0 401" in asterisk.said
        binding = house.board.registrar.find(US)
        assert binding is not None
        assert f"sip:{CONSENT_NUMBER}@{asterisk.host}:{asterisk.udp_port}" == binding.contact

    async def test_asterisk_that_is_no_line_proves_who_it_is(self, asterisk: Asterisk, houses: Houses) -> None:
        house = await houses.open(GATEWAY_HOST, phones={US: SECRETS[US]})
        await asterisk.set_site({"site-consent-aor": {"contact": house.uri}})
        await asterisk.originate(f"PJSIP/{CONSENT_NUMBER}@consent", ECHO)
        call = await soon(house.taken.get())
        assert US == await soon(house.callers.get())
        await until(lambda: call.stream.received > 10, "the echo")
        assert "SIP/2.0 401" in asterisk.said

    async def test_asterisk_with_a_wrong_password_gets_no_call(self, asterisk: Asterisk, houses: Houses) -> None:
        house = await houses.open(GATEWAY_HOST, phones={US: "another one"})
        await asterisk.set_site({"site-consent-aor": {"contact": house.uri}})
        await asterisk.originate(f"PJSIP/{CONSENT_NUMBER}@consent", ECHO)
        await asterisk.until(asterisk.is_idle, "the attempt over")
        assert "SIP/2.0 401" in asterisk.said
        assert house.taken.empty()


class TestMessages:
    """SMS as SIP MESSAGE, routed by Asterisk."""

    TEXT = "인증번호는 4821 입니다 — 9,900원"

    async def test_a_message_of_the_gateway_reaches_the_subscriber(self, gateway: House, subscriber: House) -> None:
        assert 202 == await soon(gateway.message("+821090000001", self.TEXT))
        assert (CONSENT_NUMBER, self.TEXT) == await soon(subscriber.messages.get())

    async def test_a_message_of_the_subscriber_reaches_the_gateway(self, gateway: House, subscriber: House) -> None:
        assert 202 == await soon(subscriber.message(CONSENT_NUMBER, self.TEXT))
        assert ("821090000001", self.TEXT) == await soon(gateway.messages.get())


class TestTransfer:
    async def test_a_caller_is_handed_over_to_the_queue_and_hears_the_person(
        self, asterisk: Asterisk, gateway: House, subscriber: House, agent: House
    ) -> None:
        """RFC 3515: REFER, its NOTIFYs, then the gateway is out of the call and the two others hear each other."""

        async def attempt(number: int) -> list[int]:
            theirs = await soon(subscriber.dial(CONSENT_NUMBER))
            ours = await soon(gateway.taken.get())
            assert await soon(ours.transfer(f"sip:agents@{asterisk.host}:{asterisk.udp_port}"))
            person = await soon(agent.taken.get())
            await ours.close()
            said = noise(1.0, number)
            await soon(theirs.play(frames(said)))
            await a_second_of(person)
            theirs.hangup("done")
            await soon(person.ended)
            return [differing(said, (await recorded(person))[0])]

        assert [0] == await exact(attempt)

    async def test_a_transfer_to_nobody_is_told_as_failed(
        self, asterisk: Asterisk, gateway: House, subscriber: House
    ) -> None:
        theirs = await soon(subscriber.dial(CONSENT_NUMBER))
        ours = await soon(gateway.taken.get())
        assert not await soon(ours.transfer(f"sip:nobody@{asterisk.host}:{asterisk.udp_port}"))
        assert not theirs.ended.done()


class TestKeepAlive:
    async def test_asterisk_sees_the_gateway_come_and_stop(self, asterisk: Asterisk, gateway: House) -> None:
        """OPTIONS: 200, and 503 while it drains."""
        await asterisk.reaches_gateway()
        gateway.agent.draining = True
        await asterisk.cli("pjsip qualify consent")
        await asterisk.until(lambda: asterisk.shows("pjsip show contacts", "Unavail"), "the gateway left out")

    async def test_the_gateway_sees_asterisk_up_and_another_down(self, asterisk: Asterisk, houses: Houses) -> None:
        there = await houses.open(GATEWAY_HOST, asterisk.line("consent", keepalive_s=1))
        nowhere = await houses.open(
            GATEWAY_HOST, asterisk.line("consent", keepalive_s=1, transport="tcp") | {"port": 9}
        )
        await until(lambda: not nowhere.line.route.is_up(nowhere.line.peers[0]), "the other one down")
        await asterisk.until(lambda: "OPTIONS sip:127.0.0.2" in asterisk.said, "OPTIONS of the gateway")
        assert there.line.route.is_up(there.line.peers[0])


class TestFiles:
    """The files that ship: these tests run them, all but the one that holds what differs from site to site."""

    def test_the_site_file_that_ships_has_the_sections_that_these_tests_fill(self, running_asterisk: Asterisk) -> None:
        shipped = (data_folder("dialplans") / "asterisk" / SITE).read_text(encoding="utf-8")
        keys: dict[str, set[str]] = {}
        for line in (line.split(";")[0].strip() for line in shipped.splitlines()):
            if line.startswith("["):
                section = keys.setdefault(line.strip("[]()!"), set())
            elif line:
                section.add(line.split("=")[0].strip())
        ours = first_site(running_asterisk.udp_port, running_asterisk.tls_port)
        of_the_tests = {"media_address", "bind_rtp_to_media_address"}
        assert {name: set(section) - of_the_tests for name, section in ours.items()} == keys

    def test_asterisk_reads_them_without_complaint(self, running_asterisk: Asterisk) -> None:
        """But for files that it can do without."""
        boot = running_asterisk.log.split("Asterisk Ready.")[0]
        complaints = [line for line in boot.splitlines() if re.search(r"\b(ERROR|WARNING)\[", line)]
        absent = re.compile(r"Unable to load config file|Could not find valid|Can't find|No music on hold classes")
        assert [] == [line for line in complaints if not absent.search(line)]
