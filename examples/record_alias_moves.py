"""A receiver of MLflow webhooks that runs `trialrun history` whenever an alias is set or deleted.

    TRIALRUN_WEBHOOK_SECRET=... python examples/record_alias_moves.py --alias champion --port 8098

MLflow does not store who moved an alias and when. `trialrun history` writes a move by another
program to the history as soon as it finds it, so that its time is known to seconds. Deliveries for
other aliases are ignored. `mlflow_webhooks.py` must be in the same folder and describes the server.
"""

from collections.abc import Collection
from typing import Any

from mlflow_webhooks import Command, MakeCommand, is_event, make_parser, serve


def record_moves_of(aliases: Collection[str]) -> MakeCommand:
    """Return a function that makes the command for an event of one of `aliases`."""

    def make_command(event: Any) -> Command | None:
        if not is_event(event, "model_version_alias", ["created", "deleted"]):
            return None
        name, alias = str(event["data"]["name"]), str(event["data"]["alias"])
        return ["history", "--alias", alias, "--", name] if alias in aliases else None

    return make_command


def main() -> None:
    """Run the receiver until it is stopped."""
    parser = make_parser(__doc__)
    parser.add_argument("--alias", action="append", help="alias to watch; may be repeated")
    arguments = parser.parse_args()
    serve(arguments.port, record_moves_of(arguments.alias or ["champion"]))


if __name__ == "__main__":
    main()
