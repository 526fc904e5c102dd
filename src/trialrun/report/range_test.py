"""The curve of a learning rate range test, as a PNG picture."""

import io
from collections.abc import Sequence


def draw_range_test(
    learning_rates: Sequence[float],
    losses: Sequence[float],
    smoothed_losses: Sequence[float],
    chosen: float,
) -> bytes:
    """Draw both losses in nats over the learning rate, and a line at the chosen rate."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), dpi=110, layout="constrained")
    panel = figure.subplots()
    panel.plot(learning_rates, losses, color="C0", alpha=0.4, label="loss of a step")
    panel.plot(learning_rates, smoothed_losses, color="C0", label="smoothed loss")
    panel.axvline(chosen, color="C1", linestyle="--", label=f"chosen: {chosen:.3g}")
    panel.set_xscale("log")
    panel.set_xlabel("learning rate")
    panel.set_ylabel("training loss in nats")
    panel.grid(alpha=0.3)
    panel.legend()
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    return picture.getvalue()
