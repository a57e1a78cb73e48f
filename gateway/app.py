"""Puts the parts together: one process that is the gateway, from the database up and down again."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import random
import time
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import Self

import aiohttp
import structlog
from aiohttp import web
from prometheus_client import REGISTRY

from gateway.calls import Calls
from gateway.consent.order import Language, normalise_number
from gateway.consent.record import Record
from gateway.deliveries import Deliveries
from gateway.effects import Effects
from gateway.engine import Engine
from gateway.evidence.bundle import Exporter, library_of
from gateway.house import House
from gateway.lost_calls import close_lost_calls
from gateway.measure.canary import check_canaries
from gateway.metrics import DeliveryMetrics, TelephonyMetrics
from gateway.notary import Notary
from gateway.provisioning.delivery import Poster
from gateway.provisioning.guard import Guard
from gateway.provisioning.signature import read_secret, verify
from gateway.retention import Archive
from gateway.secret_files import code_secret, keyring
from gateway.settings import Settings
from gateway.settings_sections import split_host_port
from gateway.sms.channel import SmsChannel
from gateway.sms.http import HttpSms
from gateway.sms.sip_message import SipMessageSms
from gateway.speech.errors import SpeechError
from gateway.speech.listener import Listener
from gateway.speech.prompts import PromptStore
from gateway.store.database import Database, claim_name
from gateway.store.jobs import JobRunner
from gateway.switchboard import Switchboard, open_switchboard
from gateway.telephony.agent import UserAgent
from gateway.telephony.errors import BadMessage, CallFailed, TelephonyError
from gateway.web.api import Api, Offered
from gateway.web.door import open_door
from gateway.webhooks import endpoints_of, subscriptions_of

log = structlog.get_logger(__name__)


def utc_now() -> datetime:
    return datetime.now(UTC)


class Gateway:
    """``async with Gateway(settings, house, dsn) as gateway: await gateway.serve(stop)``."""

    def __init__(self, settings: Settings, house: House, dsn: str) -> None:
        self.settings = settings
        self.house = house
        self._dsn = dsn
        self._stack = AsyncExitStack()
        self.agent: UserAgent
        self.calls: Calls
        self.engine: Engine
        self.api_port = 0

    async def __aenter__(self) -> Self:
        try:
            await self._open()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def serve(self, stop: asyncio.Event) -> None:
        """Work until *stop* is set, then take no new calls, let the running ones end, and hang up on the rest."""
        await stop.wait()
        log.info("gateway.draining", calls=len(self.calls))
        try:
            await self.calls.drain(self.settings.drain_s)
        finally:
            await self.calls.hang_up()

    async def _open(self) -> None:
        settings, push = self.settings, self._stack.push_async_callback
        database = await Database.open(self._dsn)
        push(database.close)
        self.engine = Engine(
            database,
            policy=settings.policy.policy(),
            secret=code_secret(settings),
            keyring=keyring(settings),
            gateway=settings.gateway,
            now=utc_now,
            subscriptions=subscriptions_of(settings),
        )
        await self.engine.check_keyring()
        push((await claim_name(self._dsn, settings.gateway)).close)
        await close_lost_calls(self.engine, settings.recordings_folder)
        prompts = PromptStore(settings.data_dir / "cache" / "prompts", self.house.prompts_folder)
        push(prompts.stop)
        await self._start_listeners()
        await prompts.prepare(self.house.greeting(language) for language in self.house.packs)
        board = await self._stack.enter_async_context(open_switchboard(settings))
        self.agent = board.agent
        metrics = TelephonyMetrics(board)
        REGISTRY.register(metrics)
        self._stack.callback(REGISTRY.unregister, metrics)
        session = await self._stack.enter_async_context(aiohttp.ClientSession())
        self.calls = Calls(
            self.agent, self.engine, self.house, prompts, board.lines, board.destinations,
            region=settings.sip.default_region, transfer_targets=settings.transfer,
        )  # fmt: skip
        purging = asyncio.create_task(Archive(self.engine, settings, utc_now).keep_clean())
        self._stack.callback(purging.cancel)
        notary = asyncio.create_task(Notary(database, self.engine.keyring, settings.ledger, utc_now).keep_current())
        self._stack.callback(notary.cancel)
        sms = self._sms(session, board)
        deliveries = await self._deliveries()
        effects = Effects(self.engine, self.house, self.calls, sms, deliveries, most_calls=settings.sip.most_calls)
        runner = JobRunner(database, effects.kinds(), settings.gateway)
        await runner.start()
        push(runner.stop)
        self.agent.on_invite = self.calls.on_invite
        self.agent.on_message = self._on_message
        await self._start_api(board)
        gc.freeze()  # what is here now stays: a full collection must not hold up the media clock
        log.info("gateway.ready", sip=self.agent.port, api=self.api_port, languages=sorted(self.house.listeners))

    async def _deliveries(self) -> Deliveries:
        settings = self.settings
        poster = await self._stack.enter_async_context(Poster(Guard(settings.provisioning.allowed_networks)))
        deliveries = Deliveries(
            self.engine, endpoints_of(settings), poster,
            now=utc_now, random=random.random, jitter=settings.provisioning.jitter,
        )  # fmt: skip
        metrics = DeliveryMetrics(deliveries)
        REGISTRY.register(metrics)
        self._stack.callback(REGISTRY.unregister, metrics)
        return deliveries

    async def _start_listeners(self) -> None:
        async def start(language: Language, spec: str) -> None:
            listener = Listener(spec, self.house.packs[language].grammars, self.settings.speech.workers)
            self._stack.push_async_callback(listener.stop)
            await listener.start()
            await check_canaries(listener, self.house.packs[language], self.house.prompts_folder)
            self.house.listeners[language] = listener

        began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for language, spec in self.settings.speech.models.items():
                group.create_task(start(language, spec))
        log.info("speech.ready", languages=sorted(self.house.listeners), seconds=round(time.monotonic() - began, 1))

    async def _start_api(self, board: Switchboard) -> None:
        settings = self.settings
        keys = {hashlib.sha256(t.api_key.get_secret_value().encode()).digest(): t.id for t in settings.tenants}
        secret = settings.sms.inbound_secret.get_secret_value()
        key = read_secret(secret) if secret else None
        offered = Offered(self.house.dialplans, frozenset(self.house.listeners))
        library = library_of(settings)
        await asyncio.to_thread(library.tidy)
        await asyncio.to_thread(library.keep_dialplans)
        api = Api(
            self.engine, offered, self._dial, keys,
            (lambda headers, body: verify(key, headers, body, time.time())) if key else None,
            region=settings.sip.default_region, unready=lambda: _unready(board),
            rates=(settings.api.rate, settings.api.burst), now=utc_now, proxies=settings.api.proxies,
            exporter=Exporter(self.engine, library, utc_now),
        )  # fmt: skip
        runner = web.AppRunner(api.application(), access_log=None)
        await runner.setup()
        self._stack.push_async_callback(runner.cleanup)
        host, port = split_host_port(settings.api.bind)
        assert runner.server is not None, "it was set up"
        door = await open_door(runner.server, host, port)
        self._stack.callback(door.close)
        self.api_port = int(door.sockets[0].getsockname()[1])

    async def _dial(self, record: Record, target: str | None) -> str:
        try:
            return await self.calls.dial(record, target)
        except BadMessage as error:
            raise web.HTTPUnprocessableEntity(reason=_one_line(error)) from error
        except (TelephonyError, SpeechError) as error:
            raise web.HTTPServiceUnavailable(reason=_one_line(error)) from error

    def _sms(self, session: aiohttp.ClientSession, board: Switchboard) -> SmsChannel | None:
        settings = self.settings.sms
        if settings.channel == "http" and settings.http is not None:
            http = settings.http
            return HttpSms(
                session,
                http.url,
                encoding=http.encoding,
                headers=http.headers,
                body=http.body,
                message_id=http.message_id,
            )
        if settings.channel != "sip":
            return None
        line = next((line for line in board.lines if line.name == settings.line), None)

        async def send(number: str, text: str) -> int:
            binding = board.registrar.find(number)
            if binding is None and line is None:
                return 480
            target = binding.contact if binding is not None else line.uri(number) if line is not None else ""
            try:
                response = await self.agent.request(
                    "MESSAGE", target, from_user=line.from_user if line else "gateway",
                    headers={"Content-Type": "text/plain; charset=utf-8"}, body=text.encode(),
                    credentials=line.credentials if line and binding is None else None,
                    hop=binding.flow if binding is not None else None,
                )  # fmt: skip
            except CallFailed as error:
                return error.status
            return response.status_code

        return SipMessageSms(send)

    async def _on_message(self, number: str, text: str, message_id: str) -> None:
        try:
            normal = normalise_number(number, self.settings.sip.default_region)
        except ValueError:
            log.info("reply.no_number", channel="sip")
            return
        await self.engine.take_message("sip", message_id, normal, text)


def _one_line(error: Exception) -> str:
    """What an HTTP reason may hold."""
    return " ".join(str(error).split())[:200]


def _unready(board: Switchboard) -> str:
    """Why no new calls should be sent here; empty when they may come."""
    if board.agent.draining:
        return "draining"
    if board.lines and not any(state.up for line in board.lines for state in line.route.states()):
        return "every peer of every line is down"
    return ""
