"""The pressing process: ``python -m gateway.evidence.press``, a job as JSON on stdin, what became of it as JSON on stdout.

One process a bundle: setting a page, hashing and sealing take whole fractions of a second, and the gateway's process carries the media clock.
What it writes it verifies as a stranger would; a bundle that is not valid is not left behind.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import BaseModel, ConfigDict, ValidationError

from gateway.consent.order import Language, Order
from gateway.dialplan.model import Dialplan
from gateway.evidence import container, sounds
from gateway.evidence import verify_evidence as evidence
from gateway.evidence.agreement import Ledger, agreement, wording
from gateway.evidence.errors import EvidenceError
from gateway.language.errors import LanguageError
from gateway.language.pack import LanguagePack, load_pack

NICE = 10
"""How far behind the calls this stands for the processor."""


class Leaf(BaseModel):
    leaf: int
    proof: list[str]


class Job(BaseModel):
    """All that goes into a bundle, or where it lies. Octets are in base64. *events_key* and the keys of *recordings* are None and
    none when the person was erased; *dialplan* is the canonical JSON of the script, None when it is not on this gateway any more.
    """

    model_config = ConfigDict(extra="forbid")

    order_id: str
    state: str
    operator: str
    envelopes: list[str]
    events_key: str | None
    checkpoint: str
    first_checkpoint: str
    dated_checkpoint: str | None
    timestamp: str | None
    dated: list[str]
    inclusion: list[Leaf]
    consistency: list[str]
    signer: str
    key: str
    deliveries: list[dict[str, Any]]
    recordings: dict[str, tuple[str, str]]
    dialplan: str | None
    prompts_cache: Path
    prompts_folder: Path
    target: Path


class Pressed(BaseModel):
    """What became of a job. *missing*: members that are not in it, and why; *uncovered*: characters that the agreement could not
    show; *fault*: why there is no bundle.
    """

    octets: int = 0
    members: int = 0
    missing: dict[str, str] = {}
    uncovered: list[str] = []
    fault: str = ""


async def press(job: Job) -> Pressed:
    """Write the bundle at ``job.target`` and verify it. Raises EvidenceError, LanguageError, evidence.Invalid and OSError."""
    members = {
        evidence.EVENTS: "".join(f"{envelope}\n" for envelope in job.envelopes).encode(),
        evidence.CHECKPOINT: job.checkpoint.encode(),
        evidence.FIRST_CHECKPOINT: job.first_checkpoint.encode(),
        evidence.KEY_TEXT: f"{job.key}\n".encode(),
        evidence.KEY_PEM: evidence.parse_key(evidence.KEY_TEXT, job.key).pem(),
        evidence.PROOFS: evidence.canonical(
            {
                "consistency": job.consistency,
                "dated": job.dated,
                "inclusion": [leaf.model_dump() for leaf in job.inclusion],
            }
        ),
        evidence.VERIFIER: _verifier(),
    }
    if job.timestamp is not None and job.dated_checkpoint is not None:
        members[evidence.DATED_CHECKPOINT] = job.dated_checkpoint.encode()
        members[evidence.TIMESTAMP] = base64.b64decode(job.timestamp)
    pressed = Pressed()
    envelopes = evidence.read_envelopes(members[evidence.EVENTS], job.order_id)
    languages: list[Language] = ["en"]
    if job.events_key is not None:
        events = evidence.open_events(envelopes, base64.b64decode(job.events_key), job.order_id)
        language = await _add_content(job, events, members, pressed)
        languages = list(dict.fromkeys((language, "en")))
    members[evidence.README] = "\n".join(wording(language).readme for language in languages).encode()
    signer = Ed25519PrivateKey.from_private_bytes(base64.b64decode(job.signer))
    signed = container.signed_members(
        members, signer, order_id=job.order_id, state=job.state, exported_at=envelopes[-1].at, missing=pressed.missing
    )
    pressed.members = len(signed)
    pressed.octets = _write(signed, job)
    return pressed


def _verifier() -> bytes:
    return Path(evidence.__file__).read_bytes()


def _write(members: dict[str, bytes], job: Job) -> int:
    """The bundle in its place, valid; else nothing is there. Its length in octets."""
    part = job.target.with_name(f".{job.target.name}.part")
    try:
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            container.write(members, file)
        written = part.read_bytes()
        evidence.verify(written, job.key)
        part.replace(job.target)
    finally:
        part.unlink(missing_ok=True)
    return len(written)


async def _add_content(job: Job, events: list[evidence.Event], members: dict[str, bytes], pressed: Pressed) -> Language:
    """All that can be read: opened, heard and set. Returns the order's language."""
    promise = evidence.keep_promise(events)
    order = Order.model_validate(promise.order)
    language = order.subscriber.language
    pack = load_pack(job.prompts_folder, language)
    transcript = evidence.transcript_of(job.order_id, events)
    members |= {
        evidence.KEYS: evidence.canonical({"events": job.events_key}),
        evidence.RECORD: evidence.canonical(evidence.record_of(job.order_id, events)),
        evidence.TRANSCRIPT: evidence.canonical(transcript),
        evidence.TRANSCRIPT_TEXT: evidence.transcript_text(transcript).encode(),
        evidence.MESSAGES: evidence.canonical(evidence.messages_of(job.order_id, events)),
        evidence.DELIVERIES: evidence.canonical({"deliveries": job.deliveries, "order_id": job.order_id}),
    }
    if job.dialplan is None:
        reference = order.dialplan
        why = f"the script {reference.name} of version {reference.version} is not on this gateway any more"
        pressed.missing[evidence.DIALPLAN] = why
    else:
        members[evidence.DIALPLAN] = job.dialplan.encode()
    await _add_sounds(job, events, members, pressed, pack)
    _, size, root = job.checkpoint.split("\n")[:3]
    page = agreement(promise, job.state, pack, job.operator, Ledger(int(size), root, job.key))
    members[evidence.AGREEMENT] = page.pdf
    pressed.uncovered = list(page.uncovered)
    return language


async def _add_sounds(
    job: Job, events: list[evidence.Event], members: dict[str, bytes], pressed: Pressed, pack: LanguagePack
) -> None:
    names: tuple[str, ...] = ()
    if job.dialplan is not None:
        with contextlib.suppress(
            ValidationError
        ):  # a script of another version: the language pack's own names are left
            names = Dialplan.model_validate_json(job.dialplan).prompt_names()
    for event in events:
        if event.of("recording.kept"):
            member = evidence.recording_member(str(event.body["call_id"]))
            _put(members, pressed, member, _recording(job, event, events))
    with tempfile.TemporaryDirectory(prefix="consent-evidence-") as scratch:
        async with sounds.Prompts(job.prompts_cache, job.prompts_folder, pack, names, Path(scratch)) as prompts:
            for event in events:
                if event.of("prompt.played"):
                    member = evidence.prompt_member(str(event.body["audio_sha256"]))
                    if member not in members and member not in pressed.missing:
                        _put(members, pressed, member, await prompts.find(event))


def _put(members: dict[str, bytes], pressed: Pressed, member: str, found: sounds.Found) -> None:
    if found.missing:
        pressed.missing[member] = found.missing
    else:
        members[member] = found.content


def _recording(job: Job, kept: evidence.Event, events: list[evidence.Event]) -> sounds.Found:
    call_id = str(kept.body["call_id"])
    if call_id not in job.recordings:
        return sounds.Found(missing=_deleted(call_id, events))
    path, key = job.recordings[call_id]
    return sounds.recording(Path(path), base64.b64decode(key), kept, events)


def _deleted(call_id: str, events: list[evidence.Event]) -> str:
    for event in events:
        if event.of("recording.deleted", call_id):
            return f"it was deleted at {event.at}: {event.body['reason']}"
    ran_at = next((str(event.body["gateway"]) for event in events if event.of("call.started", call_id)), "another one")
    return f"it is not on the gateway that exported this; the call ran on {ran_at}"


def main() -> int:
    os.nice(NICE)
    try:
        job = Job.model_validate(json.load(sys.stdin))
        pressed = asyncio.run(press(job))
    except (EvidenceError, LanguageError, evidence.Invalid, OSError) as error:
        pressed = Pressed(fault=str(error))
    except ValidationError as error:
        pressed = Pressed(
            fault=f"the record holds what this version cannot read: {error.error_count()} faults in {error.title}"
        )
    sys.stdout.write(pressed.model_dump_json())
    return 1 if pressed.fault else 0


if __name__ == "__main__":
    sys.exit(main())
