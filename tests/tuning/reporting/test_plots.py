"""Plots of a study."""

import subprocess
import sys
from pathlib import Path

_PROGRAM = """
import sys
from pathlib import Path

import optuna

from trialrun.tuning.plan import plan_search
from trialrun.tuning.reporting.plots import draw_plots

optuna.logging.set_verbosity(optuna.logging.WARNING)
study = optuna.create_study()
rates = optuna.distributions.FloatDistribution(0, 1)
sizes = optuna.distributions.IntDistribution(1, 9)
for number in range(4):
    trial = study.ask({"learning_rate": rates, "batch_size": sizes})
    study.tell(trial, trial.params["learning_rate"])
plan = plan_search({"train_data": sys.argv[1]})
drawn = [path.name for path, _ in draw_plots(study, plan, Path(sys.argv[2])) if path]
assert "importances.png" in drawn, drawn
assert "sklearn" not in sys.modules
forests = optuna.importance.FanovaImportanceEvaluator()
assert set(optuna.importance.get_param_importances(study, evaluator=forests)) == set(trial.params)
assert "sklearn" in sys.modules
"""


def test_importances_load_no_random_forests(colors: Path, tmp_path: Path) -> None:
    """Optuna's other evaluators load them at their first use."""
    command = [sys.executable, "-c", _PROGRAM, str(colors), str(tmp_path)]
    subprocess.run(command, check=True)
