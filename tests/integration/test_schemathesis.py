"""The whole API, fuzzed from its own document by schemathesis, against a real server, engine and database.

schemathesis runs as a process of its own: its pytest plugin would load into every other test as well.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from api_server import KEYS, serving

from gateway.store.database import Database

CONFIG = Path(__file__).parent.parent / "schemathesis.toml"
EXAMPLES = 8
TIMEOUT_S = 600


async def test_nothing_that_the_document_allows_or_forbids_is_answered_wrongly(
    database: Database, tmp_path: Path
) -> None:
    async with serving(database, data_dir=tmp_path / "data", rates=(100_000.0, 100_000)) as server:
        await server.confirmed()
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "schemathesis.cli", "--config-file", str(CONFIG), "run", f"{server.url}/v1/openapi.json",
            "--header", f"Authorization: Bearer {KEYS['billing']}", "--checks", "all", "--seed", "1",
            "--max-examples", str(EXAMPLES), "--suppress-health-check", "all", "--continue-on-failure", "--no-color",
            cwd=tmp_path, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        try:
            told, _ = await asyncio.wait_for(process.communicate(), TIMEOUT_S)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        assert 0 == process.returncode, told.decode(errors="replace")
        _, described = await server.send("GET", "/v1/openapi.json", key=None)
        operations = (
            sum(len(methods) for methods in described["paths"].values()) - 1
        )  # the document itself is not fuzzed
        assert f"Tested: {operations}" in told.decode(errors="replace"), told.decode(errors="replace")
