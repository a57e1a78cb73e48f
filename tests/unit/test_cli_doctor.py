"""``consent-gateway doctor`` as it is typed: what it prints, what it writes, and its exit codes."""

from __future__ import annotations

import io
import json
import os
import stat
from pathlib import Path

import dpkt
import pytest
import typer
from traced_call import PEER, Call, answered, healthy
from typer.testing import CliRunner, Result

from gateway import cli_doctor
from gateway.doctor.pcap import LINKTYPE_RAW
from gateway.telephony.report import MediaReport
from gateway.telephony.trace import Trace, Tracer

GOOD, BAD = "1f0c9a52-0000-4000-8000-000000000001", "1f0c9a52-ffff-4000-8000-000000000002"


class Doctor:
    """The command with a data folder of its own, and no database anywhere."""

    def __init__(self, folder: Path) -> None:
        self.traces = folder / "var" / "traces"
        config = folder / "gateway.toml"
        config.write_text(f'data_dir = "{folder / "var"}"\n[database]\ndirectory = "{folder / "none"}"\n')
        self._config = str(config)
        self._app = typer.Typer()
        self._app.command()(cli_doctor.doctor)

    def keep(self, call_id: str, call: Call, report: MediaReport) -> Path:
        trace = Trace(call_id, tuple(call.messages), report.as_dict())
        return Tracer(self.traces, lambda: 0.0).write(trace)

    def __call__(self, *arguments: str) -> Result:
        return CliRunner().invoke(self._app, [*arguments, "--config", self._config])


@pytest.fixture
def doctor(tmp_path: Path) -> Doctor:
    doctor = Doctor(tmp_path)
    good = doctor.keep(GOOD, answered(), healthy())
    bad = doctor.keep(BAD, answered(), healthy(received_packets=0, caller_speech_ms=0))
    for age, path in enumerate((bad, good)):
        os.utime(path, (1_700_000_000 - age, 1_700_000_000 - age))
    return doctor


class TestACall:
    def test_a_good_one(self, doctor: Doctor) -> None:
        result = doctor(GOOD)
        assert 0 == result.exit_code
        assert f"call {GOOD}: nothing wrong" == result.stdout.splitlines()[0]
        assert "codec PCMA, RTP" in result.stdout
        assert "INVITE (sdp G722 PCMA PCMU)" in result.stdout

    def test_one_with_a_fault(self, doctor: Doctor) -> None:
        result = doctor(BAD)
        assert 1 == result.exit_code
        first, second = result.stdout.splitlines()[:2]
        assert f"call {BAD}: 1 fault; silent: caller" == first
        assert second.startswith("✗ no audio from the far end: nothing came from 198.51.100.7:4000")

    def test_the_beginning_of_its_id_is_enough(self, doctor: Doctor) -> None:
        assert GOOD in doctor("1F0C9A52-0000").stdout

    def test_as_json(self, doctor: Doctor) -> None:
        result = doctor(BAD, "--json")
        told = json.loads(result.stdout)
        assert (1, False, ["caller"]) == (result.exit_code, told["healthy"], told["silent"])
        assert ["INVITE", "INVITE", "INVITE", "INVITE", "ACK", "BYE", "BYE"] == [m["method"] for m in told["messages"]]
        assert [None, 100, 180, 200, None, None, 200] == [m["status"] for m in told["messages"]]
        assert list(PEER) == told["messages"][0]["remote"]

    def test_as_a_diagram(self, doctor: Doctor) -> None:
        result = doctor(GOOD, "--mermaid")
        assert 0 == result.exit_code
        assert result.stdout.startswith("sequenceDiagram\n    participant g as gateway\n")

    def test_as_packets(self, doctor: Doctor, tmp_path: Path) -> None:
        path = tmp_path / "call.pcap"
        result = doctor(GOOD, "--pcap", str(path))
        assert 0 == result.exit_code
        assert f"7 messages written to {path}" in result.stderr
        assert 0o600 == stat.S_IMODE(path.stat().st_mode)
        reader = dpkt.pcap.Reader(io.BytesIO(path.read_bytes()))
        assert (LINKTYPE_RAW, 7) == (reader.datalink(), len(list(reader)))

    def test_packets_that_cannot_be_written(self, doctor: Doctor, tmp_path: Path) -> None:
        result = doctor(GOOD, "--pcap", str(tmp_path))
        assert 1 == result.exit_code
        assert "Is a directory" in result.stderr


class TestNoSuchCall:
    @pytest.mark.parametrize("call", ["2f", "nothing", "../x", "[bold]", "*"])
    def test_it_is_said_with_the_way_to_the_list(self, doctor: Doctor, call: str) -> None:
        result = doctor(call)
        assert (2, "") == (result.exit_code, result.stdout)
        assert "consent-gateway doctor --list" in result.stderr

    def test_without_a_call_the_list_is_named(self, doctor: Doctor) -> None:
        result = doctor()
        assert 2 == result.exit_code
        assert "consent-gateway doctor --list" in result.stderr

    def test_several_that_begin_so_are_named(self, doctor: Doctor) -> None:
        result = doctor("1f0c")
        assert 2 == result.exit_code
        assert "2 calls begin with 1f0c" in result.stderr
        assert GOOD in result.stderr

    def test_a_trace_that_is_broken_is_named_with_its_line(self, doctor: Doctor) -> None:
        (doctor.traces / "dead.jsonl").write_text("{")
        result = doctor("dead")
        assert 2 == result.exit_code
        assert "dead.jsonl, line 1" in result.stderr

    def test_a_report_that_is_none(self, doctor: Doctor) -> None:
        (doctor.traces / "dead.jsonl").write_text('{"report": {"x": 1}}\n')
        result = doctor("dead")
        assert 2 == result.exit_code
        assert "no report of a call" in result.stderr


class TestList:
    def test_the_newest_first_with_the_gravest_of_each(self, doctor: Doctor) -> None:
        rows = json.loads(doctor("--list", "--json").stdout)
        assert [BAD, GOOD] == [row["call_id"] for row in rows]
        assert [1, 0] == [row["faults"] for row in rows]
        assert rows[0]["what"].startswith("no audio from the far end")
        assert "2023-11-14 22:13:20" == rows[0]["at"]

    def test_for_people_each_is_one_line(self, doctor: Doctor) -> None:
        result = doctor("--list")
        assert 0 == result.exit_code
        bad, good = result.stdout.splitlines()
        assert bad.startswith(f"2023-11-14 22:13:20  {BAD}  ✗ no audio from the far end")
        assert f"2023-11-14 22:13:19  {GOOD}  · answered by 198.51.100.7:5070 after 3.1 s" == good

    def test_one_that_is_broken_hides_no_other(self, doctor: Doctor) -> None:
        (doctor.traces / "dead.jsonl").write_text("{")
        rows = json.loads(doctor("--list", "--json").stdout)
        assert {BAD, GOOD, "dead"} == {row["call_id"] for row in rows}
        assert "cannot be read" in rows[0]["what"]

    def test_before_the_first_call(self, tmp_path: Path) -> None:
        result = Doctor(tmp_path)("--list")
        assert (0, True) == (result.exit_code, "no call has been traced" in result.stdout)
