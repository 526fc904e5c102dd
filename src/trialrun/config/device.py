"""The setting `device`, the same wherever a command computes with torch."""

from typing import Any

from trialrun.config.knobs import AUTO_TEXT, knob


def device_knob(help: str, **rule: Any) -> Any:  # noqa: A002 - as `knob`
    """Declare the setting; `engine.device` says which device a value names."""
    return knob(
        AUTO_TEXT,
        help,
        pattern=r"auto|cpu|cuda(:\d{1,3})?|mps",
        form="auto | cpu | cuda | cuda:N | mps",
        **rule,
    )
