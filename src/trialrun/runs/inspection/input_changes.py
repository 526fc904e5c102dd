"""Changes of a run's inputs since its training: images, model, initial weights, transforms."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trialrun.config import AUTO_TEXT, NONE_TEXT
from trialrun.errors import (
    InvalidDatasetError,
    InvalidModelDirectoryError,
    InvalidParameterError,
    TrialrunError,
    merge_errors,
)
from trialrun.images import make_printable
from trialrun.images.scanning.scan import DatasetScan, scan_files
from trialrun.images.scanning.thread_pool import count_threads
from trialrun.models.weights.state_hash import hash_state
from trialrun.models.zoo.names import DEFAULT_WEIGHTS, is_network_name
from trialrun.registry.versions import read_manifest
from trialrun.runs.inspection.run_reader import RecordedRun
from trialrun.runs.training.initial import (
    CLASS_LIST,
    INITIAL_WEIGHTS,
    MODEL_DIRECTORY,
    TRANSFORMS,
    WEIGHTS_FILE,
    hash_sources,
    name_weights,
    read_weights_setting,
)
from trialrun.runs.training.plan import TrainPlan
from trialrun.runs.training.session import create_initial_network
from trialrun.tracking import truncate_digest

if TYPE_CHECKING:
    from mlflow import MlflowClient

_SHOWN_FILES = 5
_HINT = "Restore what has changed, or reproduce with the changes: --allow-changed-data."


@dataclass(frozen=True, slots=True, kw_only=True)
class InputChanges:
    """The changes of each input in words; empty where nothing has changed.

    `initial_weights` has causes for which no setting is responsible, such as another version of
    torch that draws other random weights.
    """

    data: tuple[str, ...] = ()
    model: tuple[str, ...] = ()
    transforms: tuple[str, ...] = ()
    initial_weights: tuple[str, ...] = ()

    def notes(self) -> tuple[str, ...]:
        """Return the changes except those of the data."""
        return (*self.model, *self.transforms, *self.initial_weights)

    def raise_if_refused(self, run_id: str) -> None:
        """Raise one error that names every changed input of run `run_id`.

        Raises:
            InvalidDatasetError: The images have changed.
            InvalidModelDirectoryError: The model or the weights have changed.
            InvalidParameterError: The transforms have changed.
        """
        errors: list[TrialrunError] = []
        if self.data:
            found = f"the data differs from that of run {run_id}: {'; '.join(self.data)}"
            errors.append(InvalidDatasetError(found, _HINT))
        errors += [InvalidModelDirectoryError(text, _HINT) for text in self.model]
        errors += [InvalidParameterError(text, _HINT) for text in self.transforms]
        if errors:
            raise merge_errors(errors)


def find_changes(
    client: "MlflowClient", original: RecordedRun, settings: Mapping[str, str], plan: TrainPlan
) -> InputChanges:
    """Compare the inputs that `plan` finds with the digests of the original run.

    `settings` are the original's. A digest that an earlier version did not record is not compared.

    Raises:
        TrialrunError: The model or the weights cannot be read, or the store fails.
    """
    before, after = original.params, _compute_params(original, plan)
    model, weights = _find_model_changes(settings, before, after)
    return InputChanges(
        data=(
            *_find_data_changes(client, original, plan),
            *_find_class_changes(settings, before, after),
        ),
        model=model,
        transforms=(f"transforms={settings['transforms']} contains other transforms",)
        if _has_changed(TRANSFORMS, before, after)
        else (),
        initial_weights=weights,
    )


def _compute_params(original: RecordedRun, plan: TrainPlan) -> dict[str, str]:
    """Return the parameters that a training by `plan` would record for its inputs.

    Initial weights that cannot be created, perhaps because a file has changed, are left out.
    """
    source = read_weights_setting(plan)
    weights = name_weights(plan, None if source == AUTO_TEXT else source)
    params = {"num_classes": str(len(plan.classes)), **hash_sources(plan, weights)}
    image_size = original.params.get("resolved_image_size", "")
    if INITIAL_WEIGHTS in original.params and image_size.isdecimal():
        with suppress(InvalidModelDirectoryError, InvalidParameterError):
            initial = create_initial_network(plan, weights, int(image_size))
            params[INITIAL_WEIGHTS] = hash_state(initial.network.state_dict())
    return params


def _find_class_changes(
    settings: Mapping[str, str], before: Mapping[str, str], after: Mapping[str, str]
) -> tuple[str, ...]:
    if not _has_changed(CLASS_LIST, before, after):
        return ()
    return (f"classes={settings['classes']} lists other classes or another order",)


def _has_changed(name: str, before: Mapping[str, str], after: Mapping[str, str]) -> bool:
    return name in before and before[name] != after.get(name)


def _find_model_changes(
    settings: Mapping[str, str], before: Mapping[str, str], after: Mapping[str, str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the changes of the model and the weights, and other causes of other weights."""
    has_other_weights = INITIAL_WEIGHTS in after and _has_changed(INITIAL_WEIGHTS, before, after)
    changed = _list_changed_sources(settings, before, after)
    if changed:
        if has_other_weights:
            return (_describe_other_weights(f"{changed} contains other weights"),), ()
        is_compared = INITIAL_WEIGHTS in before and INITIAL_WEIGHTS in after
        suffix = ", but its weights have not" if is_compared else ""
        return (f"{changed} has changed since the original{suffix}",), ()
    if not has_other_weights:
        return (), ()
    source = _name_source(settings)
    if _has_changed("num_classes", before, after):
        cause = f"there are {after['num_classes']} classes, not {before['num_classes']}"
    elif _is_file_unrecorded(before, after):
        return (_describe_other_weights(f"{source} contains other weights"),), ()
    else:
        cause = f"{source} draws other random weights, as another version of torch may do"
    return (), (_describe_other_weights(cause),)


def _describe_other_weights(cause: str) -> str:
    return f"the initial weights differ from those of the original: {cause}"


def _is_file_unrecorded(before: Mapping[str, str], after: Mapping[str, str]) -> bool:
    """Whether the weights come from a file or folder with a digest that the original lacks."""
    return any(name in after and name not in before for name in (MODEL_DIRECTORY, WEIGHTS_FILE))


def _name_source(settings: Mapping[str, str]) -> str:
    """Return the setting that provides the initial weights, as it was typed."""
    model, weights = (settings.get(name, NONE_TEXT) for name in ("model", "weights"))
    is_own = weights in (NONE_TEXT, AUTO_TEXT)
    return f"model={model}" if is_own else f"weights={weights}"


def _list_changed_sources(
    settings: Mapping[str, str], before: Mapping[str, str], after: Mapping[str, str]
) -> str:
    """Return the settings of files and folders that have changed."""
    if _has_changed(WEIGHTS_FILE, before, after):
        return f"weights={settings['weights']}"
    if not _has_changed(MODEL_DIRECTORY, before, after):
        return ""
    names = ["model"] if WEIGHTS_FILE in before else ["model", "weights"]
    folders = [
        f"{name}={settings[name]}"
        for name in names
        if settings.get(name, NONE_TEXT) not in (NONE_TEXT, AUTO_TEXT, DEFAULT_WEIGHTS)
        and not is_network_name(settings[name])
    ]
    return " or ".join(folders)


def _find_data_changes(
    client: "MlflowClient", original: RecordedRun, plan: TrainPlan
) -> tuple[str, ...]:
    """Scan both sets and describe how they differ from the recorded digests and manifest.

    Names are relative to the root of a set, so that a copy elsewhere is unchanged.
    """
    digests = {dataset.name: dataset.digest for dataset in original.datasets}
    rows = read_manifest(client, original.run_id)
    changes: list[str] = []
    for name, images in (("train", plan.train), ("valid", plan.valid)):
        scan = scan_files(images, threads=count_threads())
        if name not in digests:
            changes.append(f"the original has no digest of the {name} set")
        elif digests[name] != truncate_digest(scan):
            changes.append(f"{name} set: {_describe_file_changes(rows, name, scan)}")
    return tuple(changes)


def _describe_file_changes(
    rows: list[dict[str, object]] | None, set_name: str, scan: DatasetScan
) -> str:
    if rows is None or not all("name" in row for row in rows):
        return "digests differ, and the original has no manifest that names the files"
    files = [row for row in rows if row["set"] == set_name]
    return _find_file_changes(files, scan) or "the same files in another order"


def _find_file_changes(rows: list[dict[str, object]], scan: DatasetScan) -> str:
    before = {str(row["name"]): (row["label"], row["sha256"]) for row in rows}
    after = {
        item.name: (item.label, file.sha256)
        for item, file in zip(scan.images.items, scan.files, strict=True)
    }
    both = before.keys() & after.keys()
    kinds = {
        "added": after.keys() - before.keys(),
        "missing": before.keys() - after.keys(),
        "changed": {name for name in both if before[name] != after[name]},
    }
    return ", ".join(
        f"{len(names)} {kind} ({_format_names(names)})" for kind, names in kinds.items() if names
    )


def _format_names(names: set[str]) -> str:
    ordered = [make_printable(name) for name in sorted(names)]
    more = " ..." if len(ordered) > _SHOWN_FILES else ""
    return ", ".join(ordered[:_SHOWN_FILES]) + more
