"""The result of a training, as a notebook shows it."""

from trialrun.runs.training.outcome.result import TrainResult, name_model


def make_result(model_name: str | None) -> TrainResult:
    """A finished run, with a registered version if `model_name` is given."""
    return TrainResult(
        run_id="0" * 32,
        status="FINISHED",
        stop_reason="early_stop",
        stopped_epoch=5,
        best_epoch=2,
        best_valid_loss=0.123456,
        metrics={"valid_accuracy": 0.98761},
        model_uri="models:/m-1",
        model_name=model_name,
        model_version="3" if model_name else None,
    )


def test_table_has_the_best_epoch_and_the_version() -> None:
    """The table has rounded numbers of the best epoch and the address in the registry, escaped."""
    html = make_result("a<b>")._repr_html_()
    for text in ("Training FINISHED", "2 of 5", "0.1235", "0.9876", "models:/a&lt;b&gt;/3"):
        assert text in html


def test_table_without_a_version_has_the_logged_model() -> None:
    """A model that was not registered has the address of the run's model."""
    assert "models:/m-1" in make_result(None)._repr_html_()
    assert name_model("digits", None) is None
