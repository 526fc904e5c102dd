"""The text form of labels, which MLflow, JSON and CSV have to store."""

import unicodedata
from collections import defaultdict
from dataclasses import replace

from trialrun.images.dataset import ImageSet, escape_non_utf8
from trialrun.images.items import rename_labels


def normalize_labels(images: ImageSet, *, merges: bool = False) -> ImageSet:
    r"""Return the set with labels in Unicode's composed form (NFC), and bytes as `\xff`.

    macOS stores names decomposed, other systems composed: one class must not become two. Labels of
    one set that only their form distinguishes are kept apart, for `check_trainable` to report,
    unless it `merges` them.
    """
    labels = {*images.classes, *images.declared_classes}
    normalized = {label: _normalize(label) for label in labels}
    if all(label == text for label, text in normalized.items()):
        return images
    by_text: dict[str, list[str]] = defaultdict(list)
    for label, text in normalized.items():
        by_text[text].append(label)
    normalized |= {
        label: escape_non_utf8(label)
        for same in by_text.values()
        if len(same) > 1 and not merges
        for label in same
    }

    return replace(
        images,
        items=rename_labels(images.items, normalized),
        skipped=rename_labels(images.skipped, normalized),
        declared_classes=tuple(sorted({normalized[name] for name in images.declared_classes})),
    )


def _normalize(label: str) -> str:
    return unicodedata.normalize("NFC", escape_non_utf8(label))
