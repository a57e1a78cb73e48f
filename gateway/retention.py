"""How long the sound of calls is kept, and who was given it (rule R14).

What is kept of an order depends on what came of it; a legal hold overrides that. Nobody gets at the sound but through
:meth:`Archive.export`, which is written down before it happens.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal
from uuid import UUID

import structlog

from gateway.consent import events as ev
from gateway.consent.errors import ConsentError
from gateway.consent.record import Record, replay
from gateway.engine import Engine
from gateway.ledger.errors import LedgerError
from gateway.ledger.sealing import recording_key
from gateway.settings import Settings
from gateway.settings_sections import Recordings
from gateway.store.database import sql
from gateway.store.errors import ErasedRecord
from gateway.telephony.errors import BadRecording
from gateway.telephony.recording_format import path_of
from gateway.telephony.trace import SUFFIX as TRACE
from gateway.telephony.vault import TORN, write_wav

log = structlog.get_logger(__name__)
Retention = Literal["open", "agreement", "refusal", "other"]
REFUSALS = frozenset({"refused", "withdrawn", "frozen"})
FIRST_S = 60.0
DAILY_S = 86_400.0
AGAIN_S = 600.0
BATCH = 500


class NotHere(Exception):
    """There is no such recording here; the message says where it may be."""


class OnHold(Exception):
    """A legal hold forbids it, or one that is to be placed is there already."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """The recording of one call, as its record tells of it. *number* counts the order's recorded calls from 1.

    *until* is None while nothing deletes it by time; *sha256* is empty when it failed, and what there is of it is no evidence.
    """

    order_id: str
    number: int
    call_id: str
    gateway: str
    at: datetime
    sha256: str
    blocks: tuple[str, ...]
    duration_ms: int
    retention: Retention
    until: datetime | None
    held: bool
    deleted: bool
    path: Path

    def is_due(self, now: datetime) -> bool:
        return not self.deleted and not self.held and self.until is not None and self.until <= now


def retention_of(record: Record) -> Retention:
    """The class of everything that was recorded about an order."""
    if record.confirmation is not None:
        return "agreement"
    if not record.ended:
        return "open"
    return "refusal" if record.state in REFUSALS else "other"


def recorded(entries: Sequence[ev.Entry], days: Recordings, folder: Path) -> list[Recorded]:
    """What *entries*, the whole of a record, tell of its recordings; the files lie in *folder*."""
    record = replay(entries)
    retention = retention_of(record)
    kept_days = {"agreement": days.agreement_days, "refusal": days.refusal_days, "other": days.other_days}.get(
        retention, 0
    )
    gateways = {
        entry.event.call_id: entry.event.gateway for entry in entries if isinstance(entry.event, ev.CallStarted)
    }
    deleted = {entry.event.call_id for entry in entries if isinstance(entry.event, ev.RecordingDeleted)}
    found: dict[str, Recorded] = {}
    for entry in entries:
        event = entry.event
        if not isinstance(event, ev.RecordingKept | ev.RecordingFailed) or event.call_id in found:
            continue
        kept = event if isinstance(event, ev.RecordingKept) else None
        found[event.call_id] = Recorded(
            entry.order_id, len(found) + 1, event.call_id, gateways.get(event.call_id, ""), entry.at,
            kept.sha256 if kept else "", kept.blocks if kept else (), kept.duration_ms if kept else 0, retention,
            entry.at + timedelta(days=kept_days) if kept_days else None, record.held, event.call_id in deleted,
            path_of(folder, event.call_id),
        )  # fmt: skip
    return list(found.values())


class Archive:
    """The recordings that lie with this gateway. *now* gives aware UTC times."""

    def __init__(self, engine: Engine, settings: Settings, now: Callable[[], datetime]) -> None:
        self._engine = engine
        self._days = settings.recordings
        self._gateway = settings.gateway
        self._folder = settings.recordings_folder
        self._traces = settings.data_dir / "traces"
        self._now = now

    async def of_order(self, order_id: str) -> list[Recorded]:
        """Raises UnknownOrder, ErasedRecord."""
        return recorded(await self._engine.entries(order_id), self._days, self._folder)

    async def newest(self, orders: int) -> list[Recorded]:
        """Those of the *orders* recorded last, whichever gateway has them; what was erased is passed over."""
        rows = await self._engine.database.pool.fetch(sql("orders_with_recordings"), orders)
        found: list[Recorded] = []
        for row in rows:
            found += await self._readable(str(row["order_id"]))
        return found

    async def due(self) -> list[Recorded]:
        """What is past its time, and lies with this gateway."""
        now, last = self._now(), UUID(int=0)
        limits = [
            now - timedelta(days=days) if days else None
            for days in (self._days.agreement_days, self._days.refusal_days, self._days.other_days)
        ]
        found: list[Recorded] = []
        while True:
            rows = await self._engine.database.pool.fetch(sql("orders_with_old_recordings"), last, *limits, BATCH)
            for row in rows:
                last = row["order_id"]
                found += [one for one in await self._readable(str(last)) if one.is_due(now) and self._is_ours(one)]
            if len(rows) < BATCH:
                return found

    async def purge(self) -> list[Recorded]:
        """Delete what is past its time; returns what was deleted. One that cannot be is logged, and tried again the next time."""
        gone: list[Recorded] = []
        for one in await self.due():
            try:
                await self._delete(one, one.retention, "its time of keeping is over", due=True)
            except OSError as error:
                log.error("recording.not_deleted", call=one.call_id, error=str(error))
            except OnHold:
                continue  # placed, or the order went on, since we looked
            else:
                gone.append(one)
        if gone:
            log.info("recordings.purged", recordings=len(gone))
        await self.sweep()
        return gone

    async def delete_order(self, order_id: str, reason: str) -> list[Recorded]:
        """Delete everything that was recorded about an order, before its key is destroyed. Raises OnHold, OSError."""
        gone = [one for one in await self.of_order(order_id) if not one.deleted]
        for one in gone:
            await self._delete(one, "erased", reason)
        return gone

    async def sweep(self) -> int:
        """Let go of people who were erased: what lies here of their calls is deleted, what the engine remembers is dropped. How many
        calls there were; what cannot be deleted is logged, and tried again the next time.
        """
        await self._engine.forget_erased()
        pool, swept = self._engine.database.pool, 0
        for row in await pool.fetch(sql("erased_calls"), self._gateway):
            try:
                self._unlink(row["call_id"])
            except OSError as error:
                log.error("recording.not_deleted", call=row["call_id"], error=str(error))
            else:
                await pool.execute(sql("forget_erased_call"), self._gateway, row["call_id"])
                swept += 1
        return swept

    async def hold(self, order_id: str, by: str, reason: str) -> None:
        """Let nothing of this order be deleted. Raises OnHold when a hold is there already."""
        entries = await self._engine.entries(order_id)
        if replay(entries).held:
            [*_, placed] = [entry.event for entry in entries if isinstance(entry.event, ev.HoldPlaced)]
            raise OnHold(f"order {order_id} is on hold already, by {placed.by}: {placed.reason}")
        await self._engine.append(order_id, ev.HoldPlaced(by=by, reason=reason))

    async def release(self, order_id: str, by: str, reason: str) -> None:
        """Raises OnHold when there is no hold."""
        if not (await self._engine.record(order_id)).held:
            raise OnHold(f"order {order_id} is not on hold")
        await self._engine.append(order_id, ev.HoldReleased(by=by, reason=reason))

    async def find(self, order_id: str, number: int | None = None) -> Recorded:
        """The recording of the order's call *number*, else that of the last one that was kept. Raises NotHere."""
        calls = await self.of_order(order_id)
        wanted = [one for one in calls if (one.number == number if number is not None else one.sha256)]
        if not wanted:
            which = f"no recorded call {number}" if number is not None else "no call whose recording was kept"
            raise NotHere(f"order {order_id} has {which}; it has {len(calls)} recorded calls")
        one = wanted[-1]
        if one.deleted:
            raise NotHere(f"the recording of call {one.call_id} was deleted; record show says when and why")
        if not one.sha256:
            raise NotHere(f"the recording of call {one.call_id} failed: nothing of it is evidence")
        if not one.path.exists():
            there = "" if self._is_ours(one) else f"; gateway {one.gateway} ran the call: ask on its machine"
            raise NotHere(f"{one.path} is not there{there}")
        return one

    async def export(self, one: Recorded, file: Path, *, by: str, purpose: str, prefix: bool = False) -> int:
        """Write *one* as WAV to *file*, which nobody else may read; that it is listened to is in the record before.

        Returns how many ms were written: all; or, with *prefix*, those of a damaged recording that its hashes still prove. Raises
        BadRecording for one that is not what was kept, FileExistsError and other OSError for *file*.
        """
        key = recording_key(await self._engine.record_key(one.order_id), one.call_id)
        draft = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(draft, "wb") as wav:
            try:
                listened = ev.RecordingListened(call_id=one.call_id, by=by, purpose=purpose)
                await self._engine.append(one.order_id, listened)
                return await asyncio.to_thread(
                    write_wav, one.path, key, wav, sha256=one.sha256, blocks=one.blocks, prefix=prefix
                )
            except BaseException:
                file.unlink(missing_ok=True)  # noqa: ASYNC240 - one name
                raise

    async def keep_clean(self) -> None:
        """Purge once a day, for ever."""
        delay_s = FIRST_S
        while True:
            await asyncio.sleep(delay_s)
            try:
                await self.purge()
                delay_s = DAILY_S
            except Exception as error:  # noqa: BLE001 - whatever a lost database or disk makes of it, it is done later
                log.error("recordings.not_purged", error=repr(error))
                delay_s = AGAIN_S

    def _is_ours(self, one: Recorded) -> bool:
        return one.gateway == self._gateway or one.path.exists()

    async def _readable(self, order_id: str) -> list[Recorded]:
        """As :meth:`of_order`; nothing where the record cannot be read."""
        try:
            return await self.of_order(order_id)
        except ErasedRecord:
            return []
        except (ConsentError, LedgerError, BadRecording) as error:
            log.error("record.unreadable", order=order_id, error=str(error))
            return []

    async def _delete(self, one: Recorded, retention: str, reason: str, *, due: bool = False) -> None:
        """The file goes while the record is locked and says so: what is deleted was not on hold. Raises OnHold, OSError.

        Should the commit fail, the file is gone and the record says so the next time.
        """
        there = one.path.exists()
        event = ev.RecordingDeleted(
            call_id=one.call_id, retention=retention, reason=reason if there else f"{reason}; its file was not there"
        )
        async with self._engine.database.transaction() as connection:
            record = await self._engine.append_within(connection, one.order_id, event)
            if record.held or (due and retention_of(record) != one.retention):
                raise OnHold(f"order {one.order_id} is on hold: release it first")
            self._unlink(one.call_id)

    def _unlink(self, call_id: str) -> None:
        """Everything that lies here of a call. Raises OSError."""
        sound = path_of(self._folder, call_id)
        for path in (sound, sound.with_suffix(TORN), self._traces / f"{call_id}{TRACE}"):
            path.unlink(missing_ok=True)
