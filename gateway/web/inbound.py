"""What comes in from aggregators: subscribers' replies, signed in the scheme of Standard Webhooks."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gateway.consent.errors import Fault
from gateway.consent.order import normalise_number
from gateway.engine import Engine
from gateway.web.gate import read_octets
from gateway.web.problems import Refused, faults_of
from gateway.web.routes import Answer, Call, Header, Route, Told, answer, example

LONGEST_TEXT = 2000
TITLE = "the message does not fit the schema"
Verify = Callable[[Mapping[str, str], bytes], bool]


class InboundSms(BaseModel):
    """A subscriber's message, as the aggregator forwards it. What else it sends along is not looked at."""

    model_config = ConfigDict(
        extra="ignore", populate_by_name=True,
        json_schema_extra=example({"from": "+821012345678", "text": "code 123456", "message_id": "a1b2"}),
    )  # fmt: skip

    number: str = Field(alias="from", max_length=32)
    text: str = Field(max_length=LONGEST_TEXT)
    message_id: str = Field(min_length=1, max_length=128, pattern=r"^[^\x00]*$")


class TakenSms(Told):
    """*result*: ``taken``, ``repeated`` or ``unknown_number``."""

    result: str


class Inbound:
    """*verify* checks a message's signature; without it nothing is taken."""

    def __init__(self, engine: Engine, verify: Verify | None, region: str | None) -> None:
        self._engine = engine
        self._verify = verify
        self._region = region

    def routes(self) -> list[Route]:
        signed = "Standard Webhooks; the key is `sms.inbound_secret`"
        return [
            Route(
                "POST", "/v1/sms/inbound", self.take, "takeMessage", "Forward a subscriber's SMS", "messages",
                {200: Answer("what became of it", TakenSms)},
                description="For the SMS aggregator. `message_id` makes a repeated delivery harmless.",
                body=InboundSms, noun="message", unread=True,
                headers=(
                    Header("webhook-id", signed), Header("webhook-timestamp", "seconds since 1970"),
                    Header("webhook-signature", "v1,base64"),
                ),
                errors={401: "the signature is not right, or too old", 404: "inbound SMS is off"},
            ),
        ]  # fmt: skip

    async def take(self, call: Call) -> web.StreamResponse:
        body = await read_octets(call.request)
        if self._verify is None:
            raise Refused(404, "inbound SMS is off: set sms.inbound_secret")
        if not self._verify(call.request.headers, body):
            raise Refused(401, "the signature is not right, or its timestamp is older than five minutes")
        try:
            message = InboundSms.model_validate_json(body)
            number = normalise_number(message.number, self._region)
        except ValidationError as error:
            raise Refused(422, TITLE, faults_of(error)) from error
        except ValueError as error:
            raise Refused(422, TITLE, [Fault("from", str(error))]) from error
        taken = await self._engine.take_message("http", message.message_id, number, message.text)
        return answer(TakenSms(result=taken.result))
