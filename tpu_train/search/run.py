"""One worker of a search, from top to bottom: open the data and the study, check, work."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable

from tpu_train.input_pipeline.data_loading import open_data
from tpu_train.recipes.phases import checked_phases
from tpu_train.search.optuna_study import StoredStudy
from tpu_train.search.request import SearchRequest
from tpu_train.search.results_cache import ResultsCache
from tpu_train.search.step_time import make_timer
from tpu_train.search.study_checks import check_study
from tpu_train.search.study_opening import open_study
from tpu_train.search.trial_training import TrialTrainer
from tpu_train.search.worker import Worker
from tpu_train.training.distribution import make_strategy


def run_search(
    request: SearchRequest,
    study: StoredStudy,
    stop: Callable[[], str],
    print_notes: Callable[..., None] = lambda *sources: None,
) -> None:
    """Works on the study of `request` until it has all its trials.

    `stop` returns the reason to stop, or ""; `print_notes` takes the training images. Raises
    ``ValueError`` for data, limits or a recipe that cannot work, before anything is recorded, and
    as :meth:`tpu_train.search.worker.Worker.run` does.
    """
    settings = request.settings
    strategy = make_strategy(request.device)  # before any other TensorFlow call
    training, _ = open_data(
        request.data,
        holdout=request.holdout,
        seed=settings.recipe.seed,
        max_corrupt=request.max_corrupt,
        on_duplicates=request.on_duplicates,
    )
    print_notes(training)
    limited, used, held_out = check_study(
        settings, training.name, training.classes, training.labels
    )
    images, minival = training.take(used), training.take(held_out)
    checked_phases(settings.recipe, strategy.num_replicas_in_sync, images.examples)
    if limited.count() is not None:
        request = dataclasses.replace(request, trials=min(request.trials, limited.count()))
    timer = make_timer(
        settings.step_time,
        strategy,
        classes=len(training.classes),
        examples=images.examples,
        cache=os.path.join(request.workdir, "compiled"),
    )
    open_study(request, study, training.classes, training.labels)
    identity = settings.identity(training.classes, training.labels)
    Worker(
        request=request,
        study=study,
        limited=limited,
        trainer=TrialTrainer(
            settings.recipe,
            limited.space.base,
            images,
            minival,
            strategy,
            timer,
            request.save_minutes,
            stop,
        ),
        cache=ResultsCache(request.cache, identity, timer.device),
        stop=stop,
    ).run()
