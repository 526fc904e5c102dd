"""All commands; importing this package adds them to the application.

To add a command:

1. Write a module here. Decorate its function with `@app.command()`, or with
   `@group.command("name")` for a group made by `add_command_group`. The function's parameters
   become arguments and options; `@flags_for(Config)` adds one flag per setting. The docstring is
   the help text; its first sentence, of at most 60 characters, also describes the command in lists.
2. Import the module below.
3. Add a command or group of `app` to `_COMMAND_ORDER` in `trialrun.cli.app`.

Import torch and MLflow inside the functions, so that `--help` and completion stay fast.
"""

from trialrun.cli.app import app
from trialrun.cli.commands import (
    cache,
    compare,
    data,
    doctor,
    evaluate,
    export,
    model,
    registry,
    reproduce,
    resume,
    score,
    search,
    serve,
    sync,
    train,
    ui,
)

__all__ = [
    "app",
    "cache",
    "compare",
    "data",
    "doctor",
    "evaluate",
    "export",
    "model",
    "registry",
    "reproduce",
    "resume",
    "score",
    "search",
    "serve",
    "sync",
    "train",
    "ui",
]
