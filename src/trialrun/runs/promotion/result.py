"""The result of a promotion, as plain values, as a description and as figures of the history."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trialrun.errors import PromotionRefusedError
from trialrun.registry.gates import Verdict
from trialrun.report.html_tables import render_table
from trialrun.report.markdown import escape_markdown
from trialrun.report.paired import PairedComparison
from trialrun.runs.promotion.baseline import CHAMPION_PREFIX


@dataclass(frozen=True, slots=True, kw_only=True)
class Promotion:
    """The result of a promotion, with a `refusal` unless the alias moved."""

    name: str
    version: str
    alias: str
    champion: str | None  # the version that it was compared with
    run_id: str
    data: str
    data_digest: str
    num_images: int
    attempt: int  # number of attempts that these images have judged, this one included
    verdict: Verdict
    metrics: Mapping[str, float]
    champion_metrics: Mapping[str, float]
    comparison: PairedComparison | None
    baseline: str | None  # a further version that it was compared with
    baseline_comparison: PairedComparison | None
    is_dry_run: bool
    notes: tuple[str, ...] = ()  # about the versions: earlier moves by hand, rollbacks and so on
    refusal: PromotionRefusedError | None = None

    @property
    def promoted(self) -> bool:
        """Whether the alias moved."""
        return self.refusal is None and not self.is_dry_run

    def raise_if_refused(self) -> None:
        """Raise the refusal, if there is one.

        Raises:
            PromotionRefusedError: The alias did not move.
        """
        if self.refusal is not None:
            raise self.refusal

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "promoted": self.promoted,
            "passed": self.refusal is None,
            "dry_run": self.is_dry_run,
            "name": self.name,
            "version": self.version,
            "alias": self.alias,
            "champion": self.champion,
            "run_id": self.run_id,
            "data": self.data,
            "data_digest": self.data_digest,
            "num_images": self.num_images,
            "attempt": self.attempt,
            "metrics": dict(self.metrics),
            "comparison": self.comparison.to_json() if self.comparison else None,
            "baseline": self.baseline,
            "baseline_comparison": self.baseline_comparison.to_json()
            if self.baseline_comparison
            else None,
            "notes": self.notes,
            "gates": self.verdict.to_json(),
            "refusal": str(self.refusal) if self.refusal else None,
        }

    def _repr_html_(self) -> str:
        """Return the table of gates for notebooks."""
        rows = [
            ("passed" if gate.passed else "refused", gate.name, gate.asked, gate.found)
            for gate in self.verdict.gates
        ]
        return render_table(
            _describe_outcome(self), rows, heading=("", "gate", "required", "found")
        )


def default_reason(result: Promotion) -> str:
    """Return the reason that the history shows if the user gave none."""
    comparison = result.comparison
    if comparison is None:
        return "the first"
    return (
        f"{comparison.metric} {comparison.difference:+.4f} "
        f"[{comparison.low:+.4f}, {comparison.high:+.4f}] "
        f"against version {result.champion}"
    )


def collect_figures(result: Promotion) -> dict[str, float]:
    """Return the metrics of both versions and their difference, as the history keeps them."""
    champion_metrics = {
        CHAMPION_PREFIX + name: value for name, value in result.champion_metrics.items()
    }
    figures = {
        name: round(value, 6) for name, value in {**result.metrics, **champion_metrics}.items()
    }
    if (comparison := result.comparison) is not None:
        figures |= {
            "difference": round(comparison.difference, 6),
            "low": round(comparison.low, 6),
            "high": round(comparison.high, 6),
        }
        if comparison.mcnemar_p is not None:
            figures["mcnemar_p"] = float(f"{comparison.mcnemar_p:.4g}")
    return figures


def format_card(result: Promotion) -> str:
    """Return the description of the promotion's run, as Markdown."""
    champion = f"version {result.champion}" if result.champion else "no champion"
    lines = [
        f"## {_describe_outcome(result)}",
        "",
        f"Compared with {champion} on {result.num_images} images of "
        f"{escape_markdown(result.data)}.",
        *(f"Note: {escape_markdown(note)}." for note in result.notes),
        "",
        "| | gate | required | found |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {'passed' if gate.passed else '**refused**'} | "
        + " | ".join(map(escape_markdown, (gate.name, gate.asked, gate.found)))
        + " |"
        for gate in result.verdict.gates
    ]
    if result.verdict.passed and result.refusal:
        lines += ["", str(result.refusal)]
    return "\n".join(lines)


def _describe_outcome(result: Promotion) -> str:
    outcome = "became" if result.promoted else "did not become"
    if result.is_dry_run:
        outcome = "would not become" if result.refusal else "would become"
    return f"{result.name} version {result.version} {outcome} {result.alias}"
