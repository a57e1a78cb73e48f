"""Bundles whose events are all right, and whose other members say something else."""

from __future__ import annotations

import json

import pytest
from bundles import fault, forged, pressed, scene, vkey

from gateway.consent import events as ev
from gateway.evidence import verify_evidence as evidence


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    return scene(tmp_path_factory.mktemp("stage"))


@pytest.fixture(scope="module")
def bundle(stage):
    return pressed(stage, stage.confirmed())


def with_deliveries(bundle, change):
    def forge(members):
        said = json.loads(members["deliveries.json"])
        for one in said["deliveries"]:
            change(one)
        members["deliveries.json"] = evidence.canonical(said)

    return forged(bundle, forge)


def body_with(**data):
    def change(one):
        body = json.loads(one["body"])
        body["data"] |= data
        one["body"] = json.dumps(body)

    return change


def test_a_webhook_whose_body_is_withheld(bundle):
    assert "deliveries.json" == fault(with_deliveries(bundle, lambda one: one.update(body=None)))[0]


def test_a_webhook_that_bills_another_price(bundle, stage):
    offer = stage.order.offer.model_dump(mode="json")
    offer["price"]["amount"] = 999_999
    assert "deliveries.json" == fault(with_deliveries(bundle, body_with(offer=offer)))[0]


def test_a_webhook_that_bills_another_number(bundle):
    assert "deliveries.json" == fault(with_deliveries(bundle, body_with(subscriber={"number": "+821099999999"})))[0]


def test_a_webhook_that_names_no_proofs(bundle):
    assert "deliveries.json" == fault(with_deliveries(bundle, body_with(spoken_consent=None, code_reply=None)))[0]


def test_a_confirmation_posted_under_the_name_of_a_notice(stage):
    lied = [ev.DeliveryAttempted(webhook_id="w-9", attempt=1, status=200, kind="consent.refused")]
    history = list(stage.call()) + lied
    made = pressed(stage, history, state="spoken")

    def bill(one):
        one["body"] = json.dumps({"type": "consent.confirmed", "data": {"order_id": stage.order.order_id}})

    assert "deliveries.json" == fault(with_deliveries(made, bill))[0]


def manifest(**update):
    def forge(members):
        said = json.loads(members["__manifest__"])
        members["__manifest__"] = json.dumps(said | update).encode()

    return forge


@pytest.mark.parametrize("state", ["confirmed", "provisioning"])
def test_provisioned_is_called_otherwise(bundle, state):
    assert "manifest.json" == fault(forged(bundle, manifest(state=state)))[0]


@pytest.mark.parametrize("state", ["frozen", "no such state", "erased"])
def test_an_open_order_is_called_otherwise(stage, state):
    made = pressed(stage, list(stage.call()), state="spoken")
    assert "manifest.json" == fault(forged(made, manifest(state=state)))[0]


def erased(stage, *after):
    gone = ev.RecordErased(by="clerk", reason="asked to be forgotten")
    return pressed(
        stage,
        [*stage.confirmed(), gone, *after],
        state="erased",
        events_key=None,
        recordings={},
        dialplan=None,
        deliveries=[],
    )


def test_an_erased_record_called_otherwise(stage):
    assert "manifest.json" == fault(forged(erased(stage), manifest(state="provisioned")))[0]


def test_the_key_of_a_record_that_goes_on_after_its_erasure_is_withheld(stage):
    """record.erased while a hold was on it destroys nothing; what follows proves that the key was there."""
    with pytest.raises(evidence.Invalid):
        evidence.verify(erased(stage, ev.SmsSent(kind="provisioned", channel="http", message_id="m", text="x")))


def test_the_time_of_an_erasure_is_not_called_the_export(stage):
    assert not any("up to the export" in line for line in evidence.verify(erased(stage)).lines())


def test_garbage_that_holds_the_hash_is_no_time_stamp(bundle):
    def change(members):
        members["ledger/dated-checkpoint"] = members["ledger/checkpoint"]
        members["ledger/dated-checkpoint.tsr"] = b"junk" + bytes.fromhex(evidence.sha256(members["ledger/checkpoint"]))

    report = evidence.verify(forged(bundle, change), vkey())
    assert "timestamped" not in report.as_json()
    assert not any("by a time-stamping authority" in line for line in report.lines())
