"""What Prometheus is told of the telephony: read from its plain counters at each scrape, so that counting costs nothing."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from gateway.switchboard import Switchboard


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
        calls = GaugeMetricFamily("gateway_line_calls", "Calls on a line", labels=["line"])
        up = GaugeMetricFamily("gateway_line_peer_up", "Whether a peer of a line takes calls", labels=["line", "peer"])
        for line in board.lines:
            calls.add_metric([line.name], line.route.calls)
            for state in line.route.states():
                up.add_metric([line.name, str(state.peer)], float(state.up))
        yield calls
        yield up
