"""Sample orders, as a billing system would post them."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any

TEXTS = {
    "ko": {
        "name": "데이터 플러스 요금제",
        "function": "매월 데이터 십 기가바이트를 더 드리는 서비스입니다.",
        "how_to_use": "개통되면 자동으로 적용되어 따로 하실 일이 없습니다.",
        "how_to_ask": "고객센터 1588-0000 으로 전화해 주세요.",
        "how_to_cancel": "고객센터 1588-0000 이나 문자로 언제든지 해지하실 수 있습니다.",
        "why": "지난 석 달 동안 매월 기본 데이터를 모두 쓰고 추가 요금을 내셨습니다.",
    }
}


def sample_order(number: str, today: date, *, call: str = "inbound", age: int = 34) -> dict[str, Any]:
    """A Korean order with a promotion and no trial, starting in ten days."""
    texts = TEXTS["ko"]
    starts = today + timedelta(days=10)
    return {
        "subscriber": {"number": number, "language": "ko", "age": age, "time_zone": "Asia/Seoul"},
        "offer": {
            "id": "data-plus-10",
            "name": texts["name"],
            "price": {"amount": 39000, "currency": "KRW"},
            "period": "month",
            "billing_method": "monthly_bill",
            "starts_on": starts.isoformat(),
            "term_months": 12,
            "promotion": {
                "price": {"amount": 29000, "currency": "KRW"},
                "ends_on": (starts + timedelta(days=90)).isoformat(),
            },
            "trial": None,
            "function": texts["function"],
            "how_to_use": texts["how_to_use"],
            "how_to_ask": texts["how_to_ask"],
            "how_to_cancel": texts["how_to_cancel"],
            "needs_data": True,
        },
        "fit": {"reason": texts["why"], "phone_has_data": True},
        "dialplan": "plan-upgrade",
        "call": call,
    }
