"""What users are told: an error's name, what was found, what to do, and the exit code.

    TrialrunError                    1
    ├── InvalidParameterError        2   a setting or an argument
    ├── DataError                    3
    │   ├── NotLabeledDatasetError       no labels to learn from
    │   ├── InvalidDatasetError          classes differ, one class, an empty class, nothing readable
    │   └── InvalidArchiveError          an archive that is damaged or means harm
    ├── InvalidModelDirectoryError   4   not a PyTorch image model of ours or Azure's, damaged
    ├── TrackingError                5   the tracking store or the registry
    │   └── PromotionRefusedError        a gate said no
    ├── StorageError                 6   disk full, not writable, damaged beyond use
    └── OutOfMemoryError             7   with the batch size to try

`RunInterruptedError` reports a signal, which is not an error: its exit code is 75 (EX_TEMPFAIL of
sysexits.h).
Errors of foreign libraries are translated where we call them, nowhere else.
"""

from collections.abc import Sequence


class TrialrunError(Exception):
    """What went wrong, and what to do about it."""

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)  # the hint has a default so that worker processes can re-raise us
        self.hint = hint

    def __reduce__(self) -> tuple[type["TrialrunError"], tuple[str, str]]:
        return type(self), (str(self), self.hint)


class InvalidParameterError(TrialrunError):
    """A setting or argument is outside its range, or there is no such setting."""

    exit_code = 2


class DataError(TrialrunError):
    """The images cannot be used as they are."""

    exit_code = 3


class NotLabeledDatasetError(DataError):
    """There are no labels to learn from."""


class InvalidDatasetError(DataError):
    """Classes of the two sets differ, or there is one only, or an empty one, or nothing to read."""


class InvalidArchiveError(DataError):
    """The archive is damaged, encrypted, no archive, or would write where it must not."""


class InvalidModelDirectoryError(TrialrunError):
    """Not a PyTorch image model of ours or Azure's, damaged, or asking to run code."""

    exit_code = 4


class TrackingError(TrialrunError):
    """The tracking store or the model registry did not do what was asked."""

    exit_code = 5


class PromotionRefusedError(TrackingError):
    """A gate kept a version from becoming champion."""


class StorageError(TrialrunError):
    """The disk is full, a folder is not writable, or a file is damaged with no good one left."""

    exit_code = 6


class OutOfMemoryError(TrialrunError):
    """The batch does not fit in memory; the hint names the size to try."""

    exit_code = 7


class RunInterruptedError(BaseException):
    """A signal asked the process to stop. `except Exception` does not catch it."""

    exit_code = 75

    def __init__(self, signal_name: str) -> None:
        super().__init__(f"stopped by {signal_name}")
        self.signal_name = signal_name
        self.hint = "Nothing was recorded yet; start it again."


CutBySignalError = RunInterruptedError  # the former name, which callers of the library may catch


def merge_errors(errors: Sequence[TrialrunError]) -> TrialrunError:
    """Several errors as one: the kind with the lowest exit code leads, every message is kept.

    Raises:
        ValueError: `errors` is empty.
    """
    if not errors:
        raise ValueError("no errors to merge")
    if len(errors) == 1:
        return errors[0]
    ordered = sorted(errors, key=lambda error: error.exit_code)
    lead = type(ordered[0])
    messages = [
        str(error) if type(error) is lead else f"{type(error).__name__}: {error}"
        for error in ordered
    ]
    hints = dict.fromkeys(error.hint for error in ordered if error.hint)
    return lead("; ".join(messages), " ".join(hints))


def summarize_error(error: BaseException) -> str:
    """What an error says, on one line; its kind where it says nothing."""
    return (str(error).splitlines() or [""])[0] or type(error).__name__
