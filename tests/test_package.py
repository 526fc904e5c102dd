"""The package itself."""

import trialrun


def test_version_is_text() -> None:
    """The package says which version it is."""
    assert trialrun.__version__
