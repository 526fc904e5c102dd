"""`trialrun cache`: commands that list and clear the image cache."""

from trialrun.cli.app import Json, add_command_group
from trialrun.cli.output import print_json, print_message, print_result, print_status

_cache_app = add_command_group("cache", "List or clear the cache of decoded images and archives.")


@_cache_app.command("list")
def list_cache(json: Json = False) -> None:
    """List the entries of the cache with their sizes."""
    from dataclasses import asdict

    from trialrun.cache.location import cache_folder, cache_limit_bytes, decoded_folder
    from trialrun.image_cache.feature_tables import list_feature_files
    from trialrun.image_cache.inventory import list_archives, list_decoded

    features = list_feature_files()
    feature_bytes = sum(entry.num_bytes for entry in features)
    packs, archives, limit_bytes = list_decoded(), list_archives(), cache_limit_bytes()
    if json:
        unpacked = [
            {"folder": str(archive.folder), **asdict(archive.contents), "used": archive.used}
            for archive in archives
        ]
        values = {"folder": str(decoded_folder()), "limit_bytes": limit_bytes}
        values["features"] = {"num_files": len(features), "num_bytes": feature_bytes}
        print_json(values | {"packs": [asdict(pack) for pack in packs], "archives": unpacked})
        return
    for pack in packs:
        kind = f"of {pack.image_size} pixels" if pack.image_size else "without pixels"
        images = f"{pack.num_images:>8} images {kind}"
        print_result(f"{pack.key[:12]}  {pack.num_bytes / 1e6:>9.1f} MB  {images}  {pack.source}")
    for archive in archives:
        size = f"{archive.contents.num_bytes / 1e6:>9.1f} MB  {archive.contents.num_files:>8} files"
        print_result(f"{archive.folder.name[:12]}  {size} unpacked  {archive.contents.source}")
    if features:
        size = f"{feature_bytes / 1e6:>9.1f} MB"
        print_result(f"{'features':<12}  {size}  {len(features):>8} files of frozen backbones")
    num_bytes = feature_bytes + sum(pack.num_bytes for pack in packs)
    num_bytes += sum(archive.contents.num_bytes for archive in archives)
    print_status(
        f"{len(packs)} segments of decoded images and {len(archives)} unpacked archives in "
        f"{cache_folder()}, {num_bytes / 1e9:.3g} of {limit_bytes / 1e9:g} GB"
    )


@_cache_app.command("clear")
def clear_cache(json: Json = False) -> None:
    """Delete the entries of the cache.

    Unpacked archives that a process is using are kept.
    """
    from dataclasses import asdict

    from trialrun.cache.location import decoded_folder
    from trialrun.image_cache import inventory

    cleared = inventory.clear_cache()
    if json:
        print_json({"folder": str(decoded_folder()), **asdict(cleared)})
        return
    print_result(
        f"Deleted {cleared.num_packs} segments of decoded images, {cleared.num_archives} "
        f"unpacked archives and {cleared.num_features} files of features, "
        f"{cleared.num_bytes / 1e6:.1f} MB"
    )
    if cleared.num_in_use:
        print_status(f"{cleared.num_in_use} unpacked archives are in use and were kept")
    if cleared.num_not_allowed:
        print_message(
            f"{cleared.num_not_allowed} cache entries could not be deleted: "
            "check their owner and permissions"
        )
