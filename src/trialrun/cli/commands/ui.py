"""`trialrun ui`: a command that serves MLflow's UI at a prepared view."""

from typing import TYPE_CHECKING, Any

from trialrun.cli.app import Json, app
from trialrun.cli.flags import flags_for
from trialrun.cli.output import print_json, print_result, print_status, silence_mlflow
from trialrun.config.ui import UiConfig

if TYPE_CHECKING:
    from trialrun.runs.ui.show import ShownUi


@app.command()
@flags_for(UiConfig)
def ui(
    json: Json = False,
    **settings: Any,
) -> None:
    """Serve MLflow's UI on the store, opened at a prepared view.

    The view has the columns and charts that compare runs: best accuracy and loss, the settings
    that were searched, learning curves. Ctrl-C or SIGTERM stops the server. If MLFLOW_TRACKING_URI
    is a tracking server, the view is written there and its address is printed.
    """
    from trialrun.config import build_config

    config = build_config(UiConfig, settings)
    silence_mlflow()
    from trialrun.runs.ui.show import show_ui

    def announce(shown: "ShownUi") -> None:
        if shown.note:
            print_status(f"Note: {shown.note}")
        if json:
            print_json(shown.to_json())
        else:
            print_result(f"MLflow's UI is at {shown.address}")
            print_status("Press Ctrl-C to stop")
        if config.open:
            _open_browser(shown.address)

    show_ui(config, announce)


def _open_browser(address: str) -> None:
    import webbrowser

    if not webbrowser.open(address):
        print_status("Note: no browser was found; open the address yourself")
