"""Settings of `trialrun serve`, except the model."""

from dataclasses import dataclass

from trialrun.config.settings import AUTO_TEXT, device_setting, setting

TORCH_ENGINE = "torch"
_MEBIBYTE = 1 << 20
MAX_PIXELS = 89_478_485  # the decoder's own limit


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeConfig:
    """Settings of the HTTP server; `build_config` builds and checks it."""

    host: str = setting(
        "127.0.0.1", "Address to listen on; any other than loopback needs --token-file."
    )
    port: int = setting(8000, "Port to listen on; 0 takes a free one.", low=0, high=65535)
    token_file: str | None = setting(
        None,
        "File with a token that clients must send as `Authorization: Bearer TOKEN`.",
        path=True,
    )
    reload_alias: bool = setting(
        False, "Follow the alias of MODEL (models:/NAME@alias): load the version it moves to."
    )
    reload_seconds: float = setting(
        5.0, "Seconds between two looks at the alias.", low=0.1, high=3600
    )
    device: str = device_setting(
        "Device to compute on; auto is CUDA if available, else MPS, else the CPU."
    )
    engine: str = setting(
        AUTO_TEXT,
        "auto computes with the engine that the version is certified for, if any; torch computes "
        "in fp32.",
        choices=(AUTO_TEXT, TORCH_ENGINE),
    )
    batch_size: int | str = setting(
        AUTO_TEXT,
        "Most images per batch; auto chooses by the image size, the device and the free memory.",
        low=1,
        auto=True,
    )
    batch_milliseconds: float = setting(
        5.0, "How long an image waits for others to share its batch.", low=0, high=1000
    )
    queue_size: int = setting(
        256, "Most images that wait or are computed at once; further ones are refused (429).", low=1
    )
    max_request_bytes: int = setting(
        16 * _MEBIBYTE, "Largest body of a request; larger ones are refused (413).", low=1
    )
    max_pixels: int = setting(
        50_000_000,
        "Most pixels of an image; larger ones are refused before they are decoded (422).",
        low=1,
        high=MAX_PIXELS,
    )
    stop_seconds: float = setting(
        30.0, "Most seconds that a stop waits for the requests it has taken.", low=0, high=3600
    )
