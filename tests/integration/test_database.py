"""The pool and its role."""

from __future__ import annotations

from gateway.store.database import Database


async def test_the_application_never_acts_as_the_owner(database: Database) -> None:
    assert "consent_app" == await database.pool.fetchval("SELECT current_user")
