"""Writes the container of a bundle: a ZIP in one form only, so that the same members always give the same octets.

Members are stored in the order of their names, without dates or extra fields. Reading and checking it is the affair of
:mod:`gateway.evidence.verify_evidence` alone, whose headers these are.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import BinaryIO

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.evidence import verify_evidence as evidence
from gateway.evidence.errors import NotExported


def signed_members(
    members: Mapping[str, bytes], signer: Ed25519PrivateKey, *,
    order_id: str, state: str, exported_at: str, missing: Mapping[str, str],
) -> dict[str, bytes]:  # fmt: skip
    """*members* with their manifest, and *signer*'s signature of it."""
    manifest = evidence.canonical(
        {
            "exported_at": exported_at,
            "format": evidence.FORMAT,
            "members": {
                name: {"length": len(content), "sha256": evidence.sha256(content)} for name, content in members.items()
            },
            "missing": dict(missing),
            "order_id": order_id,
            "state": state,
        }
    )
    return {**members, evidence.MANIFEST: manifest, evidence.SIGNATURE: signer.sign(manifest)}


def write(members: Mapping[str, bytes], file: BinaryIO) -> None:
    """Write *members* as a ZIP. Raises NotExported for more than a bundle can hold, and OSError."""
    directory, at = b"", 0
    if sum(map(len, members.values())) > evidence.MOST_OCTETS or len(members) > evidence.MOST_MEMBERS:
        raise NotExported(
            f"the bundle would hold more than {evidence.MOST_OCTETS >> 20} MiB, or more than {evidence.MOST_MEMBERS} members"
        )
    for name in sorted(members):
        content = members[name]
        crc = zlib.crc32(content)
        header = evidence.local_header(name, crc, len(content))
        file.write(header)
        file.write(content)
        directory += evidence.central_header(name, crc, len(content), at)
        at += len(header) + len(content)
    file.write(directory + evidence.end_record(len(members), len(directory), at))
