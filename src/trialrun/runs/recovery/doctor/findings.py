"""Findings of checks: the rows of the table of `trialrun doctor`, and their exit code."""

from dataclasses import dataclass
from typing import Any

from trialrun.errors import StorageError, TrackingError, TrialrunError

OK, NOTE, PROBLEM = "ok", "note", "problem"
_MAX_NAMED = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A result of a check.

    `state` is one of `OK`, `NOTE` (nothing needs to be done) and `PROBLEM`. `exit_code` is that of
    a problem, else 0. `is_fixable` says that `--fix` changes the finding.
    """

    name: str
    state: str
    text: str
    remedy: str = ""
    run_id: str | None = None
    exit_code: int = 0
    is_fixable: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return plain values by the names of the fields."""
        return {name: getattr(self, name) for name in self.__slots__}


def report_ok(name: str, text: str) -> Finding:
    """Return the finding of a check without objections."""
    return Finding(name=name, state=OK, text=text)


def report_note(name: str, text: str, remedy: str = "", **values: Any) -> Finding:
    """Return a finding that a user may want to know."""
    return Finding(name=name, state=NOTE, text=text, remedy=remedy, **values)


def report_problem(
    name: str, text: str, remedy: str, error: type[TrialrunError] = TrialrunError, **values: Any
) -> Finding:
    """Return a finding that needs action; `error` is the class with its exit code."""
    code = error.exit_code
    return Finding(name=name, state=PROBLEM, text=text, remedy=remedy, exit_code=code, **values)


def check_findings(findings: list[Finding]) -> None:
    """Check that no problem was found.

    Raises:
        TrialrunError: There are. The error has the lowest of their exit codes: without a working
            environment (1) nothing runs; without the store (5) nothing is recorded.
    """
    problems = [finding for finding in findings if finding.state == PROBLEM]
    if not problems:
        return
    code = min(finding.exit_code for finding in problems)
    types = {error.exit_code: error for error in (TrackingError, StorageError)}
    names = list(dict.fromkeys(finding.name for finding in problems))
    named = ", ".join(names[:_MAX_NAMED]) + (", …" if len(names) > _MAX_NAMED else "")
    count = "1 problem was" if len(problems) == 1 else f"{len(problems)} problems were"
    hint = (
        "`trialrun doctor --fix` repairs what it can."
        if any(finding.is_fixable for finding in problems)
        else problems[0].remedy
    )
    raise types.get(code, TrialrunError)(f"{count} found: {named}", hint)
