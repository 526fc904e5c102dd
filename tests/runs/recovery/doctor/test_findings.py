"""The exit code and the error of findings."""

import pytest

from trialrun.errors import StorageError, TrackingError, TrialrunError
from trialrun.runs.recovery.doctor.findings import (
    Finding,
    check_findings,
    report_note,
    report_ok,
    report_problem,
)

DISK = report_problem("disk space", "0.1 GB free", "Free some space.", StorageError)
RUN = report_problem("runs", "abc", "End it.", TrackingError, is_fixable=True)
PYTHON = report_problem("Python", "3.9", "Install another.")


def test_notes_are_well() -> None:
    """Only problems are errors."""
    check_findings([report_ok("GPU", "none"), report_note("uv", "missing", "Install it.")])


@pytest.mark.parametrize(
    ("problems", "error"),
    [
        ([DISK], StorageError),
        ([DISK, RUN], TrackingError),
        ([DISK, RUN, PYTHON], TrialrunError),
    ],
)
def test_lowest_exit_code_counts(problems: list[Finding], error: type[TrialrunError]) -> None:
    """Without a working environment nothing runs; without a store nothing is recorded."""
    with pytest.raises(TrialrunError) as raised:
        check_findings(problems)
    assert type(raised.value) is error


def test_error_names_the_findings_and_the_next_step() -> None:
    """`--fix` is suggested if it helps, else the first remedy."""
    with pytest.raises(StorageError, match="1 problem was found: disk space") as raised:
        check_findings([DISK])
    assert raised.value.hint == "Free some space."
    with pytest.raises(TrackingError, match="2 problems were found: disk space, runs") as both:
        check_findings([DISK, RUN])
    assert "trialrun doctor --fix" in both.value.hint
