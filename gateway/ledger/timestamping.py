"""Time stamps of checkpoints (RFC 3161): somebody else says when a checkpoint was there. An extra: ``consent-gateway[timestamps]``."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography import x509

from gateway.ledger.errors import BadTimestamp

if TYPE_CHECKING:
    from rfc3161_client import TimeStampRequest

QUERY_TYPE, REPLY_TYPE = "application/timestamp-query", "application/timestamp-reply"


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
        """The stamp in *answer*, signed by a certificate that one of *roots* vouches for. Raises BadTimestamp."""
        from rfc3161_client import VerificationError, VerifierBuilder, decode_timestamp_response  # noqa: PLC0415

        try:
            response = decode_timestamp_response(answer)
            builder = VerifierBuilder.from_request(self._request)
            for root in roots:
                builder = builder.add_root_certificate(root)
            builder.build().verify_message(response, self._data)
        except (ValueError, VerificationError) as error:
            raise BadTimestamp(f"the time-stamping authority's answer is no proof: {error}") from error
        return Stamp(answer, response.tst_info.gen_time)


def read_roots(file: Path) -> list[x509.Certificate]:
    """The certificates in a PEM file. Raises OSError, BadTimestamp."""
    try:
        return x509.load_pem_x509_certificates(file.read_bytes())
    except ValueError as error:
        raise BadTimestamp(f"{file}: no PEM file of certificates: {error}") from error
