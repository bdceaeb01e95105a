import importlib.util
import pathlib

import pytest
from matplotlib.text import Annotation, Text

from keras_effnet.variants import VARIANTS

SCRIPT = pathlib.Path(__file__).resolve().parents[2] / "tools" / "family_plots.py"


@pytest.fixture(scope="module")
def plots():
    spec = importlib.util.spec_from_file_location("family_plots", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["plot_scaling", "plot_pareto"])
def test_labels_do_not_overlap_or_leave_the_picture(plots, name):
    """Each marker counts as an obstacle of 6 points."""
    with plots.plt.rc_context(plots.STYLE):
        figure = getattr(plots, name)()
        figure.canvas.draw()
        half = 3 * figure.dpi / 72
        for axis in figure.axes:
            labels = [t for t in axis.texts if isinstance(t, Annotation)]
            boxes = [Text.get_window_extent(t) for t in labels]  # without the arrow
            for i, box in enumerate(boxes):
                assert axis.get_window_extent().contains(box.x0, box.y0), labels[i].get_text()
                overlapping = [t.get_text() for t, b in zip(labels, boxes) if b.overlaps(box)]
                assert len(overlapping) == 1, overlapping
                for t in labels:
                    x, y = axis.transData.transform(t.xy)
                    near = box.x0 - half < x < box.x1 + half and box.y0 - half < y < box.y1 + half
                    assert not near, (labels[i].get_text(), "on", t.get_text())
        plots.plt.close(figure)


def test_the_picture_shows_every_published_accuracy(plots):
    figure = plots.plot_pareto()
    for axis in figure.axes:
        assert len(axis.texts) == sum(v.top1 is not None for v in VARIANTS.values())
    plots.plt.close(figure)


def test_both_pictures_are_written(plots, tmp_path, capsys):
    plots.main([f"--out={tmp_path / 'new'}"])
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == ["pareto.png", "scaling.png"]
    assert "pareto.png" in capsys.readouterr().out
