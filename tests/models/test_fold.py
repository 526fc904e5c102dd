"""Tracing of networks."""

import threading

import torch

from tests.conftest import make_network
from trialrun.models.fold import find_followers


def test_other_threads_compute_during_a_trace() -> None:
    """A thread computes the same results while another one traces, and the trace is the same."""
    computed, traced = make_network(seed=1).eval(), make_network(seed=2).eval()
    images = torch.ones(1, 3, 32, 32)
    with torch.inference_mode():
        expected = computed(images)
    followers = find_followers(traced)
    is_finished = threading.Event()
    problems: list[str] = []

    def compute() -> None:
        with torch.inference_mode():
            while not is_finished.is_set():
                try:
                    if not torch.equal(computed(images), expected):
                        problems.append("another result")
                except Exception as error:
                    problems.append(repr(error))

    thread = threading.Thread(target=compute)
    thread.start()
    try:
        for _ in range(10):
            assert find_followers(traced) == followers
    finally:
        is_finished.set()
        thread.join()
    assert problems == []
