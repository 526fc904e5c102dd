"""Tests of the error classes."""

import pickle

import pytest

from trialrun.errors import (
    InvalidDatasetError,
    InvalidParameterError,
    TrialrunError,
    merge_errors,
    redact_credentials,
)


def test_merged_error_has_the_lowest_exit_code_and_all_messages() -> None:
    """An invalid parameter and an invalid folder become one parameter error."""
    error = merge_errors(
        [InvalidDatasetError("no cats", "Add cats."), InvalidParameterError("epochs=0")]
    )
    assert isinstance(error, InvalidParameterError)
    assert str(error) == "epochs=0; InvalidDatasetError: no cats"
    assert error.hint == "Add cats."


def test_pickled_error_keeps_its_hint() -> None:
    """Errors of worker processes are pickled."""
    error = pickle.loads(pickle.dumps(InvalidDatasetError("no cats", "Add cats.")))
    assert (type(error), str(error), error.hint) == (InvalidDatasetError, "no cats", "Add cats.")


def test_merging_no_errors_is_a_value_error() -> None:
    """An empty list is a mistake of the caller, not of the user."""
    with pytest.raises(ValueError, match="no errors"):
        merge_errors([])


def list_classes(base: type[TrialrunError] = TrialrunError) -> list[type[TrialrunError]]:
    """Return `base` and all its subclasses."""
    return [base, *(found for child in base.__subclasses__() for found in list_classes(child))]


def test_exit_codes_are_the_documented_ones() -> None:
    """Scripts distinguish errors by them."""
    codes = {error.__name__: error.exit_code for error in list_classes()}
    assert codes["InvalidParameterError"] == 2
    assert codes["NotLabeledDatasetError"] == codes["InvalidArchiveError"] == 3
    assert codes["InvalidModelDirectoryError"] == 4
    assert codes["TrackingError"] == codes["PromotionRefusedError"] == 5
    assert (codes["StorageError"], codes["OutOfMemoryError"]) == (6, 7)
    assert codes["NotReproducedError"] == 8


def test_addresses_are_shown_without_credentials() -> None:
    """Users, passwords and the signatures of signed addresses are removed, not the rest."""
    text = "https://me:secret@host/a.tar?X-Amz-Signature=abc&part=1 s3://key@data/b.tar?sig=def"
    shown = "https://host/a.tar?X-Amz-Signature=...&part=1 s3://data/b.tar?sig=..."
    assert redact_credentials(text) == shown
