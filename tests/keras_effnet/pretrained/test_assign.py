"""Weights are assigned completely or not at all; classifier and stem are adapted."""

import dataclasses

import numpy as np
import pytest

from keras_effnet.constructors import create_model
from keras_effnet.pretrained.assign import load_pretrained, load_weights

pytestmark = pytest.mark.every_stack


def test_normalization_constants_in_a_file_are_ignored(theirs, ours, tmp_path, write_legacy_h5):
    """Released V1 files hold the standard deviation instead of the variance (tensorflow#49930)."""
    write_legacy_h5(theirs, tmp_path / "x.h5")
    before = ours.get_layer("normalization").get_config()
    load_weights(ours, tmp_path / "x.h5")
    assert ours.get_layer("normalization").get_config() == before


def test_a_class_count_mismatch_names_classifier_and_shapes(
    mine, tiny, layouts, tmp_path, rejects, save
):
    other = create_model(tiny, classes=7)
    for layout in layouts:
        path = save(mine, tmp_path / layout)
        message = rejects(other, path, "predictions has shapes", "5)", "7)", "1 differences")
        assert "stem_conv" not in message


def test_a_wrong_variant_names_every_layer_that_differs(
    mine, tiny, layouts, tmp_path, rejects, save
):
    wider = dataclasses.replace(tiny, name="wider", width=2.0, stages=tiny.stages[:1])
    model = create_model(wider, classes=5)
    for layout in layouts:
        path = save(mine, tmp_path / layout)
        rejects(model, path, "stem_conv has shapes", "top_conv has shapes", "left over", "wider")


def test_a_missing_or_additional_classifier_is_an_error(
    tiny, layouts, mine, tmp_path, rejects, save
):
    without_top = create_model(tiny, include_top=False)
    for layout in layouts:
        path = save(without_top, tmp_path / layout)
        rejects(mine, path, "predictions is missing", "1 differences")
        path = save(mine, tmp_path / ("top_" + layout))
        rejects(without_top, path, "is left over", "1 differences")


def test_another_class_count_keeps_the_backbone_and_warns(
    mine, tiny, layouts, tame, tmp_path, save
):
    tame(mine)
    warning = r"has 5 classes: the classifier of 7 classes starts at"
    for layout in layouts:
        path = save(mine, tmp_path / layout)
        with pytest.warns(UserWarning, match=warning):
            other = create_model(tiny, classes=7, weights=path)
        assert other.output_shape == (None, 7)
        assert np.abs(other.get_layer("predictions").get_weights()[0]).max() > 0
        for a, b in zip(other.get_weights()[:-2], mine.get_weights()[:-2]):
            np.testing.assert_array_equal(a, b)


def test_a_file_without_classifier_warns(tiny, tame, tmp_path, write_legacy_h5):
    without_top = create_model(tiny, include_top=False)
    write_legacy_h5(without_top, tmp_path / "x.h5")
    with pytest.warns(UserWarning, match="has no classifier"):
        create_model(tiny, classes=3, weights=tmp_path / "x.h5")


def test_a_model_without_classifier_ignores_the_files(mine, tiny, tmp_path, write_legacy_h5):
    write_legacy_h5(mine, tmp_path / "x.h5")
    without_top = create_model(tiny, include_top=False, weights=tmp_path / "x.h5")
    for a, b in zip(without_top.get_weights(), mine.get_weights()):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(("stored", "index", "ours"), [(1001, 5, 4), (21843, 368, 1)])
def test_1001_and_21843_classes_are_mapped_to_1000(
    keras, tiny, stored, index, ours, images, tmp_path, write_legacy_h5
):
    source = create_model(tiny, classes=stored, classifier_activation=None)
    write_legacy_h5(source, tmp_path / "x.h5")
    model = create_model(tiny, classifier_activation=None, weights=tmp_path / "x.h5")
    have, want = np.array(model(images(32))), np.array(source(images(32)))
    np.testing.assert_allclose(have[:, ours], want[:, index], atol=1e-5)
    if stored == 21843:  # teddy bear is missing, and must not be predicted
        assert (have[:, 850] < np.delete(have, 850, axis=1).min(axis=1)).all()


def test_the_stem_is_adapted_to_other_channel_counts(
    mine, tiny, images, tame, tmp_path, write_legacy_h5
):
    tame(mine)
    write_legacy_h5(mine, tmp_path / "x.h5")
    grey = create_model(tiny, classes=5, input_shape=(32, 32, 1), weights=tmp_path / "x.h5")
    six = create_model(tiny, classes=5, input_shape=(32, 32, 6), weights=tmp_path / "x.h5")
    kernel = mine.get_layer("stem_conv").get_weights()[0]
    np.testing.assert_allclose(
        grey.get_layer("stem_conv").get_weights()[0][:, :, 0], kernel.sum(axis=2), rtol=1e-6
    )
    np.testing.assert_allclose(
        six.get_layer("stem_conv").get_weights()[0],
        np.concatenate([kernel, kernel], axis=2) / 2,
        rtol=1e-6,
    )


def test_a_wrong_variant_is_not_adapted(mine, tiny, tmp_path, write_legacy_h5):
    write_legacy_h5(mine, tmp_path / "x.h5")
    wider = dataclasses.replace(tiny, name="wider", width=2.0)
    with pytest.raises(ValueError, match="stem_conv has shapes"):
        create_model(wider, classes=3, weights=tmp_path / "x.h5")


def test_warnings_show_the_callers_line(mine, tiny, tmp_path, write_legacy_h5):
    write_legacy_h5(mine, tmp_path / "x.h5")
    with pytest.warns(UserWarning, match="starts at random") as by_name:
        other = create_model(tiny, classes=7, weights=tmp_path / "x.h5")
    with pytest.warns(UserWarning, match="starts at random") as by_function:
        load_pretrained(other, tmp_path / "x.h5")
    shown = [w for w in (*by_name, *by_function) if "starts at random" in str(w.message)]
    assert [warning.filename for warning in shown] == [__file__, __file__]
