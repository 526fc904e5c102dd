"""The evaluator that MLflow finds by the entry point `mlflow.model_evaluator`."""

from typing import Any

# MLflow imports this module, and nothing else does, so the import costs nothing.
from mlflow.models.evaluation.base import (  # noqa: TID253
    EvaluationResult,
    ModelEvaluator,
)

_CLASSIFIER = "classifier"


class TrialrunEvaluator(ModelEvaluator):
    """The report of trialrun, with intervals, for `mlflow.models.evaluate`.

    `docs/report.md` describes its data, its settings and what it stores.
    """

    @classmethod
    def can_evaluate(cls, *, model_type: str, evaluator_config: Any, **kwargs: Any) -> bool:
        """Whether the model is a classifier."""
        return model_type == _CLASSIFIER

    def evaluate(
        self,
        *,
        model_type: str,
        dataset: Any,
        run_id: str,
        evaluator_config: dict[str, Any] | None,
        model: Any = None,
        extra_metrics: Any = None,
        custom_artifacts: Any = None,
        predictions: str | None = None,
        **kwargs: Any,
    ) -> EvaluationResult:
        """Store the report with the run `run_id`; return its metrics and files.

        `extra_metrics` and `custom_artifacts` are for MLflow's own evaluators.

        Raises:
            MlflowException: The data, the settings or the model's output cannot be used.
        """
        from trialrun.runs.evaluation.plugin.frame import evaluate_frame

        return evaluate_frame(
            dataset,
            run_id,
            evaluator_config or {},
            model=model,
            model_id=kwargs.get("model_id"),
            column=predictions,
        )
