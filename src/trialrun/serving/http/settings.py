"""Checks of the server's settings, before torch and the server's packages are imported."""

import ipaddress
from pathlib import Path

from trialrun.config.serve import ServeConfig
from trialrun.errors import InvalidParameterError, summarize_error
from trialrun.extras import import_extra

_EXTRA = "serve"
_PACKAGES = ("prometheus_client", "python_multipart")
_MIN_TOKEN_CHARACTERS = 16


def check_settings(model: str, config: ServeConfig) -> str | None:
    """Check what can be checked before the model is opened; return the token.

    Raises:
        InvalidParameterError: A host that others reach without a token, an alias to follow that
            MODEL does not have, or a package is missing.
    """
    token = None if config.token_file is None else read_token(config.token_file)
    if token is None and not _is_loopback(config.host):
        raise InvalidParameterError(
            f"host={config.host} is reachable from other machines, and token_file is not set",
            "Set --token-file to a file with a token, or listen on 127.0.0.1.",
        )
    if config.reload_alias and not (model.startswith("models:/") and "@" in model):
        raise InvalidParameterError(
            f"reload_alias needs an alias to follow, and {model} has none",
            "Give MODEL as models:/NAME@champion.",
        )
    for package in _PACKAGES:
        import_extra(package, _EXTRA, needed_by="`trialrun serve`")
    return token


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def read_token(path: str) -> str:
    """Return the token in a file, without white space around it.

    Raises:
        InvalidParameterError: The file cannot be read, or its content is not a token.
    """
    try:
        token = Path(path).expanduser().read_text("ascii").strip()
    except (OSError, ValueError) as error:
        raise InvalidParameterError(
            f"token_file={path} cannot be read: {summarize_error(error)}",
            "Give a file with one line of ASCII text.",
        ) from None
    if len(token) < _MIN_TOKEN_CHARACTERS or any(character.isspace() for character in token):
        raise InvalidParameterError(
            f"token_file={path} does not contain one word of {_MIN_TOKEN_CHARACTERS} characters or "
            "more",
            f"Write one: python3 -c 'import secrets; print(secrets.token_urlsafe())' > {path}",
        )
    return token
