"""The last scene: the evidence of an order is fetched from the running gateway, and verified by a file that knows nothing of it."""

from __future__ import annotations

import asyncio
import sys
from importlib.resources import as_file, files

import aiohttp

from gateway.demo.world import World

EXPORT_S, VERIFY_S = 60.0, 60.0
COMMAND = (sys.executable, "-m", "gateway.cli")


async def fetch_and_verify(world: World, order_id: str) -> tuple[str, str]:
    """The command that verifies the bundle of an order, and what it says. Raises RuntimeError when it is not valid."""
    key = (await _run(*COMMAND, "ledger", "key", "--config", str(world.config))).strip()
    bundle = world.folder / f"evidence-{order_id[:8]}.zip"
    headers, timeout = {"Authorization": f"Bearer {world.api_key}"}, aiohttp.ClientTimeout(EXPORT_S)
    async with (
        aiohttp.ClientSession(timeout=timeout, raise_for_status=True) as session,
        session.get(f"{world.api}/v1/orders/{order_id}/evidence", headers=headers) as response,
    ):
        bundle.write_bytes(await response.read())
    with as_file(files("gateway.evidence").joinpath("verify_evidence.py")) as verifier:
        said = await _run(sys.executable, "-I", str(verifier), str(bundle), "--key", key)
    return f"python verify_evidence.py {bundle} --key {key}", said


async def _run(*command: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(VERIFY_S):
            out, err = await process.communicate()
    except TimeoutError:
        process.kill()
        raise
    if process.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {(out + err).decode(errors='replace').strip()}")
    return out.decode()
