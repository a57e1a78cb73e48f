"""The audit: who asked for what, when, from where, and what the answer was."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from aiohttp import web
from pydantic import Field

from gateway.store.database import Database, sql
from gateway.web.fields import Moment, after, cursor_of
from gateway.web.routes import Answer, Call, Page, Route, Stamp, Told, answer


class AuditQuery(Page):
    key_id: Annotated[str, Field(pattern=r"^([0-9a-f]{12}|settings)$")] | None = Field(
        None, description="only what this key asked for; `settings` is the key of the settings"
    )
    since: Moment | None = Field(None, description="at this time or later (RFC 3339)")
    until: Moment | None = Field(None, description="before this time (RFC 3339)")


class AuditEntry(Told):
    """One request. *route* is the template of its path: no number and no body is ever kept here."""

    at: Stamp
    key_id: str | None
    method: str
    route: str
    order_id: UUID | None
    status: int
    remote: str


class AuditPage(Told):
    entries: list[AuditEntry]
    next: str | None


class Audit:
    def __init__(self, database: Database) -> None:
        self._database = database

    def routes(self) -> list[Route]:
        return [
            Route(
                "GET", "/v1/audit", self.page, "listAudit", "Who asked for what with your keys", "audit",
                {200: Answer("one page, the newest first", AuditPage)},
                description="Refused requests are among them, as far as they named a key of yours.", scope="audit:read", query=AuditQuery,
            ),
        ]  # fmt: skip

    async def page(self, call: Call) -> web.StreamResponse:
        wanted = call.wanted(AuditQuery)
        (last,) = after(wanted.cursor, int)
        rows = await self._database.pool.fetch(
            sql("page_of_audit"), call.tenant, wanted.key_id, wanted.since, wanted.until, last, wanted.limit + 1
        )
        shown = rows[: wanted.limit]
        following = cursor_of(shown[-1]["audit_id"]) if len(rows) > wanted.limit else None
        entries = [AuditEntry.model_validate({name: row[name] for name in AuditEntry.model_fields}) for row in shown]
        return answer(AuditPage(entries=entries, next=following))
