import re

import numpy as np
import pytest

from keras_effnet.evaluation import page

ORIGIN = {
    "model": "my <model>",
    "data": "photos",
    "unreadable": ["photos/x.jpg: truncated"] * 12,
    "facts": {"Date": "2026-11-27", "Weights": None},
}


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("classes", [3, 60])
def test_the_page_is_one_file_with_every_section(evaluation, classes, several):
    e = evaluation(classes, 200, several=several)
    html = page.render(e, ORIGIN, lambda row: np.full((8, 8, 3), row, np.uint8))
    assert not re.search(r"<script|https?://(?!www\.w3\.org/2000/svg)|<link", html)
    assert "<cat>" not in html
    assert "my &lt;model&gt;" in html
    headings = re.findall(r"<h2>(.*?)</h2>", html)
    want = ["Classes", "Confusion matrix", "Calibration", "Worst mistakes", "Least certain"]
    want += ["Not evaluated", "Origin"]
    assert headings == [h for h in want if not (several and h == "Confusion matrix")]
    assert html.count("<img") == len(e.worst) + len(e.least_certain)
    assert "and 2 others, in the JSON" in html
    assert ("mAP" in html) == several
    assert f"{e.top1.value:.2%}" in html


def test_the_check_is_on_the_page(evaluation):
    check = {"agrees": False, "message": "published 75.1 %, measured 50 %"}
    html = page.render(evaluation(), {**ORIGIN, "check": check})
    assert "<span class='tag bad'>differs</span> published 75.1 %" in html


def test_perfect_predictions_have_no_mistakes(evaluation):
    e = evaluation()
    right = page.Evaluation(
        e.outcomes.take(np.flatnonzero(e.outcomes.correct)), e.kind, e.class_names, e.identifiers
    )
    assert "<h2>Worst mistakes</h2>\n<p class=soft>None.</p>" in page.render(right, ORIGIN)
