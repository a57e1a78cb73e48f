"""Calls with a real Asterisk 22 that change or are not plain: hold, reliable ringing, session timers, TCP, TLS with SRTP, G.722."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from asterisk import CONSENT_NUMBER, ECHO, GATEWAY_HOST, KEYS, PLAY, READ_KEYS, RECORD, Asterisk
from exchange import (
    HALF_A_SECOND,
    House,
    Houses,
    differing,
    exact,
    frames,
    listen,
    noise,
    play_until,
    recorded,
    soon,
    until,
)

from gateway.audio.codec import SAMPLE_RATE, decoder
from gateway.telephony.errors import CallFailed

pytestmark = pytest.mark.interop


@pytest.fixture
async def secure(asterisk: Asterisk, houses: Houses) -> AsyncIterator[House]:
    """The gateway with a trunk over TLS, its media encrypted; each side believes the other by one authority."""
    certificate, key = asterisk.authority.certify("gateway", GATEWAY_HOST)
    house = await houses.open(
        GATEWAY_HOST, asterisk.line("consent", transport="tls", port=asterisk.tls_port), tls_bind=f"{GATEWAY_HOST}:0",
        tls_certificate=str(certificate), tls_key=str(key), tls_ca=str(asterisk.authority.certificate),
    )  # fmt: skip
    await asterisk.set_site(
        {"site-consent": {"media_encryption": "sdes"}, "site-consent-aor": {"contact": house.tls_uri}}
    )
    await asterisk.reaches_gateway()  # by then no connection is half made
    yield house
    await asterisk.reset_site()  # nor made again when this one is closed


class TestSession:
    """Hold, resume, reliable ringing, session timers."""

    async def test_a_subscriber_on_hold_is_not_spoken_to_until_he_resumes(
        self, gateway: House, subscriber: House
    ) -> None:
        """re-INVITE by Asterisk, with music on hold passed on."""
        theirs = await soon(subscriber.dial(CONSENT_NUMBER))
        ours = await soon(gateway.taken.get())
        assert await soon(theirs.hold())
        await until(lambda: ours.stream.terms.on_hold, "hold")
        assert await soon(theirs.resume())
        await until(lambda: not ours.stream.terms.on_hold, "resume")
        heard = listen(theirs)
        await play_until(ours, noise(0.4, 1), lambda: heard)

    async def test_asterisk_lets_the_gateway_hold_and_resume(self, gateway: House) -> None:
        call = await soon(gateway.dial(ECHO))
        assert [True, True] == [await soon(call.hold()), await soon(call.resume())]
        heard = listen(call)
        await play_until(call, noise(0.4, 2), lambda: heard)

    async def test_ringing_is_reliable_where_asterisk_demands_it(self, asterisk: Asterisk, gateway: House) -> None:
        """RFC 3262."""
        await asterisk.set_site({"site-consent": {"100rel": "required"}})
        gateway.policy = gateway.ring_and_answer
        await asterisk.originate(f"PJSIP/{CONSENT_NUMBER}@consent", ECHO)
        call = await soon(gateway.taken.get())
        await until(lambda: call.stream.received > 10, "the echo")
        assert "PRACK sip:" in asterisk.said

    async def test_calls_live_beyond_their_session_by_refreshing_it(
        self, asterisk: Asterisk, houses: Houses, subscriber: House
    ) -> None:
        """RFC 4028, 90 s being the shortest: refreshed at half of it, by the gateway and by Asterisk."""
        gateway = await houses.open(GATEWAY_HOST, asterisk.line("consent"), session_s=90)
        always = {"timers": "always", "timers_sess_expires": "90"}
        await asterisk.set_site({"site-consent": always, "site-consent-aor": {"contact": gateway.uri}})
        began = asyncio.get_running_loop().time()
        out = await soon(gateway.dial(ECHO))
        theirs = await soon(subscriber.dial(CONSENT_NUMBER))
        back = await soon(gateway.taken.get())
        timers = [out.timer, back.timer]
        assert [90, 90] == [timer.expires_s for timer in timers if timer is not None]
        async with asyncio.timeout(60):  # a refresh makes a timer anew
            while out.timer is timers[0] or back.timer is timers[1]:  # noqa: ASYNC110 - plain attributes
                await asyncio.sleep(0.1)
        assert asyncio.get_running_loop().time() - began >= 40
        assert not any(call.ended.done() for call in (out, back, theirs))


class TestTransports:
    """TCP, TLS with SRTP, and G.722."""

    async def test_a_call_and_a_message_over_tcp(self, asterisk: Asterisk, houses: Houses, subscriber: House) -> None:
        gateway = await houses.open(GATEWAY_HOST, asterisk.line("consent", transport="tcp"))
        assert 202 == await soon(gateway.message("+821090000001", "over tcp"))
        assert "over tcp" == (await soon(subscriber.messages.get()))[1]
        call = await soon(gateway.dial(READ_KEYS))
        call.stream.send_keys(KEYS)
        assert KEYS == await asterisk.logged("Ext. 602: consent-check heard the keys ")
        await soon(call.ended)
        assert "from TCP:" in asterisk.said

    async def test_asterisk_calls_over_tls_and_what_it_plays_in_srtp_is_recorded(
        self, asterisk: Asterisk, secure: House
    ) -> None:
        async def attempt(number: int) -> list[int]:
            said = noise(2.0, number)
            asterisk.give_sound("consent-check.alaw", said)
            await asterisk.originate(f"PJSIP/{CONSENT_NUMBER}@consent", PLAY)
            call = await soon(secure.taken.get())
            assert call.stream.own_crypto is not None
            await soon(call.ended)
            return [differing(said, (await recorded(call))[0])]

        assert [0] == await exact(attempt)
        assert "to TLS:" in asterisk.said

    async def test_the_gateway_calls_over_tls_and_what_it_plays_in_srtp_is_recorded(
        self, asterisk: Asterisk, secure: House
    ) -> None:
        async def attempt(number: int) -> list[int]:
            said = noise(2.0, number)
            call = await soon(secure.dial(RECORD))
            assert call.stream.own_crypto is not None
            await soon(call.play(frames(said)))
            await until(lambda: len(asterisk.recording()) >= len(said) + HALF_A_SECOND, "the recording")
            call.hangup("done")
            return [differing(said, decoder("PCMA").decode(asterisk.take_recording()))]

        assert [0] == await exact(attempt)

    async def test_a_secure_line_without_keys_from_asterisk_gets_no_call(
        self, asterisk: Asterisk, secure: House
    ) -> None:
        await asterisk.set_site({"site-consent": {"media_encryption": "no"}})
        with pytest.raises(CallFailed) as failed:
            await soon(secure.dial(ECHO))
        assert 488 == failed.value.status

    async def test_wideband_goes_through_octet_for_octet(self, asterisk: Asterisk, houses: Houses) -> None:
        gateway = await houses.open(GATEWAY_HOST, asterisk.line("consent"), codecs=("G722", "PCMA"))
        await asterisk.set_site(
            {"site-consent": {"allow": "!all,g722,alaw"}, "site-consent-aor": {"contact": gateway.uri}}
        )
        said, replied = noise(2.0, 1), noise(2.0, 2)
        out = await soon(gateway.dial(RECORD))
        await play_until(out, said, asterisk.recording)
        out.hangup("done")

        async def attempt(_: int) -> list[int]:
            asterisk.give_sound("consent-check.g722", replied)
            await asterisk.originate(f"PJSIP/{CONSENT_NUMBER}@consent", PLAY)
            back = await soon(gateway.taken.get())
            heard = listen(back)
            await soon(back.ended)
            assert ["G722", "G722"] == [call.stream.terms.codec for call in (out, back)]
            caller, _ = await recorded(back)
            assert caller.size >= 2 * SAMPLE_RATE["G722"]
            return [int(replied not in heard)]

        assert [0] == await exact(attempt)
