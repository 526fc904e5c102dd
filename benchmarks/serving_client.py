"""A cheap HTTP client: sends prepared requests over 16 connections and measures their times.

    python -m benchmarks.serving_client PORT FILE SECONDS [--clients 16]

FILE is a pickle of whole requests as bytes. Each connection sends the next request when it has the
response of the one before. The program needs the standard library alone and about 0.1 ms of
processor time per request. It prints a JSON object: requests, errors, seconds, times in ms.
"""

import argparse
import asyncio
import itertools
import json
import pickle
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Results:
    """Times of good responses in seconds, and the number of other responses by status."""

    deadline: float
    times: list[float] = field(default_factory=list)
    errors: dict[str, int] = field(default_factory=dict)

    def count_error(self, name: str) -> None:
        """Count a response other than 200, or a lost connection."""
        self.errors[name] = self.errors.get(name, 0) + 1


class Connection(asyncio.Protocol):
    """One client, which waits for each response before its next request."""

    def __init__(self, requests: Iterator[bytes], results: Results) -> None:
        self._requests, self._results = requests, results
        self.finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the first request."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._send()

    def _send(self) -> None:
        self._received, self._expected = b"", -1
        self._started = time.perf_counter()
        self._transport.write(next(self._requests))

    def data_received(self, data: bytes) -> None:
        """Find the end of the response by its content length; then send the next request."""
        self._received += data
        if self._expected < 0 and (end := self._received.find(b"\r\n\r\n")) >= 0:
            head = self._received[:end].lower()
            self._expected = end + 4 + int(head.split(b"content-length:")[1].split(b"\r\n")[0])
        if self._expected < 0 or len(self._received) < self._expected:
            return
        now = time.perf_counter()
        status = self._received[9:12].decode()
        if status == "200":
            self._results.times.append(now - self._started)
        else:
            self._results.count_error(status)
        if now >= self._results.deadline:
            self._transport.close()
        else:
            self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        """End this client."""
        if time.perf_counter() < self._results.deadline:
            self._results.count_error("connection lost")
        if not self.finished.done():
            self.finished.set_result(None)


async def send_requests(
    port: int, requests: list[bytes], seconds: float, num_clients: int
) -> Results:
    """Send requests for some seconds."""
    results = Results(time.perf_counter() + seconds)
    cycle = itertools.cycle(requests)
    loop = asyncio.get_running_loop()
    clients = [
        (await loop.create_connection(lambda: Connection(cycle, results), "127.0.0.1", port))[1]
        for _ in range(num_clients)
    ]
    await asyncio.gather(*(client.finished for client in clients))
    return results


def main() -> int:
    """Send the requests and print the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("port", type=int)
    parser.add_argument("file", type=Path)
    parser.add_argument("seconds", type=float)
    parser.add_argument("--clients", type=int, default=16)
    arguments = parser.parse_args()
    requests = pickle.loads(arguments.file.read_bytes())
    started = time.perf_counter()
    results = asyncio.run(
        send_requests(arguments.port, requests, arguments.seconds, arguments.clients)
    )
    elapsed = time.perf_counter() - started
    times = sorted(results.times)
    values = {
        "requests": len(times),
        "errors": results.errors,
        "per_second": len(times) / elapsed,
        "p50_ms": times[len(times) // 2] * 1000 if times else None,
        "p99_ms": times[int(len(times) * 0.99)] * 1000 if times else None,
    }
    sys.stdout.write(json.dumps(values) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
