"""`trialrun serve`: a command that serves a model over HTTP."""

from typing import TYPE_CHECKING, Any

from trialrun.cli.app import Json, Model, app
from trialrun.cli.flags import flags_for
from trialrun.cli.output import print_json, print_result, print_status, silence_mlflow
from trialrun.config.serve import ServeConfig

if TYPE_CHECKING:
    from trialrun.serving.http.service.model import OpenModel


@app.command()
@flags_for(ServeConfig)
def serve(
    model: Model,
    json: Json = False,
    **settings: Any,
) -> None:
    """Serve MODEL over HTTP until a signal stops it.

    POST /predict takes the bytes of an image, or several as multipart/form-data; POST /invocations
    takes what MLflow's server takes. / is a page to drop images on, /docs describes the requests.
    SIGTERM and SIGINT finish the requests that were taken; a second one ends them (exit code 75).
    """
    from trialrun.config import build_config
    from trialrun.serving.http.settings import check_settings

    config = build_config(ServeConfig, settings)
    token = check_settings(model, config)
    silence_mlflow()
    from trialrun.runs.serving.serve import serve_model

    def announce(opened: "OpenModel", address: str) -> None:
        if json:
            print_json(
                {
                    "address": address,
                    "model_name": opened.name,
                    "model_version": opened.version or None,
                    "engine": opened.engine,
                }
            )
            return
        name = f"{opened.name} version {opened.version}" if opened.version else opened.name
        print_result(f"{name} is served at {address} with {opened.engine}")
        print_status("Press Ctrl-C to stop")

    serve_model(model, config, token, announce)
    print_status("Stopped; all requests that were taken are finished")
