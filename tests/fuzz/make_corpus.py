"""Writes the seeds of the fuzzers into ``corpus/``: run it again when their format changes."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "unit"))

from sip_bench import OFFER, request, response  # noqa: E402

from gateway.telephony.rtcp import Report, ReportBlock, make_goodbye, make_report  # noqa: E402
from gateway.telephony.rtp import event_payload  # noqa: E402

NEXT = b"\n--next--\n"
SDP = {"Content-Type": "application/sdp"}
TAGGED = {"to_tag": "OURTAG"}


def invite(**headers: str) -> bytes:
    return bytes(request(headers={**SDP, **{k.replace("_", "-"): v for k, v in headers.items()}}, body=OFFER))


def within(method: str, seq: int = 2, **headers: str) -> bytes:
    named = {k.replace("_", "-"): v for k, v in headers.items()}
    return bytes(request(method, branch=f"z9hG4bK-{method}", seq=seq, to_tag="OURTAG", headers=named))


ACK = bytes(request("ACK", to_tag="OURTAG"))
SIP = {
    "answered": invite() + NEXT + bytes(request("ACK", branch="z9hG4bK-a", to_tag="OURTAG")) + NEXT
    + bytes(request("INVITE", branch="z9hG4bK-re", seq=2, to_tag="OURTAG", headers=SDP,
                    body=OFFER.replace(b"m=audio 4000", b"a=sendonly\r\nm=audio 4002"))) + NEXT
    + bytes(request("ACK", branch="z9hG4bK-b", seq=2, to_tag="OURTAG")) + NEXT + within("BYE", 3),
    "answered-info": invite() + NEXT + bytes(request("ACK", branch="z9hG4bK-a", to_tag="OURTAG")) + NEXT
    + bytes(request("INFO", branch="z9hG4bK-i", seq=2, to_tag="OURTAG",
                    headers={"Content-Type": "application/dtmf-relay"}, body=b"Signal=5\r\nDuration=160\r\n")) + NEXT
    + bytes(request("UPDATE", branch="z9hG4bK-u", seq=3, to_tag="OURTAG", headers=SDP, body=OFFER)) + NEXT
    + bytes(request("NOTIFY", branch="z9hG4bK-n", seq=4, to_tag="OURTAG",
                    headers={"Event": "refer", "Content-Type": "message/sipfrag"}, body=b"SIP/2.0 200 OK")),
    "declined": invite() + NEXT + invite() + NEXT + ACK,
    "ringing-then-cancelled": invite() + NEXT + ACK + NEXT
    + bytes(request(branch="z9hG4bK-2", call_id="2", headers=SDP, body=OFFER)) + NEXT
    + bytes(request("CANCEL", branch="z9hG4bK-2", call_id="2")),
    "reliable": invite(Require="100rel") + NEXT + within("PRACK", RAck="1 1 INVITE") + NEXT + within("UPDATE"),
    "timed": invite(Supported="timer", Session_Expires="90;refresher=uac", Min_SE="90"),
    "brief": invite(Supported="timer", Session_Expires="30"),
    "late-offer": bytes(request()) + NEXT
    + bytes(request("ACK", branch="z9hG4bK-a", to_tag="OURTAG", headers=SDP, body=OFFER)),
    "merged": invite() + NEXT + bytes(request(branch="z9hG4bK-3", headers=SDP, body=OFFER)),
    "options": bytes(request("OPTIONS", headers={"Accept": "application/sdp"})),
    "message": bytes(request("MESSAGE", headers={"Content-Type": "text/plain"}, body=b"1234")),
    "register": bytes(request("REGISTER", headers={
        "Expires": "60",
        "Authorization": 'Digest username="200", realm="fuzz", nonce="0-0", uri="sip:h", response="0", algorithm=MD5',
    })),
    "asserted": invite(P_Asserted_Identity='"A" <sip:+4930@h>, <tel:+4930>'),
    "routed": invite(Record_Route="<sip:192.0.2.9;lr>, <sip:192.0.2.8>"),
    "unknown-dialog": within("BYE") + NEXT + within("INFO") + NEXT + within("NOTIFY") + NEXT + within("REFER"),
    "response": bytes(response(request("OPTIONS", branch="OURBRANCH"), 200)),
    "challenge": bytes(response(request("OPTIONS", branch="OURBRANCH"), 401, headers={
        "WWW-Authenticate": 'Digest realm="a", nonce="b", qop="auth,auth-int", algorithm=SHA-256, stale=true',
    })),
    "provisional": bytes(response(request("OPTIONS", branch="OURBRANCH"), 183)),
}  # fmt: skip
RTP = b"\x80\x08\x00\x01\x00\x00\x00\xa0\x00\x00\x00\x07" + b"\xd5" * 20
RTCP = make_report(Report(7, (ReportBlock(0x01010101, 1, 2, 3, 4, 5, 6),), 1 << 63, 2, 3, 4), "a") + make_goodbye(
    7, "a"
)
RICH = (
    OFFER
    + b"a=rtcp:4001 IN IP4 192.0.2.3\r\na=rtcp-mux\r\na=sendonly\r\nm=video 6000 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n"
)
SECURE = OFFER.replace(b"RTP/AVP", b"RTP/SAVP") + (
    b"a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:" + b"A" * 40 + b"|2^20|1:4\r\na=crypto:2 F8 inline:x\r\n"
)
MEDIA = {
    "rtp": b"\0" + RTP,
    "rtp-extension": b"\0\x90" + RTP[1:12] + b"\xbe\xde\0\1abcd" + RTP[12:],
    "rtp-csrc-padding": b"\0\xa1" + RTP[1:] + b"\0\0\2",
    "rtcp": b"\1" + RTCP,
    "event": b"\2" + event_payload("5", False, 160),
    "sdp": b"\3" + OFFER,
    "sdp-rich": b"\3" + RICH,
    "sdp-secure": b"\3" + SECURE,
    "stream": b"\4\x20" + b"\r\n\r\n" + SIP["options"] + SIP["message"],
    "playout": b"\5" + b"".join((n).to_bytes(2, "big") + (160 * n).to_bytes(4, "big") + b"\x14\1" for n in range(20)),
    "playout-flood": b"\5"
    + b"".join((n).to_bytes(2, "big") + (2040 * n).to_bytes(4, "big") + b"\xff\0" for n in range(9)),
    "reports": b"\6" + RTCP + b"--" + RTCP,
}

if __name__ == "__main__":
    for kind, seeds in (("sip", SIP), ("media", MEDIA)):
        folder = HERE / "corpus" / kind
        folder.mkdir(parents=True, exist_ok=True)
        for name, seed in seeds.items():
            (folder / name).write_bytes(seed)
