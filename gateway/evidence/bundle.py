"""Evidence bundles: everything of one record gathered, proven, and pressed into a file that anyone can verify offline.

The export is itself an event of the record, written before anything is gathered, so that every bundle holds who asked for it and why.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import structlog
from pydantic import ValidationError

from gateway.consent import events as ev
from gateway.consent.canonical import canonical, digest
from gateway.consent.order import DialplanRef
from gateway.consent.record import replay
from gateway.deliveries import of_order
from gateway.dialplan.model import Dialplan, load_dialplans
from gateway.engine import Engine
from gateway.evidence.errors import NotExported
from gateway.evidence.press import Job, Leaf, Pressed
from gateway.ledger.note import verifier_of
from gateway.ledger.sealing import events_key, recording_key
from gateway.resources import data_folder
from gateway.settings import Settings
from gateway.store import ledger, tree
from gateway.store.database import Connection, sql
from gateway.store.errors import ErasedRecord
from gateway.telephony.errors import BadRecording
from gateway.telephony.vault import path_of

log = structlog.get_logger(__name__)
PRESS_S = 600.0
MOST_AT_ONCE = 2
"""Pressing processes at a time; who asks for more bundles waits."""
ERASED = "erased"
UNSENT = ".evidence-"
"""How the folders of bundles that are about to be sent begin."""


@dataclass(frozen=True, slots=True)
class Library:
    """Where what belongs to records lies. *origin* is the name of the ledger in its checkpoints."""

    operator: str
    origin: str
    data_dir: Path
    prompts_folder: Path
    dialplans: Mapping[str, Dialplan]

    @property
    def recordings(self) -> Path:
        return self.data_dir / "recordings"

    @property
    def prompts_cache(self) -> Path:
        return self.data_dir / "cache" / "prompts"

    @property
    def kept_dialplans(self) -> Path:
        return self.data_dir / "dialplans"

    def tidy(self) -> None:
        """Remove what a gateway that was killed left of bundles it was about to send: they can be read by who reads the disk."""
        for folder in self.data_dir.glob(f"{UNSENT}*"):
            shutil.rmtree(folder, ignore_errors=True)
            log.warning("evidence.unsent_removed", folder=folder.name)

    def keep_dialplans(self) -> None:
        """Keep every script by its hash: an order is bound to the one it was made with, however it is changed later."""
        self.kept_dialplans.mkdir(parents=True, exist_ok=True)
        for plan in self.dialplans.values():
            path = self.kept_dialplans / f"{plan.ref.sha256}.json"
            if not path.exists():
                part = path.with_suffix(f".{os.getpid()}.part")
                part.write_bytes(_content(plan))
                part.replace(path)

    def dialplan(self, reference: DialplanRef) -> str | None:
        """The very script that *reference* names, as canonical JSON; None when it is not here."""
        plan = self.dialplans.get(reference.name)
        if plan is not None and plan.ref == reference:
            return _content(plan).decode()
        with contextlib.suppress(OSError, UnicodeDecodeError):
            kept = (self.kept_dialplans / f"{reference.sha256}.json").read_text(encoding="utf-8")
            return kept if digest(kept.encode()) == reference.sha256 else None
        return None


@dataclass(frozen=True, slots=True)
class Exported:
    """A bundle in its place. *missing*: what is not in it, and why; *uncovered*: characters that the agreement could not show."""

    path: Path
    order_id: str
    octets: int
    members: int
    missing: dict[str, str]
    uncovered: tuple[str, ...]
    key: str


def library_of(settings: Settings) -> Library:
    """The library of a gateway with these settings. Raises DialplanError."""
    return Library(
        operator=settings.operator,
        origin=settings.ledger.origin,
        data_dir=settings.data_dir,
        prompts_folder=settings.prompts or data_folder("prompts"),
        dialplans=load_dialplans(settings.dialplans or data_folder("dialplans")),
    )


class Exporter:
    """Exports bundles. *now* gives aware UTC times."""

    def __init__(self, engine: Engine, library: Library, now: Callable[[], datetime]) -> None:
        self._engine = engine
        self._library = library
        self._now = now
        self._presses = asyncio.Semaphore(MOST_AT_ONCE)

    async def export(self, order_id: str, target: Path, *, by: str, purpose: str) -> Exported:
        """Write the bundle of an order to *target*; it is valid, or not there. Raises UnknownOrder and NotExported."""
        await asyncio.to_thread(self._library.keep_dialplans)
        key = await self._note(order_id, by, purpose)
        job = await self._gather(order_id, key, target)
        pressed = await self._press(job)
        log.info("evidence.exported", order=order_id, octets=pressed.octets, missing=len(pressed.missing))
        return Exported(
            target, order_id, pressed.octets, pressed.members, pressed.missing, tuple(pressed.uncovered), job.key
        )

    @asynccontextmanager
    async def exported(self, order_id: str, *, by: str, purpose: str) -> AsyncIterator[Exported]:
        """The bundle in a file that is gone afterwards; nobody else can read it. Raises as :meth:`export` does."""
        self._library.data_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=UNSENT, dir=self._library.data_dir) as folder:
            yield await self.export(order_id, Path(folder) / f"evidence-{order_id}.zip", by=by, purpose=purpose)

    async def _note(self, order_id: str, by: str, purpose: str) -> bytes | None:
        """Write down who wants the bundle. The record's key; None when the person was erased."""
        try:
            await self._engine.append(order_id, ev.EvidenceExported(by=by, purpose=purpose))
            return await self._engine.record_key(order_id)
        except ErasedRecord:
            return None

    async def _gather(self, order_id: str, key: bytes | None, target: Path) -> Job:
        entries = await self._up_to_export(order_id) if key is not None else []
        async with self._engine.database.transaction() as connection:
            envelopes = [envelope for envelope, _ in await ledger.load_envelopes(connection, order_id)]
        if entries:
            envelopes = envelopes[: len(entries)]
        record = replay(entries) if entries else None
        confirmation = record.confirmation if record is not None else None
        decisive = confirmation.reply.event_id if confirmation is not None else None
        seq = next((entry.seq for entry in entries if entry.event_id == decisive), 1)
        proofs = await self._prove(order_id, len(envelopes), seq)
        signer, library = self._engine.keyring.signer, self._library
        return Job(
            order_id=order_id,
            state=record.state if record is not None else ERASED,
            operator=library.operator,
            envelopes=envelopes,
            events_key=_base64(events_key(key)) if key is not None else None,
            signer=_base64(signer.private_bytes_raw()),
            key=str(verifier_of(signer, library.origin)),
            deliveries=await self._deliveries(order_id, entries),
            recordings=self._recordings(entries, key) if key is not None else {},
            dialplan=library.dialplan(record.order.dialplan) if record is not None else None,
            prompts_cache=library.prompts_cache,
            prompts_folder=library.prompts_folder,
            target=target,
            **proofs,
        )

    async def _up_to_export(self, order_id: str) -> list[ev.Entry]:
        """The record until its last export, which is ours, or one that was asked for a moment later."""
        entries = await self._engine.entries(order_id)
        last = max(entry.seq for entry in entries if isinstance(entry.event, ev.EvidenceExported))
        return entries[:last]

    async def _prove(self, order_id: str, events: int, decisive: int) -> dict[str, Any]:
        """The checkpoint that covers all *events*, the first one that covered the *decisive* one, and the proofs between them.

        The tree is locked no longer than it grows: what a proof is made of never changes.
        """
        leaves, checkpoint = await self._cover(order_id, events)
        async with self._engine.database.pool.acquire() as connection:
            return await _proofs(
                connection, order_id, checkpoint, [leaves[seq] for seq in range(1, events + 1)], leaves[decisive]
            )

    async def _cover(self, order_id: str, events: int) -> tuple[dict[int, int], tree.Signed]:
        """The leaves of all *events* by their seq, and a checkpoint over them."""
        database, origin = self._engine.database, self._library.origin
        while True:
            async with database.transaction() as connection:
                grown = await tree.sequence(connection)
                leaves = await tree.leaves_of(connection, order_id)
                if all(seq in leaves for seq in range(1, events + 1)):
                    checkpoint = await tree.checkpoint(connection, self._engine.keyring.signer, origin, self._now())
                    assert checkpoint is not None, "a tree with leaves has one"
                    return leaves, checkpoint
            if not grown:
                raise NotExported(f"order {order_id}: events of it are missing in the ledger's tree")

    async def _deliveries(self, order_id: str, entries: list[ev.Entry]) -> list[dict[str, Any]]:
        """The webhooks that *entries* caused, with the attempts that they tell of."""
        if not entries:
            return []
        events = {entry.event_id for entry in entries}
        told = {
            (entry.event.webhook_id, entry.event.attempt)
            for entry in entries
            if isinstance(entry.event, ev.DeliveryAttempted)
        }
        return [
            {
                "webhook_id": row["webhook_id"],
                "kind": row["kind"],
                "endpoint": row["endpoint"],
                "body": row["body"],
                "attempts": [
                    {
                        "attempt": attempt["attempt"],
                        "at": attempt["at"].isoformat(),
                        "status": attempt["status"],
                        "error": attempt["error"],
                        "response": attempt["answer"],
                    }
                    for attempt in row["all_attempts"]
                    if (row["webhook_id"], attempt["attempt"]) in told
                ],
            }
            for row in await of_order(self._engine, order_id)
            if str(row["event_id"]) in events
        ]

    def _recordings(self, entries: list[ev.Entry], key: bytes) -> dict[str, tuple[str, str]]:
        """Where the recordings lie, and what opens them."""
        found: dict[str, tuple[str, str]] = {}
        for entry in entries:
            if isinstance(entry.event, ev.RecordingKept):
                call_id = entry.event.call_id
                with contextlib.suppress(BadRecording):  # an id that names no file: there is none
                    path = path_of(self._library.recordings, call_id)
                    if path.exists():
                        found[call_id] = str(path.absolute()), _base64(recording_key(key, call_id))
        return found

    async def _press(self, job: Job) -> Pressed:
        """Have *job* done by a process of its own. Raises NotExported."""
        async with self._presses:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "gateway.evidence.press",
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            )  # fmt: skip
            try:
                async with asyncio.timeout(PRESS_S):
                    said, _ = await process.communicate(job.model_dump_json().encode())
                pressed = Pressed.model_validate_json(said)
            except TimeoutError as error:
                raise NotExported(f"order {job.order_id}: the bundle was not made in {PRESS_S:.0f} s") from error
            except ValidationError as error:
                code = process.returncode
                raise NotExported(
                    f"order {job.order_id}: the pressing process ended with {code}, and no answer"
                ) from error
            finally:
                if process.returncode is None:
                    process.kill()
                    await process.wait()
        if pressed.fault:
            raise NotExported(f"order {job.order_id}: no bundle was made: {pressed.fault}")
        return pressed


async def _proofs(
    connection: Connection, order_id: str, checkpoint: tree.Signed, leaves: list[int], decisive: int
) -> dict[str, Any]:
    """What leads from each of *leaves*, and from the first checkpoint that covered the *decisive* one, to *checkpoint*."""
    first = await tree.first_checkpoint_covering(connection, decisive)
    if first is None:
        raise NotExported(f"order {order_id}: the ledger has no checkpoint of it")
    dated = await connection.fetchrow(sql("first_dated_checkpoint_covering"), decisive, checkpoint.size)
    since_dated = await tree.consistency_proof(connection, dated["size"], checkpoint.size) if dated is not None else []
    inclusion = [
        Leaf(
            leaf=leaf,
            proof=[_base64(step) for step in await tree.inclusion_proof(connection, leaf, checkpoint.size)],
        )
        for leaf in leaves
    ]
    consistency = await tree.consistency_proof(connection, first.size, checkpoint.size)
    return {
        "checkpoint": checkpoint.note,
        "first_checkpoint": first.note,
        "dated_checkpoint": dated["note"] if dated is not None else None,
        "timestamp": _base64(dated["token"]) if dated is not None else None,
        "dated": [_base64(step) for step in since_dated],
        "inclusion": inclusion,
        "consistency": [_base64(step) for step in consistency],
    }


def _content(plan: Dialplan) -> bytes:
    """What the hash of a script is over."""
    content = plan.model_dump(mode="json")
    if plan.machine is None:
        del content["machine"]
    return canonical(content)


def _base64(octets: bytes) -> str:
    return base64.b64encode(octets).decode()
