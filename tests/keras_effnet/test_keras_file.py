import zipfile

import pytest

from keras_effnet import create_model
from keras_effnet.cli import main
from keras_effnet.image_classifier import open_model
from keras_effnet.keras_file import check_keras_file, load_keras_file
from keras_effnet.pretrained.files import read_weights


@pytest.fixture
def saved(tmp_path, tiny):
    path = tmp_path / "m.keras"
    create_model(tiny, weights=None, classes=2, input_shape=(32, 32, 3)).save(path)
    return path


def test_a_file_that_is_damaged_anywhere_is_an_error_wherever_it_is_read(saved, capsys):
    content = saved.read_bytes()
    check_keras_file(saved)
    assert load_keras_file(saved).output_shape == (None, 2)
    middle = len(content) // 2
    encrypted = bytearray(content)  # as damaged bits may say
    for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        encrypted[content.find(signature) + flags] |= 1
    flipped = bytes(byte ^ 255 for byte in content[middle : middle + 100])
    for damaged, what in (
        (content[:middle], "is not a complete zip archive"),
        (content[:middle] + flipped + content[middle + 100 :], "has a damaged model.weights.h5"),
        (bytes(encrypted), "is not a complete zip archive"),
        (b"", "is not a complete zip archive"),
    ):
        saved.write_bytes(damaged)
        for read in (check_keras_file, load_keras_file, open_model, read_weights):
            with pytest.raises(ValueError, match=rf"cannot be read as a .keras file: it {what}"):
                read(str(saved))
    flags = [f"--model={saved}", "--to=timm", f"--out={saved}.safetensors"]
    assert main(["port", str(saved), *flags]) == 2
    assert "cannot be read as a .keras file" in capsys.readouterr().err


def test_a_file_that_does_not_exist_is_not_called_damaged(tmp_path):
    with pytest.raises(FileNotFoundError):
        check_keras_file(tmp_path / "no.keras")


def test_weights_that_end_early_inside_a_complete_archive_are_an_error(saved):
    with zipfile.ZipFile(saved) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    for weights in (files["model.weights.h5"][:5000], b""):
        with zipfile.ZipFile(saved, "w") as archive:
            for name, content in {**files, "model.weights.h5": weights}.items():
                archive.writestr(name, content)
        with pytest.raises(ValueError, match=r"cannot be read as a \.keras file: "):
            load_keras_file(saved)
