"""Which stop signals count as a second one."""

import signal

import pytest

from trialrun.runs.signals.arrivals import Arrivals

INT, TERM = signal.SIGINT, signal.SIGTERM


@pytest.mark.parametrize(
    ("arrivals", "is_second"),
    [
        ([(TERM, 0)], False),
        ([(TERM, 0), (TERM, 1)], True),
        ([(INT, 0), (TERM, 0.1)], False),
        ([(INT, 0), (TERM, 0.1), (INT, 1)], True),
        ([(INT, 0), (TERM, 4)], True),
        ([(TERM, 0), (TERM, 0.001)], False),
    ],
    ids=["first", "same kind", "mlflow's pair", "Ctrl-C twice below mlflow", "later", "timeout's"],
)
def test_second_signal(arrivals: list[tuple[int, float]], is_second: bool) -> None:
    """The same kind again, or any signal after three seconds, is a second signal."""
    record = Arrivals()
    assert [record.add(number, now) for number, now in arrivals][-1] is is_second


def test_relayed_signal_within_moments_is_the_same() -> None:
    """A scheduler sends SIGTERM to a rank and to torchrun, which passes it on."""
    record = Arrivals(is_relayed=True)
    assert [record.add(TERM, now) for now in (0, 1, 4)] == [False, False, True]


def test_stop_without_a_signal_starts_the_count() -> None:
    """The first signal after the end of the parent does not end the process at once."""
    record = Arrivals()
    record.start(0)
    assert [record.add(TERM, now) for now in (1, 4)] == [False, True]
