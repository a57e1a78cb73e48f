"""Evidence bundles, as files: everything of one order, verifiable by anybody, offline."""

from __future__ import annotations

import asyncio

import structlog
from aiohttp import web
from pydantic import Field

from gateway.engine import Engine
from gateway.evidence.bundle import Exporter
from gateway.evidence.errors import NotExported
from gateway.web.orders import own_order
from gateway.web.problems import Refused
from gateway.web.routes import Answer, Asked, Call, Header, Route

log = structlog.get_logger(__name__)
ZIP = "application/zip"
PIECE = 262_144


class EvidenceQuery(Asked):
    purpose: str = Field(
        "asked for by API",
        min_length=2,
        max_length=200,
        pattern=r"^[^\x00-\x1f]*$",
        description="why; kept in the record",
    )


class Evidence:
    """*exporter*: None where there is nothing to make bundles of."""

    def __init__(self, engine: Engine, exporter: Exporter | None) -> None:
        self._engine = engine
        self._exporter = exporter

    def routes(self) -> list[Route]:
        return [
            Route(
                "GET", "/v1/orders/{order_id}/evidence", self.export, "exportEvidence", "The evidence bundle of an order", "evidence",
                {200: Answer("a ZIP file", media=ZIP, headers=(Header("Content-Disposition", "the name of the file"),))},
                description="Events with their proofs, recordings, prompts, messages, deliveries and the agreement. It is verified by the "
                "file `verify_evidence.py` inside it. Every export is an event of the record.",
                scope="evidence:read", query=EvidenceQuery, head=False,
                errors={404: "there is no such order of yours", 503: "the bundle cannot be made now"},
            ),
        ]  # fmt: skip

    async def export(self, call: Call) -> web.StreamResponse:
        order_id = await own_order(self._engine, call)
        if self._exporter is None:
            raise Refused(503, "no evidence is made here")
        by, purpose = f"{call.tenant}/{call.by.key_id} by API", call.wanted(EvidenceQuery).purpose
        answer = web.StreamResponse(
            headers={
                "Content-Type": ZIP,
                "Content-Disposition": f'attachment; filename="evidence-{order_id}.zip"',
            }
        )
        try:
            async with self._exporter.exported(order_id, by=by, purpose=purpose) as bundle:
                answer.content_length = bundle.octets
                await answer.prepare(call.request)
                with await asyncio.to_thread(bundle.path.open, "rb") as file:
                    while piece := await asyncio.to_thread(file.read, PIECE):
                        await answer.write(piece)
        except NotExported as error:
            log.error("evidence.not_exported", order=order_id, error=str(error))
            raise Refused(503, "the bundle cannot be made now; the gateway's log says why") from error
        await answer.write_eof()
        return answer
