"""Digest authentication (RFC 2617, RFC 7616, RFC 8760), both sides, against a digest worked out here."""

from __future__ import annotations

import hashlib

import pytest
from aiosipua.header_codec import parse_auth
from aiosipua.message import SipRequest, SipResponse
from hypothesis import given, settings
from hypothesis import strategies as st
from sip_bench import authorize, request, response

from gateway.telephony.auth import NONCE_TTL_S, ClientAuth, Credentials, DigestServer

ALICE = Credentials("alice", "wonder:land")
REALM = "gateway"


def digest(algorithm: str, user: str, realm: str, password: str, method: str, uri: str, nonce: str, *extra: str) -> str:
    """RFC 7616 §3.4.1: *extra* is nc, cnonce and qop, or nothing as in RFC 2069."""

    def h(*parts: str) -> str:
        return hashlib.new(algorithm, ":".join(parts).encode()).hexdigest()

    return h(h(user, realm, password), nonce, *extra, h(method, uri))


class TestThePublishedVectors:
    """They prove the digest of this file, which then proves the gateway's."""

    def test_rfc_2617_section_3_5(self) -> None:
        assert "6629fae49393a05397450978507c4ef1" == digest(
            "md5", "Mufasa", "testrealm@host.com", "Circle Of Life", "GET", "/dir/index.html",
            "dcd98b7102dd2f0e8b11d0f600bfb0c093", "00000001", "0a4f113b", "auth",
        )  # fmt: skip

    @pytest.mark.parametrize(
        ("algorithm", "expected"),
        [
            ("md5", "8ca523f5e9506fed4657c9700eebdbec"),
            ("sha256", "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"),
        ],
    )
    def test_rfc_7616_section_3_9_1(self, algorithm: str, expected: str) -> None:
        assert expected == digest(
            algorithm, "Mufasa", "http-auth@example.org", "Circle of Life", "GET", "/dir/index.html",
            "7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v", "00000001",
            "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ", "auth",
        )  # fmt: skip

    def test_the_server_accepts_rfc_2617_section_3_5(self, monkeypatch: pytest.MonkeyPatch) -> None:
        nonce = "dcd98b7102dd2f0e8b11d0f600bfb0c093"
        server = DigestServer("testrealm@host.com", {"Mufasa": "Circle Of Life"}, lambda: int(nonce, 16))
        monkeypatch.setattr(server, "_nonce", lambda *_: nonce)
        get = request("GET", headers={
            "Authorization": f'Digest username="Mufasa", realm="testrealm@host.com", nonce="{nonce}", '
            'uri="/dir/index.html", qop=auth, nc=00000001, cnonce="0a4f113b", '
            'response="6629fae49393a05397450978507c4ef1", opaque="5ccc069c403ebaf9f0171e9517f40e41"',
        })  # fmt: skip
        assert "Mufasa" == server.check(get)


class TestAnsweringAChallenge:
    """RFC 3261 §22.2, RFC 7616 §3.4."""

    def answered(self, *challenges: str, status: int = 401, method: str = "REGISTER") -> dict[str, str]:
        """The parameters of our answer."""
        asked = request(method)
        refusal = response(asked, status)
        for challenge in challenges:
            refusal.add_header("WWW-Authenticate" if status == 401 else "Proxy-Authenticate", challenge)
        assert authorize(asked, refusal, ALICE)
        value = asked.get_header("Authorization" if status == 401 else "Proxy-Authorization")
        assert value is not None
        return parse_auth(value, credentials=True).params

    @pytest.mark.parametrize(("algorithm", "name"), [("md5", "MD5"), ("sha256", "SHA-256")])
    def test_with_quality_of_protection(self, algorithm: str, name: str) -> None:
        given = self.answered(f'Digest realm="pbx", nonce="n1", qop="auth,auth-int", algorithm={name}')
        assert "00000001" == given["nc"]
        assert given["response"] == digest(
            algorithm, "alice", "pbx", "wonder:land", "REGISTER", "sip:100@192.0.2.1", "n1",
            "00000001", given["cnonce"], "auth",
        )  # fmt: skip

    def test_without_quality_of_protection(self) -> None:
        given = self.answered('Digest realm="pbx", nonce="n1"')
        assert given["response"] == digest("md5", "alice", "pbx", "wonder:land", "REGISTER", "sip:100@192.0.2.1", "n1")
        assert "qop" not in given

    def test_the_digest_is_of_the_method_and_target_of_the_request(self) -> None:
        given = self.answered('Digest realm="pbx", nonce="n1"', method="INVITE")
        assert given["response"] == digest("md5", "alice", "pbx", "wonder:land", "INVITE", "sip:100@192.0.2.1", "n1")
        assert "sip:100@192.0.2.1" == given["uri"]

    def test_the_opaque_comes_back(self) -> None:
        assert "0xdeadbeef" == self.answered('Digest realm="pbx", nonce="n1", opaque="0xdeadbeef"')["opaque"]

    def test_the_stronger_of_two_algorithms_is_taken_in_whatever_order(self) -> None:
        md5, sha256 = (f'Digest realm="pbx", nonce="n1", algorithm={name}' for name in ("MD5", "SHA-256"))
        for challenges in ((md5, sha256), (sha256, md5)):
            assert "SHA-256" == self.answered(*challenges)["algorithm"]

    def test_an_unknown_algorithm_is_passed_over(self) -> None:
        unknown = 'Digest realm="pbx", nonce="n1", algorithm=SHA-512-256'
        assert "MD5" == self.answered(unknown, 'Digest realm="pbx", nonce="n1", algorithm=MD5')["algorithm"]

    def test_a_proxy_is_answered_in_its_own_header(self) -> None:
        assert "n1" == self.answered('Digest realm="pbx", nonce="n1"', status=407)["nonce"]

    @pytest.mark.parametrize(
        "challenge",
        ['Basic realm="pbx"', 'Digest realm="pbx"', 'Digest realm="pbx", nonce="n", qop="auth-int"',
         'Digest realm="pbx", nonce="n", algorithm=SHA-512-256', "", "Digest"],
    )  # fmt: skip
    def test_what_cannot_be_answered_is_left(self, challenge: str) -> None:
        asked = request("REGISTER")
        assert not authorize(asked, response(asked, 401, headers={"WWW-Authenticate": challenge}), ALICE)
        assert asked.get_header("Authorization") is None

    @pytest.mark.parametrize("name", ["realm", "nonce", "opaque"])
    def test_a_parameter_that_would_break_out_of_its_quotes_is_not_answered(self, name: str) -> None:
        params = {"realm": "pbx", "nonce": "n", "opaque": "o"} | {name: ""}
        challenge = "Digest " + ", ".join(f'{key}="{value}"' for key, value in params.items() if value)
        challenge += f', {name}="x"y"'
        asked = request("REGISTER")
        assert not authorize(asked, response(asked, 401, headers={"WWW-Authenticate": challenge}), ALICE)


class TestAnsweringSeveral:
    """RFC 3261 §22.3: proxies and the far end, each for a realm of its own."""

    @pytest.fixture
    def auth(self) -> ClientAuth:
        return ClientAuth(ALICE)

    def refusal(self, status: int = 401, *, realm: str = "pbx", nonce: str = "n1", more: str = "") -> SipResponse:
        name = "WWW-Authenticate" if status == 401 else "Proxy-Authenticate"
        challenge = f'Digest realm="{realm}", nonce="{nonce}", qop="auth"{more}'
        return response(request("INVITE"), status, headers={name: challenge})

    def attempt(self, auth: ClientAuth) -> SipRequest:
        """The next request, with the answers to the challenges so far."""
        asked = request("INVITE")
        auth.apply(asked)
        return asked

    def answers(self, asked: SipRequest, header: str = "Authorization") -> list[dict[str, str]]:
        return [parse_auth(value, credentials=True).params for value in asked.get_header_values(header)]

    def test_each_realm_of_one_refusal_is_answered(self, auth: ClientAuth) -> None:
        refusal = self.refusal(407, realm="first")
        refusal.add_header("Proxy-Authenticate", 'Digest realm="second", nonce="n2"')
        assert auth.take(refusal, self.attempt(auth))
        given = self.answers(self.attempt(auth), "Proxy-Authorization")
        assert ["first", "second"] == [params["realm"] for params in given]

    def test_after_a_401_a_407_is_answered_too_and_both_answers_go_along(self, auth: ClientAuth) -> None:
        assert auth.take(self.refusal(401), self.attempt(auth))
        assert auth.take(self.refusal(407, realm="proxy", nonce="p1"), self.attempt(auth))
        last = self.attempt(auth)
        assert ["n1"] == [params["nonce"] for params in self.answers(last)]
        assert ["p1"] == [params["nonce"] for params in self.answers(last, "Proxy-Authorization")]

    def test_the_nonce_count_rises_with_each_use(self, auth: ClientAuth) -> None:
        assert auth.take(self.refusal(), self.attempt(auth))
        counts = [self.answers(self.attempt(auth))[0]["nc"] for _ in range(3)]
        assert ["00000001", "00000002", "00000003"] == counts

    def test_each_use_has_a_client_nonce_of_its_own(self, auth: ClientAuth) -> None:
        assert auth.take(self.refusal(), self.attempt(auth))
        assert 3 == len({self.answers(self.attempt(auth))[0]["cnonce"] for _ in range(3)})

    def test_an_answer_that_is_refused_means_that_the_password_is_wrong(self, auth: ClientAuth) -> None:
        assert auth.take(self.refusal(), self.attempt(auth))
        assert not auth.take(self.refusal(nonce="n2"), self.attempt(auth))

    def test_a_stale_nonce_is_replaced_and_counted_anew(self, auth: ClientAuth) -> None:
        assert auth.take(self.refusal(), self.attempt(auth))
        assert auth.take(self.refusal(nonce="n2", more=", stale=TRUE"), self.attempt(auth))
        assert [("n2", "00000001")] == [(p["nonce"], p["nc"]) for p in self.answers(self.attempt(auth))]

    def test_a_request_without_an_answer_is_challenged_anew_without_blame(self, auth: ClientAuth) -> None:
        """A proxy asks again within the dialog, with a nonce of the day."""
        assert auth.take(self.refusal(), self.attempt(auth))
        assert auth.take(self.refusal(nonce="n2"), request("BYE"))
        assert ["n2"] == [params["nonce"] for params in self.answers(self.attempt(auth))]

    @pytest.mark.parametrize("status", [200, 403, 486, 503])
    def test_what_is_no_challenge_is_none(self, auth: ClientAuth, status: int) -> None:
        assert not auth.take(response(request("INVITE"), status), request("INVITE"))


class Clock:
    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def server(clock: Clock) -> DigestServer:
    return DigestServer(REALM, {"alice": ALICE.password, "bob": "builder"}, clock)


def signed(server: DigestServer, credentials: Credentials = ALICE, *, method: str = "REGISTER") -> SipRequest:
    """A request that answers the first of the server's challenges, the SHA-256 one."""
    asked = request(method)
    assert authorize(asked, response(asked, 401, headers={"WWW-Authenticate": server.challenges()[0]}), credentials)
    return asked


def with_parameter(asked: SipRequest, name: str, value: str) -> SipRequest:
    header = parse_auth(asked.get_header("Authorization") or "", credentials=True)
    header.params[name] = value
    asked.set_header("Authorization", "Digest " + ", ".join(f'{k}="{v}"' for k, v in header.params.items()))
    return asked


class TestChallenging:
    """RFC 8760 §2.4, RFC 7616 §3.3."""

    def test_both_algorithms_are_offered_the_stronger_first(self, server: DigestServer) -> None:
        assert ["SHA-256", "MD5"] == [parse_auth(c).params["algorithm"] for c in server.challenges()]

    def test_the_realm_and_quality_of_protection_are_named(self, server: DigestServer) -> None:
        assert {(REALM, "auth")} == {(c.params["realm"], c.params["qop"]) for c in map(parse_auth, server.challenges())}

    def test_stale_is_said_only_when_it_is(self, server: DigestServer) -> None:
        assert [None, None] == [parse_auth(c).params.get("stale") for c in server.challenges()]
        assert ["true", "true"] == [parse_auth(c).params.get("stale") for c in server.challenges(stale=True)]


class TestChecking:
    """RFC 7616 §3.4.6."""

    @pytest.mark.parametrize("index", [0, 1])
    def test_the_right_answer_to_either_challenge_proves_the_user(self, server: DigestServer, index: int) -> None:
        asked = request("REGISTER")
        refusal = response(asked, 401, headers={"WWW-Authenticate": server.challenges()[index]})
        assert authorize(asked, refusal, ALICE)
        assert "alice" == server.check(asked)

    def test_an_answer_without_quality_of_protection_is_understood(self, server: DigestServer) -> None:
        nonce = parse_auth(server.challenges()[1]).params["nonce"]
        answer = digest("md5", "alice", REALM, ALICE.password, "REGISTER", "sip:x", nonce)
        header = f'Digest username="alice", realm="{REALM}", nonce="{nonce}", uri="sip:x", response="{answer}"'
        assert "alice" == server.check(request("REGISTER", headers={"Authorization": header}))

    def test_no_answer_proves_nobody(self, server: DigestServer) -> None:
        assert server.check(request("REGISTER")) is None

    def test_a_wrong_password_proves_nobody(self, server: DigestServer) -> None:
        assert server.check(signed(server, Credentials("alice", "wrong"))) is None

    def test_an_unknown_user_proves_nobody(self, server: DigestServer) -> None:
        assert server.check(signed(server, Credentials("mallory", ALICE.password))) is None

    def test_a_user_cannot_take_the_name_of_another(self, server: DigestServer) -> None:
        assert server.check(with_parameter(signed(server), "username", "bob")) is None

    def test_the_answer_to_another_method_proves_nobody(self, server: DigestServer) -> None:
        register = request(
            "REGISTER", headers={"Authorization": signed(server, method="INVITE").get_header("Authorization") or ""}
        )
        assert server.check(register) is None

    @pytest.mark.parametrize(
        ("name", "value"),
        [("realm", "other"), ("nonce", "65a0b0c0-0123"), ("nonce", ""), ("algorithm", "SHA-512"), ("response", ""),
         ("cnonce", "other"), ("nc", "00000002"), ("uri", "sip:other")],
    )  # fmt: skip
    def test_each_parameter_counts(self, server: DigestServer, name: str, value: str) -> None:
        assert server.check(with_parameter(signed(server), name, value)) is None

    def test_a_nonce_of_another_server_proves_nobody(self, server: DigestServer, clock: Clock) -> None:
        other = DigestServer(REALM, {"alice": ALICE.password}, clock)
        assert server.check(signed(other)) is None

    def test_a_nonce_lives_two_minutes(self, server: DigestServer, clock: Clock) -> None:
        asked = signed(server)
        clock.now += NONCE_TTL_S
        assert "alice" == server.check(asked)
        clock.now += 1
        assert server.check(asked) is None

    def test_a_nonce_from_the_future_proves_nobody(self, server: DigestServer, clock: Clock) -> None:
        asked = signed(server)
        clock.now -= 10
        assert server.check(asked) is None


class TestStale:
    """RFC 7616 §3.3: stale is for a right answer to an old nonce, so that the phone need not ask its user again."""

    def test_a_right_answer_to_an_old_nonce_is_stale(self, server: DigestServer, clock: Clock) -> None:
        asked = signed(server)
        clock.now += NONCE_TTL_S + 1
        assert server.stale(asked)

    def test_a_wrong_password_is_not_stale(self, server: DigestServer, clock: Clock) -> None:
        asked = signed(server, Credentials("alice", "wrong"))
        assert not server.stale(asked)
        clock.now += NONCE_TTL_S + 1
        assert not server.stale(asked)

    def test_a_fresh_answer_is_not_stale(self, server: DigestServer) -> None:
        assert not server.stale(signed(server))

    def test_a_request_without_an_answer_is_not_stale(self, server: DigestServer) -> None:
        assert not server.stale(request("REGISTER"))


class TestHostileAnswers:
    """Nothing in an Authorization header can raise."""

    @pytest.mark.parametrize(
        ("name", "value"),
        [("response", "é"), ("nonce", "f" * 300 + "-x"), ("nonce", "f" * 10_000), ("nonce", "é"), ("nonce", "-1-x")],
    )
    def test_odd_values_prove_nobody(self, server: DigestServer, name: str, value: str) -> None:
        assert server.check(with_parameter(signed(server), name, value)) is None

    def test_a_fresh_time_with_an_odd_signature_proves_nobody(self, server: DigestServer) -> None:
        asked = signed(server)
        nonce = parse_auth(asked.get_header("Authorization") or "", credentials=True).params["nonce"]
        assert server.check(with_parameter(asked, "nonce", nonce.split("-")[0] + "-é")) is None

    @settings(deadline=None)
    @given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n"), max_size=120))
    def test_any_text_proves_nobody(self, text: str) -> None:
        server = DigestServer(REALM, {"alice": ALICE.password}, lambda: 0.0)
        assert server.check(request("REGISTER", headers={"Authorization": text})) is None
