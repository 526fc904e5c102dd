"""The result of a search, as a notebook shows it."""

from trialrun.tuning.result import SearchResult


def test_table_has_the_best_trial_and_its_settings() -> None:
    """The table has the counts above zero, the best trial's settings and its version."""
    result = SearchResult(
        run_id="0" * 32,
        status="FINISHED",
        study="digits",
        storage="sqlite:///optuna.db",
        search_stop_reason="completed",
        num_trials={"complete": 3, "failed": 0},
        best_trial=1,
        best_run_id="1" * 32,
        best_params={"learning_rate": 0.0123456, "model": "<b>"},
        stop_reason="completed",
        stopped_epoch=5,
        best_epoch=4,
        best_valid_loss=0.5,
        model_name="digits",
        model_version="2",
    )
    html = result._repr_html_()
    for text in ("complete=3", "0.01235", "&lt;b&gt;", "4 of 5", "models:/digits/2"):
        assert text in html
    assert "failed" not in html
