"""The error classes of the package, their exit codes, and functions that merge and shorten errors.

    TrialrunError                    1
    ├── InvalidParameterError        2   an invalid setting or argument
    ├── DataError                    3
    │   ├── NotLabeledDatasetError       no labels
    │   ├── InvalidDatasetError          classes differ, one class, an empty class, nothing readable
    │   └── InvalidArchiveError          a damaged or malicious archive
    ├── InvalidModelDirectoryError   4   not a PyTorch image model of trialrun or Azure, or damaged
    ├── TrackingError                5   an error of the tracking store or the model registry
    │   └── PromotionRefusedError        a promotion gate failed
    ├── StorageError                 6   disk full, folder not writable, file damaged, no answer of
    │                                    an object store
    ├── OutOfMemoryError             7   the hint names a batch size that fits
    └── NotReproducedError           8   `reproduce` came to another result

`FirstRankFailedError`, with which other ranks end, has the exit code of rank 0's error. A signal is
not an error: `RunInterruptedError` exits with 75 (EX_TEMPFAIL of sysexits.h).
Errors of other libraries are translated only where those libraries are called.
"""

import re
from collections.abc import Sequence
from typing import Any

_CREDENTIALS = re.compile(r"(?<=://)[^/\s?#]*@")
_SIGNATURES = re.compile(  # of signed addresses of object stores
    r"(?<=[?&])((?:X-(?:Amz|Goog)-(?:Signature|Credential|Security-Token)|Signature|sig|token)=)"
    r"[^&\s'\"]*",
    re.IGNORECASE,
)


class TrialrunError(Exception):
    """An error for the user: a message, and a hint that says what to do."""

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)  # the hint has a default so that worker processes can re-raise us
        self.hint = hint

    def __reduce__(self) -> tuple[type["TrialrunError"], tuple[str, str]]:
        return type(self), (str(self), self.hint)


class InvalidParameterError(TrialrunError):
    """A setting or argument has an invalid value or does not exist."""

    exit_code = 2


class DataError(TrialrunError):
    """The images cannot be used as they are."""

    exit_code = 3


class NotLabeledDatasetError(DataError):
    """The dataset has no labels."""


class InvalidDatasetError(DataError):
    """The classes of two sets differ, or a set has one class, an empty class or no images."""


class InvalidArchiveError(DataError):
    """The archive is damaged, encrypted, not an archive, or writes outside its folder."""


class InvalidModelDirectoryError(TrialrunError):
    """Not a PyTorch image model of trialrun or Azure, or damaged, or loading it would run code."""

    exit_code = 4


class TrackingError(TrialrunError):
    """The tracking store or the model registry refused or failed a request."""

    exit_code = 5


class PromotionRefusedError(TrackingError):
    """A gate refused the promotion of a version."""


class StorageError(TrialrunError):
    """The disk is full, a folder is not writable, or a file is damaged and has no intact copy.

    Also: an object store does not answer.
    """

    exit_code = 6


class OutOfMemoryError(TrialrunError):
    """The batch does not fit in memory; the hint of a training names a size that was tried."""

    exit_code = 7


class NotReproducedError(TrialrunError):
    """A repetition of a run came to another result than the original."""

    exit_code = 8


class FirstRankFailedError(TrialrunError):
    """Rank 0 failed: it has reported its own error, and the other ranks stop without one.

    They end with its exit code.
    """

    def __init__(self, exit_code: int) -> None:
        super().__init__("rank 0 failed", "Read the error of rank 0.")
        self.exit_code = exit_code

    def __reduce__(self) -> tuple[type["TrialrunError"], tuple[Any, ...]]:
        return type(self), (self.exit_code,)


class RunInterruptedError(BaseException):
    """A signal stopped the process. Not an `Exception`, so `except Exception` lets it pass."""

    exit_code = 75

    def __init__(self, signal_name: str) -> None:
        super().__init__(f"stopped by {signal_name}")
        self.signal_name = signal_name
        self.is_agreed = False  # whether all ranks stop after the same step
        self.hint = "Nothing was recorded yet; start it again."


CutBySignalError = RunInterruptedError  # the former name, which callers of the library may catch


def merge_errors(errors: Sequence[TrialrunError]) -> TrialrunError:
    """Merge errors into one of the class with the lowest exit code; keep every message and hint.

    Raises:
        ValueError: `errors` is empty.
    """
    if not errors:
        raise ValueError("no errors to merge")
    if len(errors) == 1:
        return errors[0]
    ordered = sorted(errors, key=lambda error: error.exit_code)
    merged_type = type(ordered[0])
    messages = [
        str(error) if type(error) is merged_type else f"{type(error).__name__}: {error}"
        for error in ordered
    ]
    hints = dict.fromkeys(error.hint for error in ordered if error.hint)
    return merged_type("; ".join(messages), " ".join(hints))


def summarize_error(error: BaseException) -> str:
    """Return the first line of the error's message, or its class name if the message is empty."""
    return (str(error).splitlines() or [""])[0] or type(error).__name__


def redact_credentials(text: str) -> str:
    """Return `text` with users, passwords and signatures removed from its URLs."""
    return _SIGNATURES.sub(r"\1...", _CREDENTIALS.sub("", text))
