"""A receiver of MLflow webhooks that runs `trialrun promote` on each newly registered version.

    TRIALRUN_WEBHOOK_SECRET=... python examples/promote_on_registration.py \
        --data /srv/test-images --port 8099 -- --require better

`mlflow_webhooks.py` must be in the same folder and describes the server. `trialrun history NAME`
shows the result.
"""

from typing import Any

from mlflow_webhooks import Command, MakeCommand, is_event, make_parser, serve


def promote_with(data: str, options: list[str]) -> MakeCommand:
    """Return a function that makes the command for a `model_version.created` event."""

    def make_command(event: Any) -> Command | None:
        if not is_event(event, "model_version", ["created"]):
            return None
        name, version = str(event["data"]["name"]), str(event["data"]["version"])
        return ["promote", "--version", version, "--data", data, *options, "--", name]

    return make_command


def main() -> None:
    """Run the receiver until it is stopped."""
    parser = make_parser(__doc__)
    parser.add_argument("--data", required=True, help="labelled test images")
    parser.add_argument("options", nargs="*", help="options of `trialrun promote`, after --")
    arguments = parser.parse_args()
    serve(arguments.port, promote_with(arguments.data, arguments.options))


if __name__ == "__main__":
    main()
