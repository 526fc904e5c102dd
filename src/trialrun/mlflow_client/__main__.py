"""Creates missing databases of the tracking store: `python -m trialrun.mlflow_client`."""

from trialrun.fast_exit import FastExit
from trialrun.fast_start import start_fast
from trialrun.mlflow_client.stores import prepare_store
from trialrun.mlflow_client.tracking_uri import resolve_uris


def main() -> int:
    """Create what is missing; return the exit code."""
    start_fast()
    for uri in resolve_uris():
        prepare_store(uri)
    return 0


if __name__ == "__main__":
    fast_exit = FastExit()
    fast_exit.exit_code = main()
