"""``effnet-train search --space=small --data=... --workdir=...``: architecture search.

Exit status: 0 after the last trial, 1 if the search cannot continue, 2 for invalid input, and 75
after Ctrl-C or SIGTERM: the same command resumes.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import os
import sys
from collections.abc import Callable, Sequence

from absl import flags

from keras_effnet.interruption import run_command
from keras_effnet.search_space import SPACES
from keras_effnet.space_lookup import COMPOUND, find_space
from tpu_train.checkpointing.preemption import STOPPED, StoppedError, interrupts
from tpu_train.cli import command, data_flags, failure_message, outputs, recipe_flags
from tpu_train.device_names import LOCAL_DEVICES, check_device
from tpu_train.recipes.schema import IMAGE_SIZES, Recipe
from tpu_train.search.request import SearchRequest
from tpu_train.search.settings import (
    PRUNERS,
    SAMPLERS,
    STEP_TIMES,
    SearchSettings,
    check_settings,
)
from tpu_train.training.model_source import check_source

INTRODUCTION = """Searches for a network: trains points of a search space briefly, and ranks
them.

  effnet-train search --space=small --data=my_shards --workdir=search1

The same command resumes after a stop, and adds trials if --trials is larger.
Started several times, also on several machines that share the workdir, all work
on the same study (docs/search.md)."""

GROUPS = {
    "data": (
        "effnet-train search --data=my_photos --minival=0.2 --workdir=search1",
        ("data", "holdout", "minival", "images", "max_corrupt", "on_duplicates"),
    ),
    "search space and its limits": (
        "effnet-train search --space=small --data=my_photos --workdir=search1",
        ("space", "max_parameters", "max_flops"),
    ),
    "trials and how they are drawn": (
        "effnet-train search --sampler=tpe --trials=50 --data=my_photos --workdir=tpe",
        ("trials", "sampler", "sampler_seed", "population", "pruner", "recipe"),
    ),
    "reward": (
        "effnet-train search --step_time=measured --data=my_photos --workdir=s",
        ("step_time", "step_time_exponent", "parameters_exponent"),
    ),
    "workers and storage": (
        "effnet-train search --data=my_photos --workdir=search1 --workers=2",
        (
            *("workdir", "workers", "parallel_trials", "storage", "study"),
            *("cache", "device", "save_minutes"),
        ),
    ),
}

_WORKERS_PER_PROCESSOR = 4


def main(argv: Sequence[str] | None = None) -> int:
    """Searches; returns the exit status."""
    return command.run("effnet-train search", argv, define(), INTRODUCTION, GROUPS, _run)


def _run(values):
    return _search(_request(values))


def define() -> flags.FlagValues:
    """All flags: of the study, of its workers, of the data, and one for each recipe field."""
    values = flags.FlagValues()
    here = {"flag_values": values}
    defaults = SearchSettings("small", None)
    data_flags.define(values)
    flags.DEFINE_string("workdir", None, "folder of the study, shared by all its workers", **here)
    flags.DEFINE_string(
        "space",
        "small",
        f"search space: {', '.join(SPACES)}, or {COMPOUND}NETWORK, the factors alpha, beta and "
        "gamma of compound scaling",
        **here,
    )
    flags.DEFINE_integer("trials", 100, "networks to try", lower_bound=1, **here)
    flags.DEFINE_integer("workers", 1, "processes that train trials", lower_bound=1, **here)
    flags.DEFINE_string("sampler", defaults.sampler, f"one of {', '.join(SAMPLERS)}", **here)
    flags.DEFINE_integer("sampler_seed", 0, "seed of the networks that are drawn", **here)
    flags.DEFINE_integer(
        "population",
        defaults.population,
        "networks that nsga2 and tpe draw at random before they use results; the size of a "
        "generation of nsga2",
        **here,
    )
    flags.DEFINE_integer(
        "parallel_trials",
        defaults.parallel_trials,
        "trials that may run at the same time with nsga2, tpe and --pruner: each one is drawn from "
        "the results of all trials up to that many before it",
        **here,
    )
    flags.DEFINE_string(
        "pruner",
        defaults.pruner,
        f"one of {', '.join(PRUNERS)}: end the worse half of the trials after phase 1, 2, 4, ...",
        **here,
    )
    flags.DEFINE_string(
        "step_time",
        defaults.step_time,
        f"source of the step time S: one of {', '.join(STEP_TIMES)} (any TPU of effnet-train plan)",
        **here,
    )
    flags.DEFINE_float(
        "step_time_exponent", defaults.step_time_exponent, "w of the reward A S^w P^v", **here
    )
    flags.DEFINE_float(
        "parameters_exponent", defaults.parameters_exponent, "v of the reward A S^w P^v", **here
    )
    flags.DEFINE_integer("max_parameters", 0, "maximum number of parameters; 0: no limit", **here)
    flags.DEFINE_integer("max_flops", 0, "maximum multiply-adds for one image; 0: no limit", **here)
    flags.DEFINE_float(
        "minival",
        defaults.minival,
        "training images that rank the networks: a fraction below 1, or a number",
        **here,
    )
    flags.DEFINE_integer(
        "images", defaults.images, "training images of a trial; 0: all but the minival", **here
    )
    flags.DEFINE_string(
        "storage",
        "",
        "URL of a database that stores the trials, e.g. postgresql+psycopg://user@host/name; "
        "default: a file in the workdir",
        **here,
    )
    flags.DEFINE_string("study", "search", "name of the study in the storage", **here)
    flags.DEFINE_string(
        "cache", "", "folder of results: studies that share it train a network once", **here
    )
    flags.DEFINE_string("device", "auto", "auto, tpu[:name], gpu[:count] or cpu[:count]", **here)
    flags.DEFINE_float(
        "save_minutes",
        2.0,
        "minutes between the checkpoints of a trial",
        lower_bound=0,
        **here,
    )
    recipe_flags.define(values)
    values.set_default("recipe", "search")
    return values


def _request(values) -> SearchRequest:
    """The checked request; raises ``ValueError`` before TensorFlow is imported."""
    data_flags.check(values, "effnet-train search")
    if not values.workdir:
        raise ValueError("--workdir is missing; see effnet-train search --help")
    if "://" in values.workdir:
        raise ValueError(
            f"--workdir={values.workdir} is not a local folder: workers lock its files. Give a "
            "folder of this machine, or of a disk that all machines share"
        )
    outputs.check_folder("workdir", values.workdir, values.data)
    if values.cache:
        if "://" in values.cache:
            raise ValueError(f"--cache={values.cache} is not a local folder: give one")
        outputs.check_folder("cache", values.cache, values.data)
    if values.storage and "://" not in values.storage:
        raise ValueError(
            f"--storage={values.storage} is not the URL of a database, such as "
            "postgresql+psycopg://user@host/name. Leave it out for a file in the workdir"
        )
    if not values.study:
        raise ValueError("--study is empty: give the study a name, or leave --study out")
    check_device(values.device, LOCAL_DEVICES)
    for name in ("minival", "step_time_exponent", "parameters_exponent", "save_minutes"):
        if not math.isfinite(values[name].value):
            raise ValueError(f"{name} must be a number, got {values[name].value}")
    names = {field.name for field in dataclasses.fields(SearchSettings)} - {"recipe"}
    settings = SearchSettings(
        recipe=_recipe(values), **{name: values[name].value for name in names}
    )
    check_settings(settings)
    check_source(settings.recipe)
    needs_results = settings.sampler != "random" or settings.pruner != "none"
    if needs_results and values.workers > settings.parallel_trials:
        raise ValueError(
            f"--workers={values.workers} is more than --parallel_trials="
            f"{settings.parallel_trials}: give --parallel_trials={values.workers}, which changes "
            "what the sampler knows"
        )
    most = _WORKERS_PER_PROCESSOR * (os.cpu_count() or 1)
    if values.workers > most:
        raise ValueError(
            f"--workers={values.workers}: give at most {most}, {_WORKERS_PER_PROCESSOR} for each "
            "processor of this machine; each needs about 1 GB of memory. Other machines that share "
            "the workdir may work on the same study"
        )
    if importlib.util.find_spec("optuna") is None:
        raise ValueError("the search needs the package optuna: pip install 'keras_effnet[search]'")
    return SearchRequest(
        settings=settings,
        data=values.data,
        workdir=values.workdir,
        trials=values.trials,
        storage=values.storage,
        study=values.study,
        cache=values.cache,
        device=values.device,
        holdout=values.holdout,
        max_corrupt=values.max_corrupt,
        on_duplicates=values.on_duplicates,
        save_minutes=values.save_minutes,
        workers=values.workers,
    )


def _recipe(values) -> Recipe:
    """The recipe of the trials: image sizes are at most the base network's, unless given."""
    if values["model"].value is not None:
        raise ValueError(
            "--model does not belong to a search, whose networks are points of --space: leave it "
            "out, or train it with effnet-train"
        )
    recipe, base = recipe_flags.chosen(values), find_space(values.space).base
    sizes = {
        name: min(getattr(recipe, name), base.image_size)
        for name in IMAGE_SIZES
        if values[name].value is None
    }
    return dataclasses.replace(recipe, **sizes)


def _search(request: SearchRequest) -> int:
    # Imported here, so that --help and bad flags do not wait for them.
    from tpu_train.search.optuna_study import LostConnectionError
    from tpu_train.search.study_opening import open_storage

    study = open_storage(request)
    if request.workers == 1:
        status = _work(request, lambda: "", study)
    else:
        _check_with_data(request)
        from tpu_train.search.workers import run_workers

        with interrupts() as stop:
            status = run_workers(work, request, stop)
        if status == STOPPED:
            print("effnet-train search: stopped. The same command resumes", file=sys.stderr)
    if status == 0:
        try:
            _print_result(request, study)
        except LostConnectionError as error:
            print(f"effnet-train search: {error}", file=sys.stderr)
            return 1
    return status


def work(request: SearchRequest, parent_ended: Callable[[], str]) -> int:
    """One of several workers, in its process: returns the exit status."""
    from keras_effnet.native_logs import filter_native_logs

    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    filter_native_logs()

    def run():
        try:
            return _work(request, parent_ended)
        except Exception as error:
            message = failure_message(error)
            if message is None:  # an error of this package: its traceback says where
                raise
            print(f"effnet-train search: {message}", file=sys.stderr)
            return 1

    return run_command("effnet-train search", run)


def _work(request, parent_ended, study=None):
    from tpu_train.search.optuna_study import LostConnectionError
    from tpu_train.search.run import run_search
    from tpu_train.search.study_opening import open_storage
    from tpu_train.search.worker import SearchError

    is_only_one = study is not None
    try:
        with interrupts() as stop:
            run_search(
                request,
                study if is_only_one else open_storage(request),
                lambda: stop() or parent_ended(),
                data_flags.print_notes if is_only_one else lambda *sources: None,
            )
    except StoppedError as error:
        if is_only_one:
            print(f"effnet-train search: {error}", file=sys.stderr)
        return STOPPED
    except (SearchError, LostConnectionError) as error:
        print(f"effnet-train search: {error}", file=sys.stderr)
        return 1
    except ValueError as error:
        if is_only_one:
            raise
        print(f"effnet-train search: {error}", file=sys.stderr)
        return 2
    return 0


def _check_with_data(request):
    """Raises ``ValueError`` for what every worker would refuse."""
    from keras_effnet.datasets.dataset import open_dataset
    from keras_effnet.datasets.training_data import open_training_data
    from tpu_train.remote_files import GFILE
    from tpu_train.search.study_checks import check_study

    training, _ = open_training_data(
        request.data,
        holdout=request.holdout,
        seed=request.settings.recipe.seed,
        max_corrupt=request.max_corrupt,
        on_duplicates=request.on_duplicates,
        dataset=open_dataset(request.data, GFILE),
    )
    data_flags.print_notes(training)
    check_study(request.settings, training.name, training.classes, training.labels)


def _print_result(request, study):
    from tpu_train.search.output_files import BEST, LEADERBOARD, PAGE
    from tpu_train.search.trial_record import ranked

    ranking, folder = ranked(study.records()), request.workdir
    if ranking:
        best = ranking[0]
        print(f"best network: trial {best.number}, {best.network}, accuracy {best.accuracy:.2%}")
        print(f"  {best.blocks}")
        print(
            f"train it: effnet-train --model={os.path.join(folder, BEST)} --data={request.data} ..."
        )
    print(f"report {os.path.join(folder, PAGE)}, table {os.path.join(folder, LEADERBOARD)}")
