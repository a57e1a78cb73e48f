"""What Prometheus is told: read from plain counters at each scrape, so that counting costs nothing."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, SummaryMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from gateway.deliveries import Deliveries
from gateway.switchboard import Switchboard
from gateway.telephony.recorder import RecordingOffice


class TelephonyMetrics(Collector):
    """Register it while the *board* is open."""

    def __init__(self, board: Switchboard) -> None:
        self._board = board

    def collect(self) -> Iterator[Metric]:
        board = self._board
        yield GaugeMetricFamily("gateway_calls", "Calls that are up", len(board.agent.calls))
        yield GaugeMetricFamily("gateway_sip_transactions", "Transactions under way", len(board.agent.endpoint))
        yield GaugeMetricFamily("gateway_rtp_ports_free", "Pairs of ports that no call uses", len(board.engine.ports))
        lost = CounterMetricFamily(
            "gateway_media_ticks_lost", "Ticks of 20 ms that the media clock could not make good"
        )
        lost.add_metric([], board.engine.clock.ticks_lost)
        yield lost
        messages = CounterMetricFamily(
            "gateway_sip_refused", "SIP messages that came to nothing, and calls that were not let in", labels=["why"]
        )
        counters, admission = board.agent.endpoint.counters, board.admission.counts
        for why, count in (
            ("malformed", counters.malformed), ("stray", counters.strays), ("merged", counters.merged),
            ("flooded", counters.flooded), ("dropped", admission.dropped), ("busy", admission.busy),
        ):  # fmt: skip
            messages.add_metric([why], count)
        yield messages
        packets = CounterMetricFamily("gateway_rtp_refused", "RTP packets that were not heard", labels=["why"])
        for why, count in board.engine.refused.items():
            packets.add_metric([why], count)
        yield packets
        yield from _recordings(board.engine.office)
        calls = GaugeMetricFamily("gateway_line_calls", "Calls on a line", labels=["line"])
        up = GaugeMetricFamily("gateway_line_peer_up", "Whether a peer of a line takes calls", labels=["line", "peer"])
        for line in board.lines:
            calls.add_metric([line.name], line.route.calls)
            for state in line.route.states():
                up.add_metric([line.name, str(state.peer)], float(state.up))
        yield calls
        yield up


class DeliveryMetrics(Collector):
    """Webhooks that this gateway posted since it started: alarm on ``outcome="dead"``."""

    def __init__(self, deliveries: Deliveries) -> None:
        self._deliveries = deliveries

    def collect(self) -> Iterator[Metric]:
        outcomes = CounterMetricFamily(
            "gateway_webhook_attempts", "What became of webhooks: delivered, retry, dead, cancelled",
            labels=["kind", "outcome"],
        )  # fmt: skip
        for (kind, outcome), count in self._deliveries.counts.items():
            outcomes.add_metric([kind, outcome], count)
        yield outcomes
        yield SummaryMetricFamily(
            "gateway_webhook_seconds", "How long billing systems took to answer",
            count_value=self._deliveries.posts, sum_value=self._deliveries.seconds,
        )  # fmt: skip


def _recordings(office: RecordingOffice) -> Iterator[Metric]:
    """Alarm on any failure, and on little room: a call takes 32 kB a second, in G.722 64 kB."""
    failed = CounterMetricFamily(
        "consent_gateway_recordings_failed", "Recordings that could not be begun, or not be written to their end"
    )
    failed.add_metric([], office.failures)
    yield failed
    try:
        free = office.free_octets
    except OSError:
        return  # not even that can be told: a missing series is an alarm of its own
    yield GaugeMetricFamily(
        "consent_gateway_recordings_free_bytes", "Room that is left where recordings are written", free
    )
