"""The stand-alone verifier: what it says of a good bundle, and what it names as the first thing that is not right."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import json
import random
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import rfc8785
from bundles import (
    CALL_ID,
    KEYRING,
    NUMBER,
    ORDER_ID,
    ORIGIN,
    OTHER_KEYRING,
    RECORD_KEY,
    START,
    Scene,
    Tree,
    entries_of,
    fault,
    forged,
    in_base64,
    job_of,
    members_of,
    packed,
    packed_in_order,
    pressed,
    rewritten,
    rows_of,
    scene,
    vkey,
)
from hypothesis import given
from hypothesis import strategies as st

from gateway.consent import events as ev
from gateway.consent.disclosure import MANDATORY
from gateway.consent.record import replay
from gateway.evidence import verify_evidence as evidence
from gateway.evidence.press import press
from gateway.ledger import merkle
from gateway.ledger.sealing import events_key, seal

History = Callable[[Scene], list[ev.Event]]


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return scene(tmp_path_factory.mktemp("evidence"))


@pytest.fixture(scope="module")
def bundle(stage: Scene) -> bytes:
    return pressed(stage, stage.confirmed())


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bundle of another order in the same ledger."""
    another = replace(scene(tmp_path_factory.mktemp("other"), order_id="0" * 8 + ORDER_ID[8:]), record_key=b"o" * 32)
    return pressed(another, another.confirmed())


class TestValid:
    def test_it_says_what_is_proven(self, bundle: bytes) -> None:
        report = evidence.verify(bundle, vkey())
        assert ("provisioned", ORDER_ID, True) == (report.outcome, report.order_id, report.pinned)
        told = report.as_json()
        assert "2026-03-01T09:00:44Z" == told["spoken_at"]
        assert "2026-03-01T09:00:56Z" == told["replied_at"]
        assert [(CALL_ID, 41.0, 41.0, True, 4, 4)] == [
            (one["call_id"], one["kept_s"], one["proven_s"], one["whole"], one["same"], one["judged"])
            for one in told["recordings"]
        ]
        assert (2, {}) == (told["deliveries"], told["missing"])
        assert told["first_checkpoint"]["size"] < told["checkpoint"]["size"]

    def test_a_key_that_nobody_gave_is_said_not_to_be_pinned(self, bundle: bytes) -> None:
        code, told, lines = evidence.examine(bundle)
        assert (0, False) == (code, told["key_pinned"])
        assert any("NOT PINNED" in line for line in lines)
        assert not any("NOT PINNED" in line for line in evidence.examine(bundle, vkey())[2])

    def test_any_unzip_reads_it(self, bundle: bytes) -> None:
        with zipfile.ZipFile(io.BytesIO(bundle)) as archive:
            assert archive.testzip() is None
            assert members_of(bundle) == {name: archive.read(name) for name in archive.namelist()}

    def test_the_single_file_needs_nothing_of_the_project(self, bundle: bytes, tmp_path: Path) -> None:
        """From a fresh folder, in a fresh process that cannot import the project."""
        (tmp_path / "bundle.zip").write_bytes(bundle)
        (tmp_path / "verify_evidence.py").write_bytes(members_of(bundle)["verify_evidence.py"])
        bar = "import sys; sys.modules.update(dict.fromkeys(('gateway', 'rfc8785', 'pydantic', 'numpy', 'reportlab')))"
        run = f"{bar}; sys.argv = sys.argv[1:]; import runpy; runpy.run_path(sys.argv[0], run_name='__main__')"
        command = [sys.executable, "-I", "-c", run, "verify_evidence.py", "bundle.zip", "--key", vkey()]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
        assert (0, "") == (done.returncode, done.stderr)
        assert done.stdout.startswith(f"valid: order {ORDER_ID}: provisioned\n")
        again = subprocess.run(
            [*command, "--json"], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
        )
        assert json.loads(again.stdout)["valid"] is True

    def test_the_same_state_gives_the_same_octets(self, stage: Scene, bundle: bytes) -> None:
        """But for the nonces that events are sealed with, and so all hashes: what is not of them is the same."""
        again = members_of(pressed(stage, stage.confirmed()))
        of_hashes = {"events.jsonl", "agreement.pdf", "ledger/checkpoint", "ledger/first-checkpoint", "ledger/proofs.json",
                     "manifest.json", "manifest.sig", "record.json"}  # fmt: skip
        before = members_of(bundle)
        assert of_hashes == {name for name in before if before[name] != again[name]}
        assert packed(before) == bundle


class TestContainer:
    def test_a_member_that_was_added_is_named(self, bundle: bytes) -> None:
        file = packed({**members_of(bundle), "zzz.txt": b"hello"})
        assert ("zzz.txt", "was added: manifest.json does not have it") == fault(file)

    def test_a_member_that_was_removed_is_named(self, bundle: bytes) -> None:
        members = members_of(bundle)
        del members["transcript.json"]
        assert ("transcript.json", "is missing: manifest.json has it") == fault(packed(members))

    @pytest.mark.parametrize("name", ["manifest.json", "events.jsonl", "ledger/key.txt"])
    def test_so_is_one_that_no_bundle_is_without(self, bundle: bytes, name: str) -> None:
        members = members_of(bundle)
        del members[name]
        assert (name, "is missing") == fault(packed(members))

    @pytest.mark.parametrize("name", ["../evil", "/etc/passwd", "a/b/c", ".hidden", "a\\b", "a" * 200, ""])
    def test_no_name_leads_anywhere(self, bundle: bytes, name: str) -> None:
        member, reason = fault(packed({**members_of(bundle), name: b"x"}))
        assert ("the ZIP container", True) == (member, "name" in reason)

    def test_a_member_twice_is_refused(self, bundle: bytes) -> None:
        whole = {name: bytes(octets) for name, octets in evidence.unpack(bundle).items()}
        [first, *rest] = sorted(whole.items())
        member, reason = fault(packed_in_order([first, first, *rest]))
        assert ("the ZIP container", True) == (member, "twice" in reason)

    def test_a_bomb_is_not_unpacked(self, bundle: bytes) -> None:
        """Nothing in a bundle is compressed, so nothing in it can grow."""
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
            archive.writestr("README.txt", b"\0" * (20 << 20))
        assert fault(file.getvalue())[1] != "valid"

    def test_any_other_zip_of_the_same_members_is_refused(self, bundle: bytes) -> None:
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            for name, octets in members_of(bundle).items():
                archive.writestr(name, octets)
        assert fault(file.getvalue())[1] != "valid"

    @pytest.mark.parametrize(
        "octets", [b"", b"PK", b"\0" * 22, b"PK\5\6" + b"\0" * 18, b"PK\5\6" + b"\xff" * 18, b"%PDF-1.4"]
    )
    def test_what_is_no_bundle_is_said_so(self, octets: bytes) -> None:
        assert fault(octets)[1] != "valid"


class TestKey:
    def test_an_unknown_key_is_named(self, bundle: bytes) -> None:
        """Forged from end to end by somebody else: without the right key it cannot be told, with it it is."""
        member, reason = fault(bundle, vkey(OTHER_KEYRING))
        assert "ledger/key.txt" == member
        assert reason.startswith("unknown key: ")
        assert vkey(OTHER_KEYRING) in reason

    def test_a_bundle_signed_anew_by_another_is_caught_by_the_key(self, stage: Scene) -> None:
        made = pressed(stage, stage.confirmed(), keyring=OTHER_KEYRING)
        assert ("", "valid") == fault(made)
        assert "unknown key" in fault(made, vkey())[1]

    @pytest.mark.parametrize("key", ["", "x", "a+b+c", vkey()[:-4], vkey().replace("test", "best")])
    def test_a_key_that_is_none_is_no_key(self, bundle: bytes, key: str) -> None:
        assert "--key" == fault(bundle, key)[0]

    def test_the_pem_is_the_same_key(self, bundle: bytes) -> None:
        def change(members: dict[str, bytes]) -> None:
            members["ledger/key.pem"] = evidence.parse_key("", vkey(OTHER_KEYRING)).pem()

        assert ("ledger/key.pem", "is not the key in ledger/key.txt") == fault(forged(bundle, change))

    def test_a_manifest_signed_by_another_is_caught(self, bundle: bytes) -> None:
        assert "manifest.sig" == fault(forged(bundle, lambda _: None, OTHER_KEYRING))[0]


def lines_of(members: dict[str, bytes]) -> list[bytes]:
    return members["events.jsonl"].splitlines()


def put_lines(members: dict[str, bytes], lines: list[bytes]) -> None:
    members["events.jsonl"] = b"".join(line + b"\n" for line in lines)


class TestLedger:
    """Forgeries by the holder of the key, who signs what he has changed."""

    def test_events_in_another_order(self, bundle: bytes) -> None:
        def change(members: dict[str, bytes]) -> None:
            lines = lines_of(members)
            lines[4], lines[5] = lines[5], lines[4]
            put_lines(members, lines)

        expected = ("events.jsonl, event 5", "does not follow the event before it: the chain is broken")
        assert expected == fault(forged(bundle, change))

    def test_an_event_left_out(self, bundle: bytes) -> None:
        def change(members: dict[str, bytes]) -> None:
            put_lines(members, [*lines_of(members)[:7], *lines_of(members)[8:]])

        assert "events.jsonl, event 8" == fault(forged(bundle, change))[0]

    def test_the_last_events_left_out(self, bundle: bytes) -> None:
        """What came after would be hidden; but the last event of a bundle is its own export."""

        def change(members: dict[str, bytes]) -> None:
            kept = lines_of(members)[:-2]
            put_lines(members, kept)
            proofs = json.loads(members["ledger/proofs.json"])
            members["ledger/proofs.json"] = evidence.canonical(proofs | {"inclusion": proofs["inclusion"][:-2]})
            said = json.loads(members["__manifest__"]) | {"exported_at": json.loads(kept[-1])["at"]}
            members["__manifest__"] = json.dumps(said).encode()

        expected = ("events.jsonl", "the last event is not the export of this bundle: events were left out")
        assert expected == fault(forged(bundle, change))

    def test_an_event_rewritten_and_chained_anew(self, bundle: bytes) -> None:
        """The chain fits; the ledger's root, which was published, does not."""

        def change(members: dict[str, bytes]) -> None:
            lines = [json.loads(line) for line in lines_of(members)]
            key = events_key(RECORD_KEY)
            place = f"{ORDER_ID}/5/{lines[4]['type']}".encode()
            event = json.loads(members["record.json"])["events"][4]["event"] | {"reason": "made up"}
            lines[4]["payload"] = base64.b64encode(seal(key, evidence.canonical(event), place)).decode()
            previous = ""
            for line in lines:
                line["previous"] = previous
                previous = evidence.sha256(evidence.canonical(line))
            put_lines(members, [evidence.canonical(line) for line in lines])

        expected = ("ledger/proofs.json", "event 5 is not proven to be in the checkpoint")
        assert expected == fault(forged(bundle, change))

    def test_json_spelled_otherwise(self, bundle: bytes) -> None:
        def change(members: dict[str, bytes]) -> None:
            put_lines(members, [json.dumps(json.loads(line)).encode() for line in lines_of(members)])

        expected = ("events.jsonl, event 1", "its JSON is not in the canonical form (RFC 8785)")
        assert expected == fault(forged(bundle, change))

    @pytest.mark.parametrize(
        "name", ["ledger/proofs.json", "ledger/checkpoint", "events.jsonl", "keys.json", "record.json"]
    )
    def test_another_orders_proof(self, bundle: bytes, other: bytes, name: str) -> None:
        def change(members: dict[str, bytes]) -> None:
            members[name] = members_of(other)[name]

        assert fault(forged(bundle, change))[1] != "valid"

    def test_a_checkpoint_that_did_not_grow_from_the_first(self, bundle: bytes, other: bytes) -> None:
        def change(members: dict[str, bytes]) -> None:
            members["ledger/first-checkpoint"] = members_of(other)["ledger/first-checkpoint"]

        member, reason = fault(forged(bundle, change))
        assert ("ledger/proofs.json", True) == (member, "grown" in reason)

    def test_a_first_checkpoint_before_the_reply(self, stage: Scene) -> None:
        job = job_of(stage, entries_of(stage.order, stage.confirmed()), stage.folder / "early.zip", state="provisioned")
        tree = Tree(job.envelopes)
        early = job.model_copy(update={"first_checkpoint": tree.checkpoint(5), "consistency": tree.consistency(5)})
        with pytest.raises(evidence.Invalid, match="ledger/first-checkpoint: does not cover event"):
            asyncio.run(press(early))
        assert not early.target.exists()

    def dated(self, stage: Scene, size: int, token: bytes = b"") -> bytes:
        """A bundle with the checkpoint of *size* leaves dated by *token*; by one that is about it when none is given."""
        job = job_of(stage, entries_of(stage.order, stage.confirmed()), stage.folder / "dated.zip", state="provisioned")
        tree = Tree(job.envelopes)
        note = tree.checkpoint(size)
        about = b"DER " + hashlib.sha256(note.encode()).digest()
        stamp = {"dated_checkpoint": note, "dated": tree.consistency(size), "timestamp": in_base64(token or about)}
        asyncio.run(press(job.model_copy(update=stamp)))
        return job.target.read_bytes()

    def test_a_time_stamp_is_told(self, stage: Scene) -> None:
        report = evidence.verify(self.dated(stage, 120), vkey())
        assert report.timestamped
        assert any("openssl ts -verify" in line for line in report.lines())

    def test_a_time_stamp_of_something_else(self, stage: Scene) -> None:
        with pytest.raises(evidence.Invalid, match="is not a time stamp of ledger/dated-checkpoint"):
            self.dated(stage, 120, b"some token")

    def test_a_time_stamp_from_before_the_reply(self, stage: Scene) -> None:
        with pytest.raises(evidence.Invalid, match="ledger/dated-checkpoint: does not cover event"):
            self.dated(stage, 20)

    def test_a_dated_checkpoint_without_its_stamp(self, stage: Scene) -> None:
        made = forged(self.dated(stage, 120), lambda members: members.__delitem__(evidence.TIMESTAMP))
        assert (evidence.TIMESTAMP, "is missing") == fault(made)

    def test_a_dated_checkpoint_that_it_did_not_grow_from(self, stage: Scene, bundle: bytes) -> None:
        def change(members: dict[str, bytes]) -> None:
            proofs = json.loads(members["ledger/proofs.json"])
            members["ledger/proofs.json"] = evidence.canonical(proofs | {"dated": proofs["dated"][1:]})

        member, reason = fault(forged(self.dated(stage, 120), change))
        assert ("ledger/proofs.json", True) == (member, "from the dated one" in reason)


def without(kind: str, **fields: Any) -> History:
    """The good history less the events of *kind* that have *fields*."""

    def history(stage: Scene) -> list[ev.Event]:
        return [
            event for event in stage.confirmed()
            if event.type != kind or any(getattr(event, name) != value for name, value in fields.items())
        ]  # fmt: skip

    return history


def changed(kind: str, where: dict[str, Any], **update: Any) -> History:
    """The good history, in which the events of *kind* that are as *where* says are changed."""

    def history(stage: Scene) -> list[ev.Event]:
        return [
            event.model_copy(update=update)
            if event.type == kind and all(getattr(event, name) == value for name, value in where.items())
            else event
            for event in stage.confirmed()
        ]  # fmt: skip

    return history


def before(kind: str, *inserted: ev.Event) -> History:
    """The good history with *inserted* before the first event of *kind*."""

    def history(stage: Scene) -> list[ev.Event]:
        events = list(stage.confirmed())
        place = next(number for number, event in enumerate(events) if event.type == kind)
        return [*events[:place], *inserted, *events[place:]]

    return history


def moved(kind: str, ahead_of: str) -> History:
    """The good history, in which the first event of *kind* comes before the first of *ahead_of*."""

    def history(stage: Scene) -> list[ev.Event]:
        events = list(stage.confirmed())
        one = next(event for event in events if event.type == kind)
        events.remove(one)
        place = next(number for number, event in enumerate(events) if event.type == ahead_of)
        return [*events[:place], one, *events[place:]]

    return history


STOPPED = ev.UtteranceHeard(
    call_id=CALL_ID, step="terms", grants_consent=False, aside=True, verdict="stop", reason="stop"
)
REFUSED = STOPPED.model_copy(update={"verdict": "deny", "reason": "no"})
LOST = ev.FarReport(reports=3, lost_fraction=0.2, jitter_ms=9.0)
BROKEN: dict[str, tuple[History, str]] = {
    **{f"no {term}": (without("prompt.played", disclosure=term), f"not heard before the consent: {term}") for term in MANDATORY},
    "price cut": (changed("prompt.played", {"disclosure": "price"}, samples_sent=160), "not heard before the consent: price"),
    "price on hold": (changed("prompt.played", {"disclosure": "price"}, held_ms=20), "not heard before the consent: price"),
    "price lost on the line": (changed("prompt.played", {"disclosure": "price"}, far=LOST), "not heard before the consent: price"),
    "price lost, told later": (
        before("consent.spoken", ev.DisclosureUnheard(call_id=CALL_ID, disclosure="price", reason="late report")),
        "not heard before the consent: price",
    ),
    "price lost, told after the consent": (
        before("reply.received", ev.DisclosureUnheard(call_id=CALL_ID, disclosure="price", reason="late report")),
        "the disclosure price was lost on the line",
    ),
    "no yes": (without("utterance.heard", grants_consent=True), "nobody said a clear yes"),
    "an unclear yes": (changed("utterance.heard", {"grants_consent": True}, verdict="unclear"), "nobody said a clear yes"),
    "a yes beside a prompt": (changed("utterance.heard", {"grants_consent": True}, aside=True), "nobody said a clear yes"),
    "a no beside a prompt": (before("consent.spoken", REFUSED), "a no was said on the call"),
    "a stop word": (before("reply.received", STOPPED), "a stop word was said on the call"),
    "denied": (
        before("consent.spoken", ev.ConsentDenied(call_id=CALL_ID, denial="refused", step="consent")),
        "consent was denied on the call: refused",
    ),
    "a consent of other terms": (changed("consent.spoken", {}, order_hash="0" * 64), "the yes was not bound to the order"),
    "a consent of another call": (changed("consent.spoken", {}, call_id="elsewhere"), "the yes was not bound to the order"),
    "no recording": (without("recording.kept"), "the call ended and its recording was not kept"),
    "a recording that fails": (
        before("recording.kept", ev.RecordingFailed(call_id=CALL_ID, reason="disk full")), "the call could not be recorded"
    ),
    "a machine": (
        before("reply.received", ev.AnswerJudged(call_id=CALL_ID, verdict="machine", reason="a beep", at_ms=5000)),
        "a machine had answered the call",
    ),
    "withdrawn": (before("reply.received", ev.OrderWithdrawn(source="api", reason="changed his mind")), "the order was withdrawn"),
    "frozen": (before("reply.received", ev.OrderFrozen(source="quality", reason="doubt")), "the order was frozen"),
    "a stop word by SMS": (
        before("reply.received", ev.ReplyReceived(message_id="m-9", channel="http", reading="stop", matches=False)),
        "a stop word was replied by SMS",
    ),
    "expired": (before("reply.received", ev.ChallengeExpired(challenge_id="ch-1")), "no code was replied in time"),
    "a code too late": (changed("challenge.issued", {}, expires_at=START + timedelta(seconds=50)), "the code was replied too late"),
    "a wrong code": (changed("reply.received", {}, matches=False), "the code was not replied"),
    "too many wrong codes": (
        before("reply.received", *(
            ev.ReplyReceived(message_id=f"m-{place}", channel="http", reading="code", matches=False) for place in range(11, 14)
        )),
        "too many wrong codes were replied",
    ),
    "no reply": (without("reply.received"), "the code was not replied"),
    "no challenge": (without("challenge.issued"), "the code was not replied"),
    "a reply before the consent": (moved("reply.received", "consent.spoken"), "the code was not replied"),
    "billed before the reply": (moved("delivery.attempted", "reply.received"), "the code was not replied"),
}  # fmt: skip


class TestPromise:
    """Histories in which somebody was billed and ought not to have been: honest ledgers of dishonest gateways."""

    @pytest.mark.parametrize("name", BROKEN)
    def test_billing_without_both_proofs_is_named(self, stage: Scene, name: str) -> None:
        history, why = BROKEN[name]
        with pytest.raises(evidence.Invalid) as invalid:
            evidence.keep_promise(rows_of(stage.order, history(stage)))
        assert f"the order was billed without both proofs: {why}" == invalid.value.reason
        assert invalid.value.member.startswith("events.jsonl, event ")

    def test_so_it_is_in_a_bundle_that_is_else_without_fault(self, bundle: bytes) -> None:
        """A ledger that lies from the beginning, signed by who keeps it."""
        assert fault(rewritten(bundle, lambda rows: None))[1] == "valid"

        def change(rows: list[dict[str, Any]]) -> None:
            [price] = [row["event"] for row in rows if row["event"].get("disclosure") == "price"]
            price["samples_sent"] = 0

        member, reason = fault(rewritten(bundle, change))
        assert reason == "the order was billed without both proofs: not heard before the consent: price"
        assert member.startswith("events.jsonl, event ")

    def test_billing_twice_is_named(self, stage: Scene) -> None:
        twice = ev.DeliveryAttempted(webhook_id="w-2", attempt=1, status=200)
        with pytest.raises(evidence.Invalid, match="the order was billed twice, by two webhooks"):
            evidence.keep_promise(rows_of(stage.order, [*stage.confirmed(), twice]))

    def test_terms_that_were_changed_do_not_have_the_hash(self, bundle: bytes) -> None:
        def change(rows: list[dict[str, Any]]) -> None:
            rows[0]["event"]["order"]["offer"]["price"]["amount"] = 1

        member, reason = fault(rewritten(bundle, change))
        assert ("events.jsonl, event 1", True) == (member, reason.startswith("the terms of the order have the hash"))

    @pytest.mark.parametrize(
        ("name", "state"),
        [("a stop word", "refused"), ("withdrawn", "withdrawn"), ("expired", "expired"), ("no reply", "challenged"),
         ("a machine", "failed"), ("no price", "calling")],
    )  # fmt: skip
    def test_an_order_that_nobody_was_billed_for_is_valid_and_not_confirmed(
        self, stage: Scene, name: str, state: str
    ) -> None:
        history, why = BROKEN[name]
        unbilled = [e for e in history(stage) if e.type not in ("delivery.attempted", "order.provisioned")]
        report = evidence.verify(pressed(stage, unbilled, state=state), vkey())
        assert ("not confirmed", why) == (report.outcome, report.as_json()["why_not"])
        assert any(why in line for line in report.lines())

    def test_frozen_after_it_was_billed_is_said(self, stage: Scene) -> None:
        frozen = ev.OrderFrozen(source="quality", reason="a listener doubts it")
        report = evidence.verify(pressed(stage, [*stage.confirmed(), frozen], state="frozen"), vkey())
        assert "frozen" == report.outcome
        assert any("a listener doubts it" in line for line in report.lines())

    @pytest.mark.parametrize("state", ["provisioned", "confirmed"])
    def test_a_state_that_the_events_do_not_bear_out_is_caught(self, stage: Scene, state: str) -> None:
        with pytest.raises(
            evidence.Invalid, match=r"manifest.json: calls the order \w+, and the events say: not confirmed"
        ):
            pressed(stage, stage.call(), state=state)

    def test_a_disclosure_that_was_repeated_counts(self, stage: Scene) -> None:
        cut = stage.played("disclosure_price", "terms", "price", samples_sent=160, interruption="bargein")
        history = before("prompt.played", cut)(stage)
        assert "provisioned" == evidence.verify(pressed(stage, history), vkey()).outcome

    def test_a_second_call_is_told_everything_again(self, stage: Scene) -> None:
        """What was heard on the first does not count on the second."""
        first = [e for e in stage.call() if e.type in ("call.started", "prompt.played")]
        ended = ev.CallEnded(call_id=CALL_ID, outcome="hung_up", reason="", duration_ms=1000)
        again = replace(stage, call_id="second-call")
        second = [e for e in again.confirmed() if e.type != "prompt.played"]
        with pytest.raises(evidence.Invalid, match="not heard before the consent: price, billing"):
            pressed(stage, [*first, ended, *second])


MORE: tuple[ev.Event, ...] = (
    STOPPED, REFUSED, STOPPED.model_copy(update={"verdict": "deny", "aside": False}),
    ev.UtteranceHeard(call_id=CALL_ID, step="consent", grants_consent=True, verdict="unclear", reason="a hedge"),
    ev.CallStarted(call_id=CALL_ID, gateway="g1", direction="inbound"),
    ev.CallStarted(call_id="other", gateway="g1", direction="inbound"),
    ev.CallEnded(call_id=CALL_ID, outcome="hung_up", reason="", duration_ms=1),
    ev.CallEnded(call_id=CALL_ID, outcome="machine", reason="", duration_ms=1),
    ev.CallEnded(call_id="other", outcome="completed", reason="", duration_ms=1),
    ev.AnswerJudged(call_id=CALL_ID, verdict="machine", reason="a beep", at_ms=1),
    ev.AnswerJudged(call_id=CALL_ID, verdict="human", reason="a word", at_ms=1),
    ev.DisclosureUnheard(call_id=CALL_ID, disclosure="price", reason="late"),
    ev.RecordingFailed(call_id=CALL_ID, reason="disk full"),
    ev.RecordingKept(call_id=CALL_ID, sha256="0" * 64, duration_ms=1),
    ev.RecordingKept(call_id="other", sha256="0" * 64, duration_ms=60_000),
    ev.ChallengeIssued(challenge_id="ch-2", nonce="n", expires_at=START + timedelta(days=1)),
    ev.ChallengeExpired(challenge_id="ch-1"), ev.ChallengeExpired(challenge_id="ch-2"),
    ev.ReplyReceived(message_id="r", channel="http", reading="code", matches=True),
    ev.ReplyReceived(message_id="r", channel="http", reading="code", matches=False),
    ev.ReplyReceived(message_id="r", channel="http", reading="unreadable", matches=False),
    ev.ReplyReceived(message_id="r", channel="http", reading="stop", matches=False),
    ev.OrderWithdrawn(source="api", reason="x"), ev.OrderFrozen(source="api", reason="x"),
    ev.HoldPlaced(by="x", reason="x"), ev.HoldReleased(by="x", reason="x"), ev.RecordErased(by="x", reason="x"), ev.RecordingListened(call_id=CALL_ID, by="x", purpose="x"),
)  # fmt: skip


def test_the_verifier_and_the_gateway_judge_alike(stage: Scene) -> None:
    """Two reducers that know nothing of each other, on thousands of histories: lost, doubled, moved and foreign events."""
    dice = random.Random(17)
    good = [event for event in stage.confirmed() if event.type not in ("delivery.attempted", "order.provisioned")]
    counted = {True: 0, False: 0}
    for _ in range(2500):
        history = list(good)
        for _ in range(dice.choice((0, 1, 1, 1, 2, 2, 3, 5))):
            place = dice.randrange(len(history))
            match dice.randrange(4):
                case 0:
                    del history[place]
                case 1:
                    history.insert(dice.randrange(len(history)), history[place])
                case 2:
                    history.insert(dice.randrange(len(history)), history.pop(place))
                case _:
                    history.insert(place, dice.choice(MORE))
        record = replay(entries_of(stage.order, history))
        promise = evidence.keep_promise(rows_of(stage.order, history))
        told = [event.type for event in history]
        assert (record.confirmation is not None) == promise.confirmed, told
        assert (record.state in evidence.CONFIRMED) == (promise.confirmed and promise.frozen is None), told
        if record.confirmation is not None:
            ids = (
                record.confirmation.spoken.event_id,
                record.confirmation.recording.event_id,
                record.confirmation.reply.event_id,
            )
            proofs = (promise.spoken, promise.recording, promise.reply)
            assert ids == tuple(event.event_id for event in proofs if event is not None), told
        counted[promise.confirmed] += 1
    assert min(counted.values()) > 300, counted


class TestSounds:
    def member(self) -> str:
        return evidence.recording_member(CALL_ID)

    def cut(self, bundle: bytes, seconds: float) -> bytes:
        def change(members: dict[str, bytes]) -> None:
            samples = members[self.member()][44:][: int(seconds * 8000) * 4]
            members[self.member()] = evidence.wav_header(2, 8000, len(samples)) + samples

        return forged(bundle, change)

    @pytest.mark.parametrize(
        ("seconds", "proven"), [(40.0, 40.0), (39.0, 30.0), (25.5, 20.0), (10.0, 10.0), (9.0, 0.0)]
    )
    def test_a_cut_recording_proves_its_prefix(self, bundle: bytes, seconds: float, proven: float) -> None:
        report = evidence.verify(self.cut(bundle, seconds), vkey())
        [recording] = report.recordings
        assert (proven, False) == (recording.proven_s, recording.whole)
        assert any(f"CUT: {proven:.0f} s of 41.0 s are proven" in line for line in report.lines())
        said = any("the consent is not in the part that is proven" in line for line in report.lines())
        assert said == (proven < 35)

    def test_a_recording_that_was_changed_is_caught(self, bundle: bytes) -> None:
        def change(members: dict[str, bytes]) -> None:
            octets = bytearray(members[self.member()])
            octets[44 + 15 * 8000 * 4] ^= 1
            members[self.member()] = bytes(octets)

        expected = (self.member(), "is not what was recorded: changed after 10 s")
        assert expected == fault(forged(bundle, change))

    def test_a_recording_that_was_made_longer_is_caught(self, bundle: bytes) -> None:
        def change(members: dict[str, bytes]) -> None:
            samples = members[self.member()][44:] + bytes(4)
            members[self.member()] = evidence.wav_header(2, 8000, len(samples)) + samples

        assert self.member() == fault(forged(bundle, change))[0]

    def test_what_was_judged_is_in_the_recording(self, stage: Scene) -> None:
        """An utterance whose audio is not that of the call: the gateway judged something else."""
        history = changed("utterance.heard", {"grants_consent": True}, audio_sha256="1" * 64)(stage)
        report = evidence.verify(pressed(stage, history), vkey())
        [(member, reason)] = report.missing.items()
        assert (self.member(), True) == (member, "does not hold what was judged in event" in reason)

    def test_wideband_is_not_compared_bit_for_bit(self, tmp_path: Path) -> None:
        """G.722 decodes otherwise from another beginning: a difference proves nothing, and is counted."""
        wide = scene(tmp_path, rate=16_000)
        history = [
            event.model_copy(update={"audio_sha256": "1" * 64}) if isinstance(event, ev.UtteranceHeard) else event
            for event in wide.confirmed()
        ]  # fmt: skip
        [recording] = evidence.verify(pressed(wide, history), vkey()).recordings
        assert (0, 4, True) == (recording.same, recording.judged, recording.whole)

    def test_a_prompt_of_another_sound_is_caught(self, bundle: bytes) -> None:
        name = next(name for name in members_of(bundle) if name.startswith("prompts/"))

        def change(members: dict[str, bytes]) -> None:
            members[name] = evidence.wav_header(1, 16_000, 320) + bytes(320)

        assert (name, "is not what was played: its samples have another hash") == fault(forged(bundle, change))

    def test_a_prompt_that_nobody_heard_has_no_place(self, bundle: bytes) -> None:
        name = evidence.prompt_member(evidence.sha256(bytes(320)))

        def change(members: dict[str, bytes]) -> None:
            members[name] = evidence.wav_header(1, 16_000, 320) + bytes(320)

        assert (name, "has no place in the bundle: no event speaks of it") == fault(forged(bundle, change))

    @pytest.mark.parametrize("name", ["agreement.pdf", "dialplan.json", evidence.recording_member(CALL_ID)])
    def test_what_is_missing_without_a_word_is_named(self, bundle: bytes, name: str) -> None:
        member, reason = fault(forged(bundle, lambda members: members.__delitem__(name)))
        assert (name, "is missing, and manifest.json does not say why") == (member, reason)


class TestBeside:
    @pytest.mark.parametrize("name", ["record.json", "transcript.json", "messages.json"])
    def test_what_is_told_otherwise_than_the_events_tell_it_is_caught(self, bundle: bytes, name: str) -> None:
        def change(members: dict[str, bytes]) -> None:
            text = members[name].decode()
            assert "m-1" in text or "네" in text
            members[name] = evidence.canonical(json.loads(text.replace("m-1", "m-7").replace("네", "예")))

        assert (name, "is not what the events say") == fault(forged(bundle, change))

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            (lambda told: told["attempts"].pop(), "does not have the attempt of event"),
            (lambda told: told["attempts"].append(told["attempts"][0] | {"attempt": 9}), "has attempts that are not in the record"),
            (lambda told: told["attempts"].append(told["attempts"][0]), "stands twice"),
            (lambda told: told["attempts"][0].update(status=200), "tells it otherwise"),
            (lambda told: told.update(kind="consent.refused"), "tells it otherwise"),
            (lambda told: told.update(body="{}"), "is not of the form that it has"),
            (lambda told: told.update(body='{"data":{"order_id":"x","order_hash":"y"}}'), "another order, or of other terms"),
            (lambda told: told.update(body=told["body"].replace('"event_id": "', '"event_id": "0')), "a spoken_consent that"),
        ],
    )  # fmt: skip
    def test_a_delivery_that_the_record_does_not_have_is_caught(
        self, bundle: bytes, change: Callable[[dict[str, Any]], Any], reason: str
    ) -> None:
        def forge(members: dict[str, bytes]) -> None:
            said = json.loads(members["deliveries.json"])
            change(said["deliveries"][0])
            members["deliveries.json"] = evidence.canonical(said)

        member, why = fault(forged(bundle, forge))
        assert ("deliveries.json", True) == (member, reason in why), why

    def test_another_script_is_caught(self, bundle: bytes) -> None:
        def change(members: dict[str, bytes]) -> None:
            members["dialplan.json"] = evidence.canonical(json.loads(members["dialplan.json"]) | {"version": 99})

        assert "dialplan.json" == fault(forged(bundle, change))[0]

    def test_a_text_that_is_not_that_of_its_hash_is_caught(self, stage: Scene) -> None:
        history = changed("prompt.played", {"disclosure": "price"}, text="요금은 없습니다.")(stage)
        with pytest.raises(evidence.Invalid, match="the text has not the hash that stands beside it"):
            pressed(stage, history)

    def test_what_a_terminal_would_obey_is_not_printed(self, stage: Scene) -> None:
        frozen = ev.OrderFrozen(source="api", reason="\x1b[2J\x1b]0;gone\x07")
        _, _, lines = evidence.examine(pressed(stage, [*stage.confirmed(), frozen], state="frozen"))
        assert not any(mark in line for line in lines for mark in "\x1b\x07")


class TestErased:
    def erased(self, stage: Scene, *more: ev.Event) -> bytes:
        gone = ev.RecordErased(by="clerk", reason="asked to be forgotten")
        return pressed(
            stage,
            [*stage.confirmed(), *more, gone],
            state="erased",
            events_key=None,
            recordings={},
            dialplan=None,
            deliveries=[],
        )

    def test_it_is_proven_that_something_happened_and_not_what(self, stage: Scene) -> None:
        made = self.erased(stage)
        report = evidence.verify(made, vkey())
        assert ("erased", None) == (report.outcome, report.promise)
        assert {"README.txt", "events.jsonl", "manifest.json", "manifest.sig", "verify_evidence.py", "ledger/checkpoint",
                "ledger/first-checkpoint", "ledger/key.pem", "ledger/key.txt", "ledger/proofs.json"} == set(members_of(made))  # fmt: skip
        assert NUMBER.encode() not in made
        assert any("cannot be read any more" in line for line in report.lines())

    def test_nothing_readable_has_a_place_in_it(self, stage: Scene) -> None:
        def change(members: dict[str, bytes]) -> None:
            members["agreement.pdf"] = b"%PDF"

        expected = ("agreement.pdf", "has no place in the bundle of an erased person")
        assert expected == fault(forged(self.erased(stage), change))

    def test_a_key_that_is_withheld_is_no_erasure(self, bundle: bytes) -> None:
        expected = ("keys.json", "is missing, and the person was not erased")
        assert expected == fault(forged(bundle, lambda members: members.__delitem__("keys.json")))


class TestFuzz:
    """Whatever a bundle holds, the verifier says that it is not valid, and nothing else."""

    def test_no_structure_makes_it_fall(self, bundle: bytes) -> None:
        dice = random.Random(11)
        odd: list[Any] = [None, True, -1, 2**60, 1.5, "", "x", [], {}, [[]], {"a": 1}, "9" * 5000, "\ud800"]
        names = ["manifest.json", "keys.json", "ledger/proofs.json", "deliveries.json", "record.json", "events.jsonl"]
        for _ in range(120):
            name = dice.choice(names)

            def change(members: dict[str, bytes], name: str = name) -> None:
                text = (
                    members[name].decode().splitlines()[0]
                    if name != "manifest.json"
                    else members["__manifest__"].decode()
                )
                value = json.loads(text)
                spot = value
                while isinstance(spot, (dict, list)) and spot:
                    key = dice.choice(sorted(spot)) if isinstance(spot, dict) else dice.randrange(len(spot))
                    if dice.random() < 0.4 or not isinstance(spot[key], (dict, list)) or not spot[key]:
                        spot[key] = dice.choice(odd)
                        break
                    spot = spot[key]
                target = name if name != "manifest.json" else "__manifest__"
                try:
                    members[target] = evidence.canonical(value) if target == name else json.dumps(value).encode()
                except ValueError:
                    members[target] = b"{}"

            try:
                file = forged(bundle, change)
            except (TypeError, ValueError, KeyError, AttributeError):
                continue  # not even a manifest could be made of it
            code, told, _ = evidence.examine(file)
            assert (code == 0) == told["valid"]

    def test_no_event_makes_it_fall(self, bundle: bytes) -> None:
        """Events of any form, sealed and proven: the ledger's holder can write what he likes."""
        dice = random.Random(12)
        odd: list[Any] = [None, True, -1, 2**60, 1.5, "", "x", [], {}, [[]], {"a": 1}]

        def change(rows: list[dict[str, Any]]) -> None:
            spot: Any = dice.choice(rows)["event"]
            while True:
                key = dice.choice(sorted(set(spot) - {"type"})) if isinstance(spot, dict) else dice.randrange(len(spot))
                if dice.random() < 0.3 or not isinstance(spot[key], (dict, list)) or not spot[key]:
                    spot[key] = dice.choice(odd)
                    return
                spot = spot[key]

        for _ in range(150):
            code, told, _ = evidence.examine(rewritten(bundle, change))
            assert (code == 0) == told["valid"]

    @given(st.binary(max_size=300))
    def test_no_octets_make_it_fall(self, octets: bytes) -> None:
        assert fault(octets)[1] != "valid"
        assert fault(packed({"manifest.json": octets, "events.jsonl": octets}))[1] != "valid"

    @given(st.data())
    def test_no_json_is_too_odd(self, data: st.DataObject) -> None:
        text = data.draw(
            st.text(max_size=40) | st.sampled_from(["[" * 100_000, "1e999", "NaN", '{"a":1,"a":1}', "9" * 9000])
        )
        try:
            evidence.parse("x", text.encode("utf-8", "surrogatepass"))
        except evidence.Invalid:
            return


class TestMain:
    def run(self, *arguments: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
        try:
            code = evidence.main(arguments)
        except SystemExit as ended:
            code = int(ended.code or 0)
        said = capsys.readouterr()
        return code, said.out + said.err

    def test_valid_is_0(self, bundle: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path = tmp_path / "b.zip"
        path.write_bytes(bundle)
        code, said = self.run(str(path), "--key", f" {vkey()}\n", capsys=capsys)
        assert (0, True) == (code, said.startswith("valid: order"))

    def test_not_valid_is_1_and_names_it(
        self, bundle: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = tmp_path / "b.zip"
        path.write_bytes(bundle[:-1])
        code, said = self.run(str(path), "--json", capsys=capsys)
        assert (1, False, "the ZIP container") == (code, json.loads(said)["valid"], json.loads(said)["member"])

    @pytest.mark.parametrize("arguments", [(), ("nothing.zip",), (".",), ("--what",), ("/dev/null",)])
    def test_misused_is_2(self, arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
        assert 2 == self.run(*arguments, capsys=capsys)[0]

    def test_a_key_that_is_none_is_misuse(
        self, bundle: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = tmp_path / "b.zip"
        path.write_bytes(bundle)
        code, said = self.run(str(path), "--key", "a+b+c", capsys=capsys)
        assert (2, True) == (code, "--key" in said)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4), max_leaves=20,
)  # fmt: skip


class TestCanonical:
    @given(json_values)
    def test_it_is_rfc_8785(self, value: Any) -> None:
        try:
            expected = rfc8785.dumps(value)
        except (rfc8785.CanonicalizationError, UnicodeEncodeError):
            with pytest.raises(ValueError):
                evidence.canonical(value)
            return
        assert expected == evidence.canonical(value)

    @given(st.floats(allow_nan=False, allow_infinity=False))
    def test_floats_are_spelled_as_by_ecmascript(self, number: float) -> None:
        assert rfc8785.dumps(number) == evidence.canonical(number)

    @pytest.mark.parametrize(
        ("number", "spelled"),
        [(0.0, "0"), (-0.0, "0"), (1e21, "1e+21"), (1e20, "100000000000000000000"), (1e-6, "0.000001"), (1e-7, "1e-7"),
         (5e-324, "5e-324"), (1.7976931348623157e308, "1.7976931348623157e+308"), (333333333.33333329, "333333333.3333333")],
    )  # fmt: skip
    def test_the_numbers_of_the_standard(self, number: float, spelled: str) -> None:
        assert spelled == evidence.canonical(number).decode()

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), {1, 2}, b"x", "\ud800"])
    def test_what_is_not_json_is_refused(self, value: Any) -> None:
        with pytest.raises(ValueError):
            evidence.canonical(value)


class TestTree:
    """The verifier's own arithmetic against the ledger's."""

    @given(st.integers(1, 70), st.data())
    def test_inclusion(self, size: int, data: st.DataObject) -> None:
        hashes, nodes = self.tree(size)
        index = data.draw(st.integers(0, size - 1))
        proof = merkle.inclusion_proof(index, size, nodes.__getitem__)
        root = merkle.root(size, nodes.__getitem__)
        assert evidence.is_included(index, size, hashes[index], proof, root)
        wrong = data.draw(st.integers(0, size - 1))
        assert (wrong == index) == evidence.is_included(wrong, size, hashes[index], proof, root)
        assert not evidence.is_included(index, size, hashes[index], [*proof, root], root)
        assert not proof or not evidence.is_included(index, size, hashes[index], proof[:-1], root)

    @given(st.integers(1, 70), st.data())
    def test_consistency(self, size: int, data: st.DataObject) -> None:
        _, nodes = self.tree(size)
        small = data.draw(st.integers(1, size))
        first = evidence.Checkpoint(small, merkle.root(small, nodes.__getitem__))
        second = evidence.Checkpoint(size, merkle.root(size, nodes.__getitem__))
        proof = merkle.consistency_proof(small, size, nodes.__getitem__)
        assert evidence.only_grew(first, second, proof)
        assert not evidence.only_grew(replace(first, root=bytes(32)), second, proof)
        assert not evidence.only_grew(first, replace(second, root=bytes(32)), proof)
        assert not evidence.only_grew(first, second, [*proof, bytes(32)])
        assert small == size or not evidence.only_grew(second, first, proof)

    def tree(self, size: int) -> tuple[list[bytes], dict[merkle.Node, bytes]]:
        hashes = [merkle.leaf_hash(str(place).encode()) for place in range(size)]
        nodes: dict[merkle.Node, bytes] = {}
        nodes.update(merkle.grown(0, hashes, nodes.__getitem__))
        return hashes, nodes


def test_origin_is_the_name_of_the_key(bundle: bytes) -> None:
    assert evidence.verify(bundle).key.name == ORIGIN
    assert KEYRING.signer.public_key().public_bytes_raw() == evidence.verify(bundle).key.public
