"""A path on loopback that loses datagrams: whatever comes to *port* goes on to *to*, answers go back, a share of each is lost.

Run as a program: ``lossy.py PORT TO_PORT LOSS SEED``. On SIGTERM it prints what passed and what was lost, as one JSON object.
"""

from __future__ import annotations

import json
import random
import selectors
import signal
import socket
import sys

LOCALHOST = "127.0.0.1"
OCTETS = 65_535
BUFFER = 4 << 20


class Lossy:
    """*loss* is the share of datagrams that vanish, each way; *seed* makes the chance the same in every run."""

    def __init__(self, port: int, to: int, loss: float, seed: int) -> None:
        self.to = (LOCALHOST, to)
        self.loss = loss
        self.chance = random.Random(seed)
        self.counts = {"passed_there": 0, "lost_there": 0, "passed_back": 0, "lost_back": 0}
        self.front = self._socket(port)
        self.sides: dict[tuple[str, int], socket.socket] = {}
        self.selector = selectors.DefaultSelector()
        self.selector.register(self.front, selectors.EVENT_READ, None)
        self.over = False

    @staticmethod
    def _socket(port: int) -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
        made.bind((LOCALHOST, port))
        made.setblocking(False)
        return made

    def run(self) -> None:
        while not self.over:
            for key, _ in self.selector.select(0.2):
                if key.data is None:
                    self._there()
                else:
                    self._back(key.fileobj, key.data)  # type: ignore[arg-type]

    def _there(self) -> None:
        data, source = self.front.recvfrom(OCTETS)
        side = self.sides.get(source)
        if side is None:
            side = self.sides[source] = self._socket(0)
            self.selector.register(side, selectors.EVENT_READ, source)
        if self._passes("there"):
            side.sendto(data, self.to)

    def _back(self, side: socket.socket, source: tuple[str, int]) -> None:
        try:
            data = side.recv(OCTETS)
        except ConnectionError:
            return  # an ICMP error of an earlier send: that datagram is lost, as on any path
        if self._passes("back"):
            self.front.sendto(data, source)

    def _passes(self, way: str) -> bool:
        lost = self.chance.random() < self.loss
        self.counts[f"lost_{way}" if lost else f"passed_{way}"] += 1
        return not lost


def main() -> None:
    path = Lossy(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4]))

    def stop(*_: object) -> None:
        path.over = True

    signal.signal(signal.SIGTERM, stop)
    path.run()
    sys.stdout.write(json.dumps(path.counts))


if __name__ == "__main__":
    main()
