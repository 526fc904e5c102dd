"""The settings of a search: how many trials, kept where, judged by what.

What is searched are the settings of `train`, given as ranges or choices; these come beside them.
"""

from dataclasses import dataclass

from trialrun.config.settings import SMALLEST_POSITIVE_DOUBLE, as_texts, setting

# The metrics of an epoch, and which way is better; a test holds the names to the engine's.
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
MIN_CLASSES_FOR_TOP5 = 5  # with fewer classes there is no top-5 accuracy


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchConfig:
    """One search's settings; build it with `from_values`, which checks them."""

    trials: int = setting(
        20,
        "Trials that the study is to hold in all, trained to their end or pruned; those that "
        "failed are not counted.",
        low=1,
    )
    workers: int = setting(1, "Processes that train at the same time on this machine.", low=1)
    study: str | None = setting(
        None, "Name of the study; one that is there goes on. none makes a new one."
    )
    storage: str | None = setting(
        None,
        "Where the study is kept: sqlite:///FILE or postgresql://…; none is optuna.db beside the "
        "tracking store.",
    )
    timeout: float | None = setting(
        None, "Seconds after which no trial is begun any more.", low=SMALLEST_POSITIVE_DOUBLE
    )
    sampler: str = setting(
        "tpe",
        "What proposes settings; grid goes through all combinations.",
        choices=("tpe", "gp", "random", "grid", "cmaes"),
    )
    pruner: str = setting(
        "median",
        "What ends hopeless trials early; needs a single metric.",
        choices=("median", "hyperband", "none"),
    )
    metric: str = setting(
        "valid_loss",
        "What trials are judged by, at the best epoch; several with commas give a Pareto front, "
        "the first deciding which model is the best.",
    )
    direction: str = setting(
        "auto",
        "minimize or maximize, one a metric, with commas; auto knows which way is better.",
    )
    replicates: int = setting(
        0,
        "Times that the best settings are trained again with other seeds, to tell a better "
        "setting from a lucky seed; 0 does not.",
        low=0,
    )
    finalists: int = setting(3, "How many of the best settings `replicates` trains again.", low=2)
    enqueue: str | None = setting(
        None, "JSON file with a list of settings to try first, each an object of names and values."
    )
    from_study: str | None = setting(
        None, "Another study of the same storage, whose best settings are tried first."
    )
    retries: int = setting(3, "Times that a trial whose worker was lost is begun again.", low=0)
    heartbeat_seconds: int = setting(
        30, "How often a worker shows that it lives; it is given up after three times that.", low=1
    )

    def params(self) -> dict[str, str]:
        """Name to text, as MLflow stores parameters."""
        return as_texts(self)
