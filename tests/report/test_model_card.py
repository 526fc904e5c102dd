"""Model cards are bounded Markdown that shows any text."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from trialrun.report.headlines import compute_headlines
from trialrun.report.model_card import MAX_CHARACTERS, ModelCard, format_card, list_weak_classes
from trialrun.report.predictions import Predictions

ADDRESS = "runs:/abc/model"


def predict(classes: list[str], labels: list[int], predicted: list[int]) -> Predictions:
    """Return predictions with a probability of a half for each label."""
    return Predictions(
        tuple(classes), np.asarray(labels), np.asarray(predicted), np.full(len(labels), 0.5)
    )


def test_weak_classes_are_sorted_by_f1_and_name_their_commonest_mistake() -> None:
    """Classes that are always right are left out."""
    predictions = predict(
        ["cat", "dog", "owl", "elk"], [0, 0, 0, 0, 1, 1, 3], [0, 1, 1, 2, 1, 1, 3]
    )
    weak = [
        (report.name, report.recall, mistaken)
        for report, mistaken in list_weak_classes(predictions)
    ]
    assert weak == [("cat", 0.25, "dog"), ("dog", 1.0, "")]


def test_card_shows_results_use_and_changed_settings() -> None:
    """Each part is a section with a table or commands."""
    predictions = predict(["cat", "dog"], [0, 1, 1, 0], [0, 1, 0, 0])
    card = format_card(
        ModelCard(
            title="resnet18 on pets",
            summary="75 % are right.",
            address=ADDRESS,
            warnings=["all classes were merged"],
            results=compute_headlines(predictions, None, None),
            predictions=predictions,
            facts=[("training set", "40 images")],
            settings=[("epochs", "2")],
        )
    )
    html = MarkdownIt().enable("table").render(card)
    for text in (
        "<strong>Warning: all classes were merged.</strong>",
        "<td>accuracy</td>\n<td>0.7500</td>",
        "<td>dog</td>\n<td>2</td>\n<td>0.500</td>\n<td>1.000</td>\n<td>cat</td>",
        "<td>training set</td>\n<td>40 images</td>",
        f"trialrun score {ADDRESS} IMAGES",
        "<td>epochs</td>\n<td>2</td>",
    ):
        assert text in html


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.text(min_size=1, max_size=400), min_size=2, max_size=6, unique=True),
    st.lists(st.tuples(st.text(max_size=900), st.text(max_size=900)), max_size=12),
)
def test_any_texts_make_a_card_that_the_registry_stores(
    classes: list[str], facts: list[tuple[str, str]]
) -> None:
    """It has at most `MAX_CHARACTERS`, no cell adds a row, and no block of code is left open."""
    num_classes = len(classes)
    predictions = predict(classes, list(range(num_classes)), [0] * num_classes)
    card = format_card(
        ModelCard(
            title=classes[0],
            summary="",
            address=ADDRESS,
            predictions=predictions,
            facts=facts,
            settings=facts,
        )
    )
    assert len(card) <= MAX_CHARACTERS
    html = MarkdownIt().enable("table").render(card)
    assert html.count("<tr>") <= min(num_classes, 5) + 2 * len(facts) + 3
    assert html.count("<pre>") == card.count("```") / 2
