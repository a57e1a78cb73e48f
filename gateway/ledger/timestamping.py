"""Time stamps of checkpoints (RFC 3161): somebody else says when a checkpoint was there. An extra: ``consent-gateway[timestamps]``."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography import x509

from gateway.ledger.errors import BadTimestamp

if TYPE_CHECKING:
    from rfc3161_client import TimeStampRequest, VerifierBuilder

QUERY_TYPE, REPLY_TYPE = "application/timestamp-query", "application/timestamp-reply"
GRANTED = 0
"""PKIStatus of an answer that holds what was asked for (RFC 3161 §2.4.2)."""


@dataclass(frozen=True, slots=True)
class Stamp:
    """*token*: the authority's whole answer (DER). *at*: the time that it vouches for."""

    token: bytes
    at: datetime


class Question:
    """What an authority is asked about *data*, and whether an answer is to that question."""

    def __init__(self, data: bytes) -> None:
        from rfc3161_client import HashAlgorithm, TimestampRequestBuilder  # noqa: PLC0415 - an extra

        self._data = data
        self._request: TimeStampRequest = (
            TimestampRequestBuilder().data(data).hash_algorithm(HashAlgorithm.SHA256).build()
        )

    @property
    def query(self) -> bytes:
        """DER, to be posted as :data:`QUERY_TYPE`."""
        return self._request.as_bytes()

    def check(self, answer: bytes, roots: list[x509.Certificate]) -> Stamp:
        """The stamp in *answer*, which is to this question and no other, signed by a certificate that one of *roots* vouches for.
        Raises BadTimestamp.
        """
        from rfc3161_client import VerifierBuilder  # noqa: PLC0415

        return _check(VerifierBuilder.from_request(self._request), answer, self._data, roots)


def check_token(token: bytes, data: bytes, roots: list[x509.Certificate]) -> Stamp:
    """What a *token* that was kept says of *data*; nobody remembers the question any more. Raises BadTimestamp."""
    from rfc3161_client import VerifierBuilder  # noqa: PLC0415

    return _check(VerifierBuilder(), token, data, roots)


def read_roots(file: Path) -> list[x509.Certificate]:
    """The certificates in a PEM file, each once. Raises OSError, BadTimestamp."""
    try:
        return list(dict.fromkeys(x509.load_pem_x509_certificates(file.read_bytes())))
    except ValueError as error:
        raise BadTimestamp(f"{file}: no PEM file of certificates: {error}") from error


def _check(builder: VerifierBuilder, answer: bytes, data: bytes, roots: list[x509.Certificate]) -> Stamp:
    from rfc3161_client import VerificationError, decode_timestamp_response  # noqa: PLC0415

    try:
        response = decode_timestamp_response(answer)
        if response.status != GRANTED:
            said = "; ".join(response.status_string) or "no reason given"
            raise BadTimestamp(f"the time-stamping authority refuses with status {response.status}: {said}")
        for root in roots:
            builder = builder.add_root_certificate(root)
        builder.build().verify_message(response, data)
    except (ValueError, VerificationError) as error:
        raise BadTimestamp(f"the time-stamping authority's answer is no proof: {error}") from error
    return Stamp(answer, response.tst_info.gen_time)
