import pytest

from keras_effnet.evaluation.text_table import table_lines


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("classes", [2, 30])
def test_the_table_fits_a_terminal_and_has_the_metrics(evaluation, classes, several):
    e = evaluation(classes, 100, several=several)
    lines = table_lines(e)
    assert max(map(len, lines)) <= 100
    text = "\n".join(lines)
    assert f"top-1             {e.top1.value:.2%}" in text
    assert ("top-5" in text) == (classes > 5)
    assert ("mAP" in text) == several
    assert ("largest confusions" in text) == (not several)
