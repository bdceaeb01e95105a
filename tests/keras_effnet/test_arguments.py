import argparse

import pytest

from keras_effnet.arguments import ArgumentParser, normalize_flags


def _parser():
    parser = ArgumentParser(prog="effnet-x")
    parser.add_argument("--image_size", type=int)
    parser.add_argument("--finetune", action=argparse.BooleanOptionalAction)
    parser.add_argument("paths", nargs="*")
    return parser


@pytest.mark.parametrize(
    "argv", [["--image-size=64"], ["--image_size=64"], ["--image-size", "64"]], ids=str
)
def test_hyphens_and_underscores_mean_the_same(argv):
    assert _parser().parse_args(argv).image_size == 64


def test_negated_flags_take_both_spellings():
    assert _parser().parse_args(["--no_finetune"]).finetune is False
    assert _parser().parse_args(["--no-finetune"]).finetune is False


def test_values_keep_their_hyphens():
    options = _parser().parse_args(["--image-size=64", "--", "a-b.jpg", "--c-d"])
    assert options.paths == ["a-b.jpg", "--c-d"]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--image_sise=64"], "Unknown flag '--image_sise'. Did you mean '--image_size'"),
        (["--image=64"], "Unknown flag '--image'."),  # no abbreviations
        (["--image_size=large"], "invalid int value: 'large' (see effnet-x --help)"),
    ],
    ids=["typo", "abbreviation", "type"],
)
def test_bad_arguments_are_one_line_and_a_way_out(argv, message):
    with pytest.raises(ValueError) as error:  # noqa: PT011 - its text is compared below
        _parser().parse_args(argv)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_the_command_line_is_the_default(monkeypatch):
    monkeypatch.setattr("sys.argv", ["effnet-x", "--image-size=64"])
    assert _parser().parse_args().image_size == 64


def test_subcommands_normalize_their_own_flags():
    parser = ArgumentParser(prog="effnet")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("cost").add_argument("--batch_size", type=int)
    assert parser.parse_args(["cost", "--batch-size=2"]).batch_size == 2
    with pytest.raises(ValueError, match="Did you mean '--batch_size'"):
        parser.parse_args(["cost", "--batch_sise=2"])


def test_help_prints_underscores(capsys):
    with pytest.raises(SystemExit):
        _parser().parse_args(["--help"])
    assert "--image_size" in capsys.readouterr().out


def test_absl_flags_use_the_same_rule():
    known = ["--epochs", "--noepochs", "--image_size_eval", "--noimage_size_eval"]
    assert normalize_flags(["--image-size-eval=3"], known) == ["--image_size_eval=3"]


def test_a_value_may_start_in_the_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    known = ["--data", "--n"]
    words = ["--data=~/photos", "--n=~x", "--", "--data=~/photos"]
    assert normalize_flags(words, known) == ["--data=/home/me/photos", "--n=~x", *words[2:]]
