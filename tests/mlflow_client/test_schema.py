"""Tests of the judgement of database schemas."""

import pytest

from trialrun.errors import TrackingError
from trialrun.mlflow_client.schema import (
    Schema,
    _load_revisions,
    _load_tables,
    check_schema,
    is_ready,
    judge_schema,
)

TABLES = _load_tables()
NEWEST, OLDER = _load_revisions()[0], _load_revisions()[20]
SOME = frozenset({"experiments"})


@pytest.mark.parametrize(
    ("schema", "state"),
    [
        (Schema(), "empty"),
        (Schema(frozenset({"trials"})), "empty"),
        (Schema(TABLES, NEWEST, SOME), "complete"),
        (Schema(TABLES | {"added"}, NEWEST, SOME), "complete"),
        (Schema(TABLES, NEWEST), "unopened"),
        (Schema(TABLES, OLDER), "incomplete"),
        (Schema(frozenset({"experiments", "runs"})), "incomplete"),
        (Schema(frozenset({"alembic_version"}), OLDER), "incomplete"),
        (Schema(TABLES, OLDER, SOME), "older"),
        (Schema(TABLES - {"logged_models"}, OLDER, SOME), "older"),
        (Schema(frozenset({"experiments", "runs"}), None, SOME), "older"),
        (Schema(TABLES, "unknown", SOME), "newer"),
        (Schema(frozenset({"trials", "alembic_version"}), "unknown"), "foreign"),
    ],
)
def test_state_follows_from_tables_revision_and_data(schema: Schema, state: str) -> None:
    """Only a schema without user data counts as incomplete."""
    assert judge_schema(schema) == state


def test_only_a_complete_schema_is_ready() -> None:
    """MLflow would create what is missing in the others."""
    assert is_ready(Schema(TABLES, NEWEST, SOME))
    assert not is_ready(Schema(TABLES, NEWEST))
    assert not is_ready(Schema(TABLES - {"runs"}, NEWEST, SOME))


def test_password_is_not_in_the_command_that_upgrades() -> None:
    """The error is printed and recorded."""
    with pytest.raises(TrackingError) as raised:
        check_schema(Schema(TABLES, OLDER, SOME), "postgresql://me:s3cret@host/runs")
    assert "`mlflow db upgrade postgresql://host/runs`, with the user" in raised.value.hint
    assert "s3cret" not in str(raised.value) + raised.value.hint
