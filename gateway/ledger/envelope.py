"""The envelope of an event: what is hashed, chained and stored. Canonical JSON (RFC 8785) with a sealed payload.

Its hash is over the sealed octets, so the chain holds when nobody can open them any more. Place, time and type stand outside:
the database checks by them what it must without the key.
"""

from __future__ import annotations

import base64
import json
from typing import Any

from gateway.consent.canonical import canonical, digest
from gateway.consent.events import Entry
from gateway.ledger.errors import Unsealable
from gateway.ledger.sealing import seal, unseal


def close(entry: Entry, previous: str, key: bytes) -> tuple[str, Entry]:
    """The envelope of *entry*, which follows the event of hash *previous* (empty for the first), and the entry with its hash."""
    facts = entry.model_dump(mode="json", include={"order_id", "seq", "event_id", "at"})
    payload = seal(
        key, canonical(entry.event.model_dump(mode="json")), _place(entry.order_id, entry.seq, entry.event.type)
    )
    body = canonical(
        facts | {"type": entry.event.type, "previous": previous, "payload": base64.b64encode(payload).decode()}
    )
    return body.decode(), entry.model_copy(update={"hash": digest(body)})


def open_envelope(envelope: str, key: bytes) -> tuple[Entry, str]:
    """The entry in *envelope* with its hash, and the hash that it follows. Raises Unsealable."""
    try:
        body: dict[str, Any] = json.loads(envelope)
        facts, previous = {name: body[name] for name in ("order_id", "seq", "event_id", "at")}, str(body["previous"])
        plain = open_payload(body, key)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise Unsealable(f"the envelope cannot be read: {error!r}") from error
    what = f"what is sealed in event {body['seq']} of order {body['order_id']}"
    try:
        entry = Entry.model_validate(facts | {"event": json.loads(plain), "hash": digest(envelope.encode())})
    except (ValueError, RecursionError):  # the words of the error would be the subscriber's
        raise Unsealable(f"{what} is no event that this version knows") from None
    if entry.event.type != body["type"]:
        raise Unsealable(f"{what} is of type {entry.event.type}, not {body['type']}")
    return entry, previous


def open_payload(body: dict[str, Any], key: bytes) -> bytes:
    """The event in an envelope of members *body*, as canonical JSON. Raises Unsealable, and ValueError, KeyError or TypeError for a
    body that is none.
    """
    place = _place(body["order_id"], body["seq"], body["type"])
    return unseal(key, base64.b64decode(body["payload"], validate=True), place)


def _place(order_id: str, seq: int, kind: str) -> bytes:
    """What binds a payload to its place."""
    return f"{order_id}/{seq}/{kind}".encode()
