"""Evidence bundles of which one bit is another: thousands, one at a time, over every member and every octet of the container.

Three hands do it. A stranger's flip is caught by the container. One that mends the container, by the manifest. And the holder of the
ledger's key himself, who signs what he has changed, is caught by what the events say, wherever they say something.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from bundles import fault, forged, members_of, packed, pressed, scene, vkey

from gateway.evidence import verify_evidence as evidence

SMALL = 1500
"""Members of up to so many octets are flipped in every octet."""

SAMPLE = 120
"""Flips in a larger one."""

LEAST = 4000
BOUND = (
    "dialplan.json", "events.jsonl", "keys.json", "ledger/checkpoint", "ledger/first-checkpoint", "ledger/key.pem",
    "ledger/key.txt", "ledger/proofs.json", "messages.json", "record.json", "transcript.json", "transcript.txt",
)  # fmt: skip
"""What the events, or the ledger's key, settle to the last bit, beside prompts and recordings."""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """That of a confirmed order with a call of 41 s."""
    stage = scene(tmp_path_factory.mktemp("flips"))
    made = pressed(stage, stage.confirmed())
    assert ("", "valid") == fault(made, vkey())
    return made


def places(length: int, dice: random.Random) -> Iterator[int]:
    """Which octets of a member are flipped: all of a small one; of a large one both ends, and some between."""
    if length <= SMALL:
        yield from range(length)
    else:
        yield from {0, 1, 43, 44, length - 1, *dice.sample(range(length), SAMPLE)}


def spans(bundle: bytes) -> dict[str, tuple[int, int]]:
    """Where each member's content lies in the file."""
    found: dict[str, tuple[int, int]] = {}
    at = 0
    for name, content in evidence.unpack(bundle).items():
        begin = at + len(evidence.local_header(name, 0, 0))
        at = begin + len(content)
        found[name] = begin, at
    return found


def flip(octets: bytes, place: int, dice: random.Random) -> bytes:
    return octets[:place] + bytes([octets[place] ^ 1 << dice.randrange(8)]) + octets[place + 1 :]


def test_every_flip_in_a_file_is_caught(bundle: bytes) -> None:
    """At least four thousand, among them every octet of the headers and of the directory."""
    dice = random.Random(1)
    content = spans(bundle)
    wanted = [(begin + place, name) for name, (begin, end) in content.items() for place in places(end - begin, dice)]
    inside = {place for begin, end in content.values() for place in range(begin, end)}
    wanted += [(place, "") for place in range(len(bundle)) if place not in inside]
    assert len(wanted) >= LEAST
    file = bytearray(bundle)
    for place, name in wanted:
        bit = 1 << dice.randrange(8)
        file[place] ^= bit
        member, reason = fault(bytes(file))
        assert reason != "valid", (place, name)
        assert not name or member == name, (place, name, member, reason)
        file[place] ^= bit
    assert bytes(file) == bundle


def test_every_flip_behind_a_mended_container_is_caught(bundle: bytes) -> None:
    """The checksums of the ZIP fit again; the manifest, or its signature, does not."""
    dice = random.Random(2)
    members = members_of(bundle)
    flips = 0
    for name, content in members.items():
        for place in dice.sample(range(len(content)), min(len(content), 40)):
            file = packed({**members, name: flip(content, place, dice)})
            assert fault(file)[1] != "valid", (name, place)
            flips += 1
    assert flips >= 1000


def bound(members: dict[str, bytes]) -> Iterator[str]:
    yield from (name for name in members if name in BOUND or Path(name).suffix == ".wav")


def test_every_flip_by_the_holder_of_the_key_is_caught_where_the_events_speak(bundle: bytes) -> None:
    """He mends the manifest as well, and signs it."""
    dice = random.Random(3)
    members = members_of(bundle)
    flipped = set(bound(members))
    assert {*BOUND, *(name for name in members if name.endswith(".wav"))} == flipped
    for name in sorted(flipped):
        for place in dice.sample(range(len(members[name])), 30 if name in BOUND else 8):

            def change(found: dict[str, bytes], name: str = name, place: int = place) -> None:
                found[name] = flip(found[name], place, dice)

            assert fault(forged(bundle, change), vkey())[1] != "valid", (name, place)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.9, 0.999])
def test_a_cut_file_is_caught(bundle: bytes, share: float) -> None:
    member, reason = fault(bundle[: int(len(bundle) * share)])
    assert ("the ZIP container", True) == (member, "cut off" in reason)


def test_octets_added_anywhere_are_caught(bundle: bytes) -> None:
    dice = random.Random(4)
    for place in [0, len(bundle), *dice.sample(range(len(bundle)), 100)]:
        assert fault(bundle[:place] + b"\0" + bundle[place:])[1] != "valid", place
