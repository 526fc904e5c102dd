"""Batches of the images of several requests: threads that decode, and threads that compute.

An image passes from the event loop to a decoding thread, to a computing thread, and its score back
to the event loop. A computing thread collects the images that arrive within a few milliseconds; one
thread collects at a time, so that two do not share what one batch could hold.
"""

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from trialrun.config.serve import ServeConfig
from trialrun.images.scanning.thread_pool import count_threads
from trialrun.scoring.batching import find_torch_device, plan_batches
from trialrun.scoring.network import ScoringNetwork
from trialrun.scoring.pipeline import BatchPlan, score_batch
from trialrun.scoring.scores import ImageScore
from trialrun.serving.http.metrics import Metrics
from trialrun.serving.http.requests.decoding import Refusal, decode_upload
from trialrun.serving.http.requests.problems import UNPROCESSABLE
from trialrun.serving.http.service.model import OpenModel

Outcome = ImageScore | Refusal  # a score has probabilities

# Pixels that are computed at once on a CPU: two streams of torch have four images of 224 pixels.
_CPU_PIXELS_IN_WORK = 8 * 224**2

_logger = logging.getLogger("trialrun.serve")


@dataclass(slots=True, eq=False)
class _Ticket:
    """One image on its way; `data` is dropped once it is decoded."""

    data: bytes
    future: "asyncio.Future[Outcome]"
    pixels: Tensor | None = None


class Batcher:
    """Scores images with one model, until `close`; the event loop that creates it calls it."""

    def __init__(self, model: OpenModel, config: ServeConfig, metrics: Metrics) -> None:
        self.model = model
        self._max_pixels = config.max_pixels
        self._wait_seconds = config.batch_milliseconds / 1000
        self._metrics = metrics
        self._loop = asyncio.get_running_loop()
        self._encoded: queue.SimpleQueue[_Ticket | None] = queue.SimpleQueue()
        self._decoded: queue.SimpleQueue[_Ticket | None] = queue.SimpleQueue()
        self._collecting = threading.Lock()
        self._num_open = 0
        self._drained = asyncio.Event()
        self._drained.set()
        self._plan = _plan_served_batches(model.network, config.batch_size)
        self._num_decoders = count_threads()
        self._start(self._decode_images, self._num_decoders)
        self._start(partial(self._compute_batches, self._plan), self._plan.num_streams)

    def _start(self, work: Callable[[], None], num_threads: int) -> None:
        for _ in range(num_threads):
            threading.Thread(target=work, daemon=True, name="serve").start()

    async def score(self, images: Sequence[bytes]) -> list[Outcome]:
        """Return the score of each image, or why it has none; the images share batches.

        Raises:
            Exception: Computing failed.
        """
        tickets = [_Ticket(data, self._loop.create_future()) for data in images]
        self._num_open += len(tickets)
        self._drained.clear()
        try:
            for ticket in tickets:
                self._encoded.put(ticket)
            return await asyncio.gather(*(ticket.future for ticket in tickets))
        finally:
            self._num_open -= len(tickets)
            if not self._num_open:
                self._drained.set()

    async def close(self) -> None:
        """Wait for the images that were taken, then end the threads."""
        await self._drained.wait()
        for _ in range(self._num_decoders):
            self._encoded.put(None)
        for _ in range(self._plan.num_streams):
            self._decoded.put(None)

    def _decode_images(self) -> None:
        preprocessing = self.model.network.preprocessing
        while (ticket := self._encoded.get()) is not None:
            if ticket.future.cancelled():
                continue
            try:
                decoded = decode_upload(preprocessing, ticket.data, self._max_pixels)
            except Exception as error:
                self._deliver([ticket], error)
                continue
            ticket.data = b""
            if isinstance(decoded, Refusal):
                self._deliver([ticket], [decoded])
            else:
                ticket.pixels = decoded
                self._decoded.put(ticket)

    def _compute_batches(self, plan: BatchPlan) -> None:
        if plan.num_streams > 1:
            torch.set_num_threads(plan.num_threads)  # belongs to the calling thread
        while tickets := self._collect(plan.batch_size):
            started = time.perf_counter()
            try:
                pixels = [ticket.pixels for ticket in tickets if ticket.pixels is not None]
                scores = score_batch(self.model.network, [*pixels])
            except Exception as error:
                self._deliver(tickets, error)
            else:
                self._deliver(tickets, [_name_reason(score) for score in scores])
            del tickets
            self._metrics.batch_seconds.observe(time.perf_counter() - started)

    def _collect(self, batch_size: int) -> list[_Ticket]:
        """Return the images of the next batch; an empty list ends the thread."""
        with self._collecting:
            first = self._decoded.get()
            if first is None:
                return []
            tickets, deadline = [first], time.monotonic() + self._wait_seconds
            while len(tickets) < batch_size:
                try:
                    seconds = deadline - time.monotonic()
                    ticket = (
                        self._decoded.get(timeout=seconds)
                        if seconds > 0
                        else (self._decoded.get_nowait())
                    )
                except queue.Empty:
                    break
                if ticket is None:
                    self._decoded.put(None)
                    break
                tickets.append(ticket)
        self._metrics.batch_images.observe(len(tickets))
        return tickets

    def _deliver(self, tickets: list[_Ticket], outcome: Sequence[Outcome] | Exception) -> None:
        """Give all results of a batch to the event loop at once."""
        try:
            self._loop.call_soon_threadsafe(_set_results, tickets, outcome)
        except RuntimeError:  # the event loop has ended
            _logger.warning("the scores of %d images came after the end", len(tickets))


def _plan_served_batches(network: ScoringNetwork, batch_size: int | str) -> BatchPlan:
    """Return the plan of a server: `auto` prefers small batches on a CPU.

    Larger ones are hardly faster there, and the requests that came last wait for all of them.
    """
    plan = plan_batches(network, batch_size)
    size, device = network.preprocessing.image_size, find_torch_device(network)
    if not isinstance(batch_size, str) or size is None or (device and device.type != "cpu"):
        return plan
    fastest = _CPU_PIXELS_IN_WORK // (plan.num_streams * size**2)
    return replace(plan, batch_size=max(min(plan.batch_size, fastest), 1))


def _name_reason(score: ImageScore) -> Outcome:
    return score if score.probabilities is not None else Refusal(UNPROCESSABLE, score.error)


def _set_results(tickets: list[_Ticket], outcome: Sequence[Outcome] | Exception) -> None:
    for place, ticket in enumerate(tickets):
        if ticket.future.done():  # cancelled: the client has gone
            continue
        if isinstance(outcome, Exception):
            ticket.future.set_exception(outcome)
        else:
            ticket.future.set_result(outcome[place])
