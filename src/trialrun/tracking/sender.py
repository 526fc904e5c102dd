"""The sender of a run: a thread that sends the records of the journal during training."""

import logging
import random
import threading
import time
from contextlib import suppress

from trialrun.errors import TrialrunError
from trialrun.mlflow_client import is_answering, translate_tracking_errors
from trialrun.tracking.heartbeat import HEARTBEAT_SECONDS, HEARTBEAT_TAG, make_heartbeat
from trialrun.tracking.records import METRICS
from trialrun.tracking.replay import Replayer

_THREAD = "trialrun-sender"
_RETRY_LOGGER = "urllib3.connectionpool"
_FIRST_WAIT_SECONDS = 0.2
_LONGEST_WAIT_SECONDS = 5.0
_POLL_SECONDS = 0.5
_PAUSE_SECONDS = 0.2


def _is_of_other_thread(record: logging.LogRecord) -> bool:
    """Whether a log record was written by another thread than a sender."""
    return record.threadName != _THREAD


class Sender:
    """Sends the records of a journal from a thread of its own until it is stopped.

    After metrics it pauses for 0.2 s, so that those of short epochs are sent together, unless
    `wait` is waiting for them. While the store does not answer, it tries again after waits
    of up to five seconds.
    """

    def __init__(self, replayer: Replayer) -> None:
        self._replayer = replayer
        self._changed = replayer.journal.changed
        self._is_stopped = False
        self._is_calling = False
        self._num_waiting = 0
        self._outage: str | None = None
        self._last_answer = time.monotonic()
        self._last_heartbeat = time.monotonic()
        self._wait_seconds = _FIRST_WAIT_SECONDS
        self._thread = threading.Thread(target=self._run, name=_THREAD, daemon=True)

    @property
    def outage(self) -> str | None:
        """Why the last attempt failed; None while the store answers."""
        return self._outage

    def start(self) -> None:
        """Start the thread. An outage is reported at the end of the run, not for each retry."""
        logging.getLogger(_RETRY_LOGGER).addFilter(_is_of_other_thread)
        self._thread.start()

    def _run(self) -> None:
        while not self._is_stopped:
            if self._try_to_send():
                self._pause()
                continue
            self._beat()
            with self._changed:
                if self._outage is not None:
                    self._changed.wait_for(lambda: self._is_stopped, self._draw_wait())
                elif not self._replayer.journal.num_pending and not self._is_stopped:
                    self._changed.wait(HEARTBEAT_SECONDS)

    def _pause(self) -> None:
        """Let metrics gather, unless somebody waits for them."""
        if self._replayer.last_kind != METRICS:
            return
        with self._changed:
            self._changed.wait_for(lambda: self._is_stopped or self._num_waiting, _PAUSE_SECONDS)

    def _try_to_send(self) -> bool:
        """Send the next records; return False if nothing is pending or the store is away."""
        self._is_calling = True
        try:
            num_sent = self._replayer.send_next()
        except Exception as error:
            self._outage = str(error)
            return False
        finally:
            self._is_calling = False
        if num_sent:
            self._outage = None
            self._last_answer = time.monotonic()
            self._wait_seconds = _FIRST_WAIT_SECONDS
        return num_sent > 0

    def _draw_wait(self) -> float:
        self._wait_seconds = min(2 * self._wait_seconds, _LONGEST_WAIT_SECONDS)
        return random.uniform(self._wait_seconds / 2, self._wait_seconds)

    def _beat(self) -> None:
        """Refresh the heartbeat if it is due and the store answers."""
        is_due = time.monotonic() - self._last_heartbeat >= HEARTBEAT_SECONDS
        if not is_due or self._outage is not None or self._is_stopped:
            return
        self._last_heartbeat = time.monotonic()
        target = self._replayer.target
        with suppress(TrialrunError), translate_tracking_errors("the heartbeat cannot be set"):
            target.client.set_tag(target.run_id, HEARTBEAT_TAG, make_heartbeat().to_tag())

    def wait(self, patience_seconds: float, *, longest_seconds: float | None = None) -> bool:
        """Wait until nothing is pending; return whether that is so.

        Args:
            patience_seconds: How long to wait for a store that does not answer.
            longest_seconds: How long to wait in all; None waits for as long as the store answers.
        """
        with self._changed:
            self._num_waiting += 1
            self._changed.notify_all()
        try:
            return self._wait_until_sent(patience_seconds, longest_seconds)
        finally:
            self._num_waiting -= 1

    def _wait_until_sent(self, patience_seconds: float, longest_seconds: float | None) -> bool:
        started = time.monotonic()
        journal = self._replayer.journal
        while journal.num_pending and self._thread.is_alive():
            now = time.monotonic()
            if longest_seconds is not None and now - started >= longest_seconds:
                return False
            if now - max(started, self._last_answer) >= patience_seconds and not self._is_working():
                return False
            with self._changed:
                if journal.num_pending:
                    self._changed.wait(_POLL_SECONDS if patience_seconds else 0.05)
        return not journal.num_pending

    def _is_working(self) -> bool:
        """Whether a long call, such as an upload, is in progress at a store that answers."""
        if self._outage is not None or not self._is_calling:
            return False
        if not is_answering(self._replayer.target.client.tracking_uri):
            return False
        self._last_answer = time.monotonic()
        return True

    def stop(self, seconds: float) -> None:
        """Stop the thread; one that waits for an answer ends by itself later, without effect."""
        with self._changed:
            self._is_stopped = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join(seconds)
