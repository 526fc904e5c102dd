"""Judgements: how often the images of a test set have judged versions of a registered model.

The best of many equal versions looks better than the others on the images that chose it. Each
judgement is therefore kept as a tag of the registered model, and a later comparison on the same
images needs stronger evidence. Two test sets count as the same if they share images. Of each set,
the tag keeps a sketch: its smallest hashes, of which two overlapping sets share some.

Source:
    Dwork et al. 2015, Science 349, 636-638 (reused test sets); Broder 1997, Compression and
    Complexity of Sequences, 21-29 (sketches).
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING

from trialrun.mlflow_client import translate_tracking_errors
from trialrun.registry.history import format_now

if TYPE_CHECKING:
    from mlflow import MlflowClient

EVALUATION, DRY_RUN = "evaluation", "dry run"

_TAG_PREFIX = "trialrun.judged."
_SKETCH_SIZE = 64  # of pairs of sets that share a tenth of their images, 97 % are recognised
_HASH_DIGITS = 12

Sketch = tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """One use of a test set: the version that it judged and, in a promotion, the champion.

    `champion` is optional: None without a champion or in an evaluation. `at` is in ISO 8601, UTC.
    """

    kind: str
    version: str
    champion: str | None
    run_id: str
    at: str
    num_images: int
    sketch: Sketch

    def to_text(self) -> str:
        """Return the value of its tag."""
        return json.dumps({**asdict(self), "sketch": "".join(self.sketch)})


def make_judgement(
    kind: str, version: str, champion: str | None, run_id: str, hashes: Iterable[str]
) -> Judgement:
    """Return a judgement, made now, on images with these hashes (SHA-256, hexadecimal)."""
    ordered = sorted({value[:_HASH_DIGITS] for value in hashes if value})
    return Judgement(
        kind=kind,
        version=version,
        champion=champion,
        run_id=run_id,
        at=format_now(),
        num_images=len(ordered),
        sketch=tuple(ordered[:_SKETCH_SIZE]),
    )


def record_judgement(client: "MlflowClient", name: str, judgement: Judgement) -> None:
    """Keep `judgement` with the registered model `name`.

    Raises:
        TrackingError: The store fails.
    """
    with translate_tracking_errors(f"the judgement cannot be recorded in {name}"):
        client.set_registered_model_tag(name, _TAG_PREFIX + judgement.run_id, judgement.to_text())


def read_judgements(client: "MlflowClient", name: str) -> tuple[Judgement, ...]:
    """Return all judgements of versions of the registered model `name`, oldest first.

    Raises:
        TrackingError: The model does not exist, or the store fails.
    """
    with translate_tracking_errors(f"registered model {name} cannot be read"):
        tags = client.get_registered_model(name).tags
    return parse_judgements(tags)


def parse_judgements(tags: Mapping[str, str]) -> tuple[Judgement, ...]:
    """Return the judgements among the tags of a registered model, without damaged ones."""
    judgements = [
        _parse_judgement(text) for name, text in tags.items() if name.startswith(_TAG_PREFIX)
    ]
    return tuple(sorted(filter(None, judgements), key=lambda judgement: judgement.at))


def _parse_judgement(text: str) -> Judgement | None:
    known = {item.name for item in fields(Judgement)}
    try:
        values = {name: value for name, value in json.loads(text).items() if name in known}
        hashes = values["sketch"]
        starts = range(0, len(hashes), _HASH_DIGITS)
        values["sketch"] = tuple(hashes[start : start + _HASH_DIGITS] for start in starts)
        return Judgement(**values)
    except (ValueError, TypeError, AttributeError, KeyError):
        return None


def count_attempts(judgements: Sequence[Judgement], current: Judgement) -> int:
    """Return how many attempts, `current` included, the test set of `current` has judged.

    An attempt is a version compared with a champion, or a version judged while there was none. A
    repetition of the same comparison is not a new attempt. An evaluation counts too, unless its
    version was judged anyway: its result may have chosen the version to promote.
    """
    same_set = [item for item in judgements if _share_images(item.sketch, current.sketch)]
    has_champion = current.champion is not None
    promotions = [item for item in (*same_set, current) if item.kind != EVALUATION]
    attempts = {
        (item.version, item.champion)
        for item in promotions
        if (item.champion is not None) == has_champion
    }
    judged_anyway = {item.version for item in promotions} | {current.champion}
    evaluated = {item.version for item in same_set if item.kind == EVALUATION} - judged_anyway
    return len(attempts) + len(evaluated)


def _share_images(first: Sketch, second: Sketch) -> bool:
    """Whether the smallest hashes of both sets together include one that is in both."""
    smallest = sorted({*first, *second})[:_SKETCH_SIZE]
    return bool({*first} & {*second} & {*smallest})


def spend_alpha(confidence: float, attempt: int) -> float:
    """Return the confidence level of the intervals of an attempt, counted from 1.

    The first attempt has the level `confidence`, so its error probability on one side is half of
    1 - confidence. Attempt k has the share 1 / (k (k + 1)) of 1 - confidence: over any number of
    attempts, the probability of a false promotion is at most 1 - confidence.

    Source:
        Lan and DeMets 1983, Biometrika 70, 659-663 (spending); Foster and Stine 2008, Journal of
        the Royal Statistical Society B 70, 429-444 (an unknown number of tests).
    """
    return 1 - 2 * (1 - confidence) / (attempt * (attempt + 1))
