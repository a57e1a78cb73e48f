"""Runs the effects that events caused: prompts, calls, timers, messages, webhooks. Each may be run more than once."""

from __future__ import annotations

import structlog

from gateway.calls import Calls
from gateway.consent import events as ev
from gateway.consent.record import replay
from gateway.deliveries import JOB, MOST_AT_ONCE, Deliveries
from gateway.engine import Engine
from gateway.house import House
from gateway.provisioning.schedule import RETRY_DELAYS_S
from gateway.sms.channel import SmsChannel
from gateway.sms.errors import SmsError, SmsRejected
from gateway.speech.errors import SpeechError
from gateway.store.jobs import Job, Kind, Retry
from gateway.telephony.errors import CallFailed

log = structlog.get_logger(__name__)
SMS_DELAYS_S = (2.0, 10.0, 60.0, 300.0, 1800.0)
BUSY_LINE_S = 5.0
PLACE_CALL_DELAYS_S = (5.0, 30.0, 120.0)
MASKED_CODE = "······"


class Effects:
    def __init__(
        self,
        engine: Engine,
        house: House,
        calls: Calls,
        sms: SmsChannel | None,
        deliveries: Deliveries,
        *,
        most_calls: int,
    ) -> None:
        self._engine = engine
        self._house = house
        self._calls = calls
        self._sms = sms
        self._deliveries = deliveries
        self._most_calls = most_calls

    def kinds(self) -> dict[str, Kind]:
        """What the job runner is given."""
        return {
            "render_prompts": Kind(self.render_prompts, backoff_s=(1.0, 5.0, 30.0), most=1),
            "place_call": Kind(self.place_call, backoff_s=PLACE_CALL_DELAYS_S, most=10),
            "expire_challenge": Kind(self.expire_challenge, backoff_s=(1.0, 10.0, 60.0), most=10),
            "send_sms": Kind(self.send_sms, backoff_s=SMS_DELAYS_S, most=10),
            JOB: Kind(self._deliveries.attempt, backoff_s=RETRY_DELAYS_S, most=MOST_AT_ONCE),
        }

    async def render_prompts(self, job: Job) -> None:
        record = await self._engine.record(job.payload["order_id"])
        if not record.ended and record.order.dialplan.name in self._house.dialplans:
            await self._calls.prepare(record)

    async def place_call(self, job: Job) -> None:
        """Begin the call; it goes on after the job. A job run twice finds the attempt made."""
        record = await self._engine.record(job.payload["order_id"])
        if not record.may_be_called or record.calls >= job.payload["attempt"]:
            return
        if self._calls.draining or len(self._calls) >= self._most_calls:
            raise Retry(BUSY_LINE_S, "every line is busy, or the gateway is stopping", counted=False)
        try:
            await self._calls.dial(record)
        except (CallFailed, SpeechError, TimeoutError) as error:
            if isinstance(error, CallFailed) and error.status == 486:  # somebody else was quicker
                return
            if job.attempt <= len(PLACE_CALL_DELAYS_S):
                raise
            await self._calls.note_failed(record, str(error))

    async def expire_challenge(self, job: Job) -> None:
        await self._engine.append(
            job.payload["order_id"], ev.ChallengeExpired(challenge_id=job.payload["challenge_id"])
        )

    async def send_sms(self, job: Job) -> None:
        kind: ev.SmsKind = job.payload["kind"]
        reference: str = job.payload["event_id"]
        entries = await self._engine.entries(job.payload["order_id"])
        if any(isinstance(e.event, ev.SmsSent | ev.SmsFailed) and e.event.reference == reference for e in entries):
            return  # the gateway ended between that and the end of the job
        record = replay(entries)
        order, channel = record.order, self._sms.name if self._sms is not None else "none"

        async def fail(error: str) -> None:
            failed = ev.SmsFailed(kind=kind, channel=channel, error=error, reference=reference)
            await self._engine.append(order.order_id, failed)

        if kind == "challenge" and record.state != "challenged":
            if job.attempt > 1:  # nobody knows what came of the attempt before
                await fail(f"no longer wanted, the order is {record.state}; an earlier attempt may have arrived")
            return
        pack, operator = self._house.packs[order.subscriber.language], self._house.operator
        tries_left, ttl_s = job.payload["tries_left"], record.limits.code_ttl_s

        def text(code: str) -> str:
            return pack.written(kind, order, operator, code=code, tries_left=tries_left, ttl_s=ttl_s)

        if self._sms is None:
            await fail("sms.channel is none")
            return
        try:
            message_id = await self._sms.send(order.subscriber.number, text(self._engine.code(record)), reference)
        except SmsError as error:
            final = isinstance(error, SmsRejected) or job.attempt > len(SMS_DELAYS_S)
            if final:
                await fail(str(error))
                log.error("sms.failed", order=order.order_id, kind=kind, error=str(error))
                return
            log.warning("sms.undelivered", order=order.order_id, kind=kind, error=str(error))
            raise Retry(SMS_DELAYS_S[job.attempt - 1], str(error)) from error
        sent = ev.SmsSent(
            kind=kind, channel=channel, message_id=message_id, text=text(MASKED_CODE), reference=reference
        )
        await self._engine.append(order.order_id, sent)
