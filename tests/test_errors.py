"""What users are told."""

import pickle

import pytest

from trialrun.errors import InvalidDatasetError, InvalidParameterError, TrialrunError, merge_errors


def test_lowest_exit_code_leads_and_nothing_is_dropped() -> None:
    """A wrong parameter and a wrong folder are told together, as a parameter's error."""
    error = merge_errors(
        [InvalidDatasetError("no cats", "Add cats."), InvalidParameterError("epochs=0")]
    )
    assert isinstance(error, InvalidParameterError)
    assert str(error) == "epochs=0; InvalidDatasetError: no cats"
    assert error.hint == "Add cats."


def test_errors_cross_processes_whole() -> None:
    """A worker's error arrives with its hint."""
    error = pickle.loads(pickle.dumps(InvalidDatasetError("no cats", "Add cats.")))
    assert (type(error), str(error), error.hint) == (InvalidDatasetError, "no cats", "Add cats.")


def test_nothing_to_merge_is_a_callers_mistake() -> None:
    """An empty list is no error for users."""
    with pytest.raises(ValueError, match="no errors"):
        merge_errors([])


def all_kinds(kind: type[TrialrunError] = TrialrunError) -> list[type[TrialrunError]]:
    """Every kind of error below `kind`."""
    return [kind, *(each for child in kind.__subclasses__() for each in all_kinds(child))]


def test_exit_codes_are_those_promised() -> None:
    """Scripts can tell the kinds apart."""
    codes = {kind.__name__: kind.exit_code for kind in all_kinds()}
    assert codes["InvalidParameterError"] == 2
    assert codes["NotLabeledDatasetError"] == codes["InvalidArchiveError"] == 3
    assert codes["InvalidModelDirectoryError"] == 4
    assert codes["TrackingError"] == codes["PromotionRefusedError"] == 5
    assert (codes["StorageError"], codes["OutOfMemoryError"]) == (6, 7)
