"""`trialrun doctor`: a command that checks this machine, the store and what runs left behind."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from trialrun.cli.app import CheckpointDir, Json, app
from trialrun.cli.output import print_json, print_result, print_status, silence_mlflow
from trialrun.cli.terminal import find_width, wrap

if TYPE_CHECKING:
    from trialrun.runs.recovery.doctor.examination import Diagnosis
    from trialrun.runs.recovery.doctor.findings import Finding

_GAP = 2
_MIN_TEXT_WIDTH = 30


@app.command()
def doctor(
    fix: Annotated[
        bool,
        typer.Option(
            "--fix",
            help="End runs whose process is gone, send records that wait on disk, delete damaged "
            "checkpoints beside intact ones and folders of finished runs.",
        ),
    ] = False,
    checkpoint_dir: CheckpointDir = None,
    json: Json = False,
) -> None:
    """Check the installation, the store and unfinished runs.

    Exit code: 0 without problems, else the lowest of 1 (installation), 5 (tracking store,
    stale runs, unsent records) and 6 (disks, folders, checkpoints).
    """
    silence_mlflow()
    from trialrun.runs.recovery.doctor.examination import diagnose
    from trialrun.runs.recovery.doctor.findings import PROBLEM, check_findings

    diagnosis = diagnose(checkpoint_dir, fix=fix)
    findings = diagnosis.findings
    if json:
        is_well = all(finding.state != PROBLEM for finding in findings)
        rows = [finding.to_json() for finding in findings]
        print_json({"is_well": is_well, "repairs": diagnosis.repairs, "findings": rows})
    else:
        _print_diagnosis(diagnosis)
        if fix and not diagnosis.repairs:
            print_status("Nothing to repair.")
    check_findings(findings)


def _print_diagnosis(diagnosis: "Diagnosis") -> None:
    for text in diagnosis.repairs:
        print_result(_wrap(text, "Repair: ", len("Repair: ")))
    findings = diagnosis.findings
    widths = [max(len(cells) for cells in column) for column in _list_columns(findings)]
    for finding in findings:
        _print_finding(finding, *widths)


def _list_columns(findings: "list[Finding]") -> tuple[list[str], list[str]]:
    return [finding.name for finding in findings], [finding.state for finding in findings]


def _print_finding(finding: "Finding", name_width: int, state_width: int) -> None:
    """Print name, state and text in columns, and what to do below the text."""
    indent = name_width + state_width + 2 * _GAP
    first = f"{finding.name:<{name_width + _GAP}}{finding.state:<{state_width + _GAP}}"
    print_result(_wrap(finding.text, first, indent))
    if finding.remedy:
        print_result(_wrap(f"To do: {finding.remedy}", " " * indent, indent))


def _wrap(text: str, first: str, indent: int) -> str:
    """Wrap a text at the terminal's width; words are not broken, so that they can be copied."""
    width = max(find_width(sys.stdout), indent + _MIN_TEXT_WIDTH)
    return wrap(text, width, " " * indent, first=first)
