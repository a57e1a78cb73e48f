"""Phones that call in: baresip and the pyVoIP softphone, each heard and hearing, with keys, and as strangers who prove themselves."""

from __future__ import annotations

import json
import sys
import wave
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from gateways import TRUSTED, Gateway
from peers import Baresip
from processes import LOCALHOST, ROOT, Process, until

pytestmark = pytest.mark.interop

NUMBER = "+821012345678"
PHONE = f'[[softphones]]\nnumber = "{NUMBER}"\npassword = "secret"\n'
GATEWAY_HZ, PHONE_HZ = 1000, 440
TOLERANCE_HZ = 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("phones")


@pytest.fixture(scope="module")
def trusting(folder: Path) -> Iterator[Gateway]:
    with Gateway(folder, sip=TRUSTED) as opened:
        yield opened


@pytest.fixture(scope="module")
def strict(folder: Path) -> Iterator[Gateway]:
    """A gateway that knows one phone, and trusts nobody."""
    with Gateway(folder, "strict", settings=PHONE) as opened:
        yield opened


@pytest.fixture(scope="module")
def plain(folder: Path) -> Iterator[Gateway]:
    """The same for phones that fail where a challenge names SHA-256."""
    with Gateway(folder, "plain", settings=PHONE, sip='digests = ["MD5"]') as opened:
        yield opened


def tone_file(folder: Path, rate: int) -> Path:
    """A minute of the phone's tone."""
    path = folder / f"tone-{rate}.wav"
    if not path.exists():
        samples = 8000 * np.sin(2 * np.pi * PHONE_HZ * np.arange(60 * rate) / rate)
        with wave.open(str(path), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(rate)
            file.writeframes(np.round(samples).astype("<i2").tobytes())
    return path


def pitch(path: Path, seconds: float = 1.0) -> float:
    """The strongest frequency in the last *seconds* of a WAV file, Hz; 0 while it is shorter."""
    with wave.open(str(path), "rb") as file:
        rate, samples = file.getframerate(), np.frombuffer(file.readframes(file.getnframes()), "<i2")
    last = samples[-int(rate * seconds) :].astype(float)
    if last.size < rate * seconds or last.std() < 100:
        return 0.0
    return float(np.argmax(np.abs(np.fft.rfft(last * np.hanning(last.size)))) / seconds)


class TestBaresip:
    @pytest.mark.parametrize(
        ("codec", "rate", "agreed"), [("PCMA/8000/1", 8000, "PCMA"), ("PCMU/8000/1", 8000, "PCMU"), ("G722/16000/1", 16_000, "G722")]
    )  # fmt: skip
    def test_a_call_in_is_heard_on_both_sides(
        self, folder: Path, trusting: Gateway, codec: str, rate: int, agreed: str
    ) -> None:
        with Baresip(folder, tone_file(folder, rate), f"{NUMBER}@{LOCALHOST}", f";audio_codecs={codec}") as phone:
            phone.do("dial", f"sip:15880000@{LOCALHOST}:{trusting.port}")
            phone.event("CALL_ESTABLISHED")
            answered = trusting.event("answered")
            heard = phone.heard()
            until(lambda: heard.stat().st_size > 2 * 2 * rate, "two seconds of audio")
            phone.do("hangup")
            ended = trusting.event("ended")
            phone.event("CALL_CLOSED")
        assert agreed == answered["codec"]
        assert ("caller", "hung up") == (ended["by"], ended["reason"])
        assert PHONE_HZ == pytest.approx(ended["heard_hz"], abs=TOLERANCE_HZ)
        assert GATEWAY_HZ == pytest.approx(pitch(heard), abs=TOLERANCE_HZ)

    def test_it_is_called_and_hears_our_keys(self, folder: Path, trusting: Gateway) -> None:
        with Baresip(folder, tone_file(folder, 16_000), f"{NUMBER}@{LOCALHOST}", ";answermode=auto") as phone:
            trusting.do("dial", name="phone", to=f"sip:{NUMBER}@{LOCALHOST}:{phone.port}")
            assert "G722" == trusting.event("answered", name="phone")["codec"]
            trusting.do("keys", name="phone", keys="19#")
            assert ["1", "9", "#"] == [phone.event("CALL_DTMF_START")["param"] for _ in range(3)]
            until(lambda: trusting.loud("phone"), "the phone's tone")
            trusting.do("hangup", name="phone")
            assert PHONE_HZ == pytest.approx(trusting.event("ended")["heard_hz"], abs=TOLERANCE_HZ)
            phone.event("CALL_CLOSED")

    def test_it_answers_our_challenge_and_its_number_is_believed(self, folder: Path, plain: Gateway) -> None:
        account = f"+821099999999@{LOCALHOST}", f";auth_user={NUMBER};auth_pass=secret"
        with Baresip(folder, tone_file(folder, 16_000), *account) as phone:
            phone.do("dial", f"sip:15880000@{LOCALHOST}:{plain.port}")
            phone.event("CALL_ESTABLISHED")
            assert NUMBER == plain.event("invited")["number"]
            phone.do("hangup")
            plain.event("ended")

    def test_a_wrong_password_rings_nowhere(self, folder: Path, plain: Gateway) -> None:
        before = sum("invited" == event["event"] for event in plain.everything())
        account = f"{NUMBER}@{LOCALHOST}", f";auth_user={NUMBER};auth_pass=guessed"
        with Baresip(folder, tone_file(folder, 16_000), *account) as phone:
            phone.do("dial", f"sip:15880000@{LOCALHOST}:{plain.port}")
            phone.event("CALL_CLOSED")
            assert "401 Unauthorized" in phone.said()
            assert "Authorization: Digest" in phone.said()
        assert before == sum("invited" == event["event"] for event in plain.everything())

    def test_it_registers_and_is_called(self, folder: Path, plain: Gateway) -> None:
        account = f"{NUMBER}@{LOCALHOST}:{plain.port}"
        options = f";auth_user={NUMBER};auth_pass=secret;regint=60;answermode=auto"
        with Baresip(folder, tone_file(folder, 16_000), account, options) as phone:
            until(lambda: "200 OK (consent-gateway) [1 binding]" in phone.said(), "the registration")
            plain.do("ring", name="phone", number=NUMBER)
            plain.event("answered", name="phone")
            plain.do("hangup", name="phone")
            phone.event("CALL_CLOSED")


class TestSoftphone:
    def test_a_call_in_is_heard_on_both_sides_with_its_keys(self, folder: Path, trusting: Gateway) -> None:
        heard = folder / "softphone-heard.wav"
        with self._phone(folder, trusting, "+wait:1;+dtmf:1379#;+wait:2;+hangup", "--record", heard) as phone:
            keys = [trusting.event("key")["key"] for _ in range(5)]
            ended = trusting.event("ended")
            assert 0 == phone.child.wait(30), phone.said()
        assert list("1379#") == keys
        assert ("caller", "hung up") == (ended["by"], ended["reason"])
        assert GATEWAY_HZ == pytest.approx(pitch(heard), abs=TOLERANCE_HZ)

    def test_what_it_says_is_heard(self, folder: Path, trusting: Gateway) -> None:
        with self._phone(folder, trusting, f"+say:{tone_file(folder, 8000)}") as phone:
            trusting.event("answered")
            name = trusting.past[-1]["name"]
            until(lambda: trusting.loud(name), "the phone's tone")
            trusting.do("hangup", name=name)
            assert PHONE_HZ == pytest.approx(trusting.event("ended")["heard_hz"], abs=TOLERANCE_HZ)
            phone.child.wait(30)

    def test_it_answers_our_challenge(self, folder: Path, strict: Gateway) -> None:
        with self._phone(folder, strict, "+wait:1;+hangup", "--password", "secret") as phone:
            assert NUMBER == strict.event("invited")["number"]
            strict.event("ended")
            assert 0 == phone.child.wait(30), phone.said()

    def test_a_wrong_password_fails_the_call(self, folder: Path, strict: Gateway) -> None:
        with self._phone(folder, strict, "+hangup", "--password", "guessed") as phone:
            assert 1 == phone.child.wait(30)
            failed = [json.loads(line) for line in phone.said().splitlines() if '"failed"' in line]
        assert failed, phone.said()

    @staticmethod
    def _phone(folder: Path, gateway: Gateway, script: str, *options: str | Path) -> Process:
        command = [sys.executable, "-m", "gateway.softphone", "call", f"sip:15880000@{LOCALHOST}:{gateway.port}"]
        command += ["--user", NUMBER, "--json", "--max-seconds", "60", "--script", script, *map(str, options)]
        return Process(command, folder / f"softphone-{len(list(folder.glob('softphone-*.out')))}.out", cwd=ROOT)
