"""Command lines of the trainer: flags only; what they start lives in the modules.

``effnet-train [prepare|preview|plan|doctor] --flag=value ...``; without a word it trains.
"""

import sys

COMMANDS = ("prepare", "preview", "plan", "doctor")


def main(argv=None):
    """Runs the command that the first word names; returns the exit status."""
    argv = sys.argv[1:] if argv is None else argv
    word = argv[0] if argv else ""
    if word == "prepare":
        from tpu_train.cli.prepare import main as run
    elif word == "preview":
        from tpu_train.cli.preview import main as run
    elif word == "plan":
        from tpu_train.cli.plan import main as run
    elif word == "doctor":
        from tpu_train.cli.doctor import main as run
    else:
        from tpu_train.cli.train import main as run

        return run(argv)
    return run(argv[1:])
