"""What was wrong with a call, in plain words, from its trace alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from gateway.doctor.finding import Finding, Severity, fact, warning
from gateway.doctor.media import media_findings, silent_sides
from gateway.doctor.reading import Said, read_messages
from gateway.doctor.signalling import signalling_findings
from gateway.telephony.report import AttemptReport, MediaReport, read_report
from gateway.telephony.trace import Trace

_GRAVITY: tuple[Severity, ...] = ("fault", "warning", "fact")


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """All findings, faults first. *silent*: ``caller``, ``gateway``, both or none; None where there was no media."""

    call_id: str
    said: tuple[Said, ...]
    findings: tuple[Finding, ...]
    report: MediaReport | AttemptReport | None
    silent: list[str] | None

    @property
    def faults(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.severity == "fault"]

    def as_dict(self) -> dict[str, Any]:
        return {
            "call_id": self.call_id,
            "healthy": not self.faults,
            "silent": self.silent,
            "findings": [asdict(finding) for finding in self.findings],
            "report": self.report.as_dict() if self.report is not None else None,
        }


def diagnose(trace: Trace) -> Diagnosis:
    """Everything that *trace* shows. Raises ValueError when its report cannot be read."""
    said = tuple(read_messages(trace.messages))
    report = read_report(trace.report) if trace.report else None
    findings = [*signalling_findings(said), *_of_report(said, report)]
    if trace.omitted:
        findings.append(fact("trace.cut", f"{trace.omitted} messages were left out of the middle of this trace"))
    findings.sort(key=lambda finding: _GRAVITY.index(finding.severity))
    silent = silent_sides(report) if isinstance(report, MediaReport) else None
    return Diagnosis(trace.call_id, said, tuple(findings), report, silent)


def _of_report(said: tuple[Said, ...], report: MediaReport | AttemptReport | None) -> Iterator[Finding]:
    if report is None:
        yield warning("trace.no_report", "the trace has no report: nothing is known of the media")
    elif isinstance(report, AttemptReport):
        words = f"{report.status} {report.reason}".rstrip()
        yield fact("call.not_made", f"no call came about: {words}, after {report.duration_ms / 1000:.1f} s")
    else:
        yield from media_findings(said, report)
        words = f"ended by the {report.ended_by or 'gateway'} after {report.duration_ms / 1000:.1f} s"
        yield fact("call.ended", f"{words}: {report.reason}" if report.reason else words)
