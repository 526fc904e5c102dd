"""Progress of library calls in a notebook, and its absence elsewhere."""

import threading

import pytest

from trialrun.notebook import is_notebook, open_progress, open_search_progress
from trialrun.notebook.progress import NotebookProgress, NotebookSearchProgress
from trialrun.runs.callbacks import BatchProgress
from trialrun.tuning.callbacks import TrialCounts, TrialReport

BATCH = BatchProgress(
    epoch=2,
    epochs=5,
    is_training=True,
    num_done=32,
    num_images=128,
    images_per_second=64.0,
    loss=0.5,
    seconds_left=1.5,
    run_seconds_left=8.0,
)


def make_report(number: int, problem: str = "") -> TrialReport:
    """A trial with one setting."""
    return TrialReport(
        number=number,
        replicate=None,
        settings={"model": "<b>"},
        objectives={} if problem else {"valid_loss": 0.25},
        problem=problem,
        is_best=not problem,
    )


def test_batch_moves_the_bar() -> None:
    """The bar has the images that are done, and the text has speed, loss and time."""
    shown: list[str] = []
    with NotebookProgress(shown.append) as progress:
        progress.on_batch(BATCH)
    assert '<progress value="32" max="128">' in shown[0]
    assert "Epoch 2/5" in shown[0]
    assert "64 images/s, loss 0.5, 2 s left, run 8 s" in shown[0]


def test_bar_vanishes_at_the_end_and_notes_remain() -> None:
    """What is shown at last has the notes, escaped, and no bar."""
    shown: list[str] = []
    with NotebookProgress(shown.append) as progress:
        progress.on_batch(BATCH)
        progress.on_note("a <b> class")
    assert "<progress" in shown[-2]
    assert shown[-1] == "<div>Note: a &lt;b&gt; class</div>"


def test_note_of_another_thread_is_shown_by_the_thread_of_the_call() -> None:
    """The other thread draws nothing."""
    shown: list[str] = []
    with NotebookProgress(shown.append) as progress:
        thread = threading.Thread(target=progress.on_note, args=["sent later"])
        thread.start()
        thread.join()
        assert shown == []
    assert "sent later" in shown[-1]


def test_search_shows_trials() -> None:
    """The bar counts trials; each trial is a row with its objective or its problem, escaped."""
    shown: list[str] = []
    with NotebookSearchProgress(shown.append) as progress:
        progress.on_trials(TrialCounts(1, 4))
        progress.on_trial_end(make_report(0))
        progress.on_trial_end(make_report(1, "out of memory"))
    assert '<progress value="1" max="4">' in shown[0]
    assert "valid_loss=0.25" in shown[-1]
    assert "model=&lt;b&gt;" in shown[-1]
    assert "out of memory" in shown[-1]


def test_table_keeps_the_newest_rows() -> None:
    """A long search does not make each update longer."""
    shown: list[str] = []
    with NotebookSearchProgress(shown.append) as progress:
        for number in range(100):
            progress.on_trial_end(make_report(number))
    assert shown[-1].count("<tr>") == 21  # with the heading
    assert ">99</td>" in shown[-1]


def test_outside_a_notebook_nothing_is_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without TRIALRUN_PROGRESS, a callback outside a notebook prints nothing."""
    monkeypatch.delenv("TRIALRUN_PROGRESS", raising=False)
    assert not is_notebook()
    for open_callback in (open_progress, open_search_progress):
        with open_callback() as callback:
            callback.on_run_start("name", "id")
            callback.on_note("text")
            assert callback.batch_interval is None
    assert capsys.readouterr() == ("", "")


def test_progress_is_shown_on_request(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """TRIALRUN_PROGRESS=1 prints on standard error what the command line prints."""
    monkeypatch.setenv("TRIALRUN_PROGRESS", "1")
    with open_progress() as callback:
        callback.on_run_start("name", "id")
    assert capsys.readouterr() == ("", "Run name (id)\n")
