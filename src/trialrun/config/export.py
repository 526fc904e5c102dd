"""Settings of `trialrun export` and `bench`, except the model and the output."""

from dataclasses import dataclass

from trialrun.config.engines import ENGINES
from trialrun.config.settings import AUTO_TEXT, as_texts, setting

ONNX, PT2 = "onnx", "pt2"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportConfig:
    """Settings of an export; `build_config` builds and checks it."""

    format: str | None = setting(
        None, "Format of the file OUT; none is the suffix of OUT.", choices=(ONNX, PT2)
    )
    engine: str | None = setting(
        None,
        "Engine to certify instead of writing a file; auto tries all and takes the fastest that "
        "passes.",
        choices=(AUTO_TEXT, *ENGINES),
    )
    data: str | None = setting(
        None,
        "Images like the ones to score: they calibrate int8, which is not tried without them, and "
        "measure the parity of a file, for which none draws images.",
    )
    test: str | None = setting(
        None, "Labelled test images on which an engine is compared with torch in fp32."
    )
    register: str | None = setting(
        None,
        "Registered model that gets the new version; none is the model that MODEL is a version of.",
    )
    calibration_images: int = setting(300, "How many images of data calibrate int8.", low=1)
    margin: float = setting(0.01, "How much lower the accuracy of an engine may be.", low=0)
    max_class_drop: float | None = setting(
        0.1, "Largest accepted drop in the recall of any class.", low=0, high=1
    )
    max_log_loss_rise: float | None = setting(
        0.1, "Largest accepted rise of the log loss, in nats.", low=0
    )
    confidence: float = setting(0.95, "Confidence level for all engines together.", low=0.5, lt=1)
    allow_overlap: bool = setting(
        False,
        "Certify even if test images trained the model, chose its epoch or trial or calibrate "
        "int8, or if that is unknown.",
    )
    experiment: str | None = setting(
        None, "MLflow experiment of the certification run; none is MLflow's default experiment."
    )
    run_name: str | None = setting(None, "MLflow run name; none lets MLflow generate one.")

    def params(self) -> dict[str, str]:
        """Return the settings by name, as texts for MLflow parameters."""
        return as_texts(self)
