"""Bytes of a round on the wire, up and down, by the type that the model travels in.

    python benchmarks/wire.py [--json FILE] [--csv FILE] [--rounds 4] [--sites 2] [--backbone resnet18]
        [--transfers float32,float16]

A POC: FLARE's server and clients with mutual TLS on this machine's loopback. Every packet to and from the server's one
port is read from the interface and its TCP payload added up: what crosses the border of a hospital, with TLS, FLARE's
framing, heartbeats, polls and logs, and without the 40 bytes of headers a packet, and without what the command that
follows the job asks. Needs Linux and the right to read packets (root).

Rows for each transfer, a site and a round, the median over all rounds but the first: ``down`` (server to site) and
``up``; the baseline is the model's parameters and buffers as float32. The ratio is to that.
``frozen`` is what of the network is fixed and so never travels (the frame, the fixed queries): its bytes, and how many
of its names are among those sent (the target is none).
"""

from __future__ import annotations

import argparse
import itertools
import os
import socket
import statistics
import struct
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import psutil
from flare_overhead import make_sites
from timing import save

#: linux/if_ether.h, linux/if_packet.h, linux/socket.h
_ETH_P_ALL, _OUTGOING, _SOL_PACKET, _PACKET_STATISTICS = 0x0003, 4, 263, 6
_BUFFER = 256 * 2**20
#: What the wire may cost over the model's numbers.
OVERHEAD = 1.1


class Counter:
    """Adds up TCP payload on the loopback interface, to and from a port, in a thread."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.lost = 0
        #: Bytes to and from the port, by the other end's.
        self._to: dict[int, int] = {}
        self._from: dict[int, int] = {}
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ETH_P_ALL))
        self._socket.setsockopt(socket.SOL_SOCKET, 33, _BUFFER)  # SO_RCVBUFFORCE, past the system's limit
        self._socket.bind(("lo", 0))
        self._socket.settimeout(0.5)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._count, daemon=True)
        self._thread.start()

    def _count(self) -> None:
        while not self._ended.is_set():
            try:
                # Headers suffice: lengths stand in them.
                packet, address = self._socket.recvfrom(128)
            except TimeoutError:
                continue
            if address[2] == _OUTGOING:  # else each is seen twice, as it leaves and as it arrives
                self._add(packet)

    def _add(self, packet: bytes) -> None:
        found = tcp_payload(packet)
        if found is None:
            return
        source, target, length = found
        if target == self._port:
            self._to[source] = self._to.get(source, 0) + length
        elif source == self._port:
            self._from[target] = self._from.get(target, 0) + length

    def totals(self, without: set[int]) -> tuple[int, int]:
        """Bytes to the port and from it, but for those of some other ends."""
        both = (dict(self._to), dict(self._from))
        up, down = (sum(size for port, size in sizes.items() if port not in without) for sizes in both)
        return up, down

    def close(self) -> None:
        """Stop, and note how many packets the system has dropped."""
        self._ended.set()
        self._thread.join()
        self.lost = struct.unpack("II", self._socket.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8))[1]
        self._socket.close()


def tcp_payload(packet: bytes) -> tuple[int, int, int] | None:
    """Source port, target port and bytes of payload of an IP packet with TCP in it; None for another."""
    version = packet[0] >> 4
    if version == 4 and packet[9] == socket.IPPROTO_TCP:
        start, total = 4 * (packet[0] & 15), struct.unpack_from("!H", packet, 2)[0]
    elif version == 6 and packet[6] == socket.IPPROTO_TCP:
        start, total = 40, 40 + struct.unpack_from("!H", packet, 4)[0]
    else:
        return None
    source, target = struct.unpack_from("!HH", packet, start)
    return source, target, total - start - 4 * (packet[start + 12] >> 4)


def federate(content: dict[str, Any], sites: Path, scratch: Path) -> tuple[list[int], list[int], int]:
    """Bytes to and from the server in each round but the first, and the packets that were missed."""
    from nc_medfl.config import JobSettings
    from nc_medfl.federation.environments import Federation, Poc
    from nc_medfl.federation.site import site_files
    from nc_medfl.settings import parse

    counters: list[Counter] = []
    seen: list[tuple[int, int]] = []
    ours: set[int] = set()

    def note(event: dict[str, Any]) -> None:
        if event["event"] == "up":
            counters.append(Counter(event["port"]))
        elif event["event"] == "round":
            ours.update(ports_of_session())
            seen.append(counters[0].totals(ours))

    settings = parse(JobSettings, content, where="benchmark")
    names = tuple(site_files(sites))
    try:
        Poc().run(Federation(settings, scratch, sites=names, sites_folder=sites), note)
    finally:
        for counter in counters:
            counter.close()
    up, down = ([after[i] - before[i] for before, after in itertools.pairwise(seen)] for i in (0, 1))
    return up, down, counters[0].lost


def ports_of_session() -> set[int]:
    """Ports of the process that follows the job as an administrator, which is no hospital."""
    children = psutil.Process().children()
    followers = [child for child in children if any(word.endswith("session_process") for word in child.cmdline())]
    return {connection.laddr.port for child in followers for connection in child.net_connections("tcp")}


def frozen_parts(content: dict[str, Any]) -> tuple[int, int, int]:
    """Bytes of the model that travels, bytes of what is fixed, and how many names the two have in common."""
    from nc_medfl.config import JobSettings
    from nc_medfl.settings import parse
    from nc_medfl.training.model import build_network

    network = build_network(parse(JobSettings, content, where="benchmark"))
    sent = network.state_dict()
    fixed = {name: value for name, value in network.named_buffers() if name not in sent}
    fixed |= {name: value for name, value in network.named_parameters() if not value.requires_grad}
    size, apart = (sum(v.numel() * v.element_size() for v in tensors.values()) for tensors in (sent, fixed))
    return size, apart, len(fixed.keys() & sent.keys())


def measure(arguments: argparse.Namespace, scratch: Path) -> list[dict[str, Any]]:
    """Run the federation once for each type."""
    sites = scratch / "sites"
    make_sites(sites, arguments.sites, arguments.images, 0)
    for path in sites.glob("*/site.yaml"):
        path.write_text(path.read_text() + "trainer: inline\n")
    content = {
        "name": "wire",
        "rounds": arguments.rounds,
        "network": {"backbone": arguments.backbone},
        "evaluation": {"resamples": 0},
    }
    numbers, frozen, sent = frozen_parts(content)
    about = {key: getattr(arguments, key) for key in ("sites", "images", "rounds", "backbone")}
    results = [
        {
            "name": "frozen",
            "value": frozen,
            "unit": "bytes",
            "baseline": f"the model that travels: {numbers} bytes",
            "ratio": float(sent),
            "settings": {**about, "target": 0},
        }
    ]
    for transfer in arguments.transfers.split(","):
        up, down, lost = federate({**content, "transfer": transfer}, sites, scratch / transfer)
        expected = 1.0 if transfer == "float32" else 0.5
        for name, rounds in (("down", down), ("up", up)):
            each = [value / arguments.sites for value in rounds]
            value = statistics.median(each)
            results.append(
                {
                    "name": f"{transfer}_{name}",
                    "value": round(value),
                    "unit": "bytes a site and round",
                    "baseline": f"the model as float32: {numbers} bytes",
                    "ratio": round(value / numbers, 4),
                    "settings": {**about, "target": OVERHEAD * expected, "packets_lost": lost, "each": each},
                }
            )
    return results


def main() -> int:
    """Run, print a table, write JSON and CSV on request."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the results as a JSON list")
    parser.add_argument("--csv", type=Path, help="write the results as CSV")
    parser.add_argument("--rounds", type=int, default=4, help="two or more")
    parser.add_argument("--sites", type=int, default=2)
    parser.add_argument("--images", type=int, default=40, help="a site; three fifths of them to train on")
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--transfers", default="float32,float16", help="types, with commas")
    arguments = parser.parse_args()
    if arguments.rounds < 2:
        parser.error("--rounds: two or more, so that a round can be told from the start")
    if not hasattr(socket, "AF_PACKET") or os.geteuid() != 0:
        parser.error("reading packets takes Linux and root")
    with tempfile.TemporaryDirectory(prefix="wire") as folder:
        results = measure(arguments, Path(folder))
    for entry in results:
        verdict = "reached" if entry["ratio"] <= entry["settings"]["target"] else "NOT reached"
        target = f"(target {entry['settings']['target']:g}: {verdict})"
        print(f"{entry['name']:14} {entry['value']:>12} {entry['unit']:24} {entry['ratio']:7.4f} {target}")
    save(results, arguments.json, arguments.csv)
    return 0


if __name__ == "__main__":
    sys.exit(main())
