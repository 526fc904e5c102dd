"""What tests of the whole program share: skipping where a machine lacks a server or a right."""

import os
from typing import NoReturn

import pytest


def skip_unless_ci(reason: str) -> NoReturn:
    """Skip the test for `reason`; fail it in CI, where everything it needs is installed."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)
