"""Settings of `trialrun search` beside those of `train`: trials, storage, sampler, objective.

The searched settings themselves are settings of `train`, given as ranges or choices.
"""

from dataclasses import dataclass

from trialrun.config.settings import AUTO_TEXT, SMALLEST_POSITIVE_DOUBLE, as_texts, setting

# The metrics of an epoch and the better direction; a test compares the names with the engine's.
METRIC_DIRECTIONS = {
    "train_loss": "minimize",
    "train_accuracy": "maximize",
    "valid_loss": "minimize",
    "valid_accuracy": "maximize",
    "valid_top5_accuracy": "maximize",
    "learning_rate": "minimize",
    "train_images_per_second": "maximize",
    "valid_images_per_second": "maximize",
    "data_wait_fraction": "minimize",
    "epoch_seconds": "minimize",
}
MIN_CLASSES_FOR_TOP5 = 5  # fewer classes have no top-5 accuracy


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchConfig:
    """Settings of a search; `build_config` builds and checks it."""

    trials: int = setting(
        20,
        "Total number of trials in the study, completed or pruned; failed trials do not count.",
        low=1,
    )
    workers: int | str = setting(
        AUTO_TEXT,
        "Processes that train trials in parallel on this machine. auto: with small images one per "
        "core, with larger ones fewer, on GPUs one each. 1 makes the search repeatable.",
        low=1,
        auto=True,
    )
    study: str | None = setting(
        None,
        "Name of the study; an existing study is resumed. none creates a new one.",
        # The parent run has the same name, and the column of run names has this width.
        pattern=r"(?s).{1,250}",
        pattern_help="text of at most 250 characters",
    )
    storage: str | None = setting(
        None,
        "Database of the study: sqlite:///FILE or postgresql://…; none is optuna.db beside the "
        "tracking store.",
    )
    timeout: float | None = setting(
        None, "Start no new trial after this many seconds.", low=SMALLEST_POSITIVE_DOUBLE
    )
    sampler: str = setting(
        "tpe",
        "Optuna sampler that proposes settings; grid tries every combination.",
        choices=("tpe", "gp", "random", "grid", "cmaes"),
    )
    pruner: str = setting(
        "median",
        "Optuna pruner that stops unpromising trials early; needs a single metric.",
        choices=("median", "hyperband", "none"),
    )
    metric: str = setting(
        "valid_loss",
        "Metric to optimize, taken at the best epoch of a trial. Several, comma-separated, give a "
        "Pareto front; the first metric selects the best model.",
        suggestions=tuple(METRIC_DIRECTIONS),
    )
    direction: str = setting(
        "auto",
        "minimize or maximize, comma-separated, one per metric; auto picks each direction.",
        suggestions=("auto", "minimize", "maximize"),
    )
    replicates: int = setting(
        0,
        "Number of extra runs, each with another seed, for each of the best settings. They show "
        "whether a setting is better or its seed was lucky. 0 is off.",
        low=0,
    )
    finalists: int = setting(3, "Number of best settings that `replicates` trains again.", low=2)
    enqueue: str | None = setting(
        None,
        "JSON file of settings to try first: a list of objects, setting name to value.",
        path=True,
    )
    from_study: str | None = setting(
        None, "Another study in the same storage; its best settings are tried first."
    )
    retries: int = setting(
        3, "Number of times that a trial is restarted if its worker dies.", low=0
    )
    heartbeat_seconds: int = setting(
        30,
        "Interval of worker heartbeats; a worker is considered dead after three intervals.",
        low=1,
    )

    def params(self) -> dict[str, str]:
        """Return the settings by name, as texts for MLflow parameters."""
        return as_texts(self)
