"""A search whose trainings compute a number instead: for tests of everything but the training."""

import dataclasses
import hashlib
import os
import signal
import sys
import time
import types

import numpy as np

from keras_effnet.model_cost import cost
from keras_effnet.search_space import canonical_form
from keras_effnet.space_lookup import find_space
from tpu_train.recipes.table import find_recipe
from tpu_train.search.limits import limit_space
from tpu_train.search.request import SearchRequest
from tpu_train.search.results_cache import ResultsCache
from tpu_train.search.settings import SearchSettings
from tpu_train.search.study_opening import open_storage, open_study
from tpu_train.search.trial_folder import write_network
from tpu_train.search.worker import Worker

CLASSES, LABELS = ("a", "b"), np.arange(100) % 2
FLOPS = types.SimpleNamespace(
    source="multiply-adds of one image", unit="multiply-adds", device="none"
)


def accuracy_of(variant, phase):
    """An accuracy in [0.2, 0.7) that follows from the network, and grows by phase."""
    digest = hashlib.sha256(canonical_form(variant).encode()).digest()
    fused = sum(stage.op == "fused" for stage in variant.stages)
    return 0.2 + 0.08 * fused + 0.08 * digest[0] / 256 + 0.05 * phase


class FakeTrainer:
    """Stands for ``TrialTrainer``: resumes at the first phase that its folder does not have."""

    def __init__(self, recipe, seconds=0.0, timer=FLOPS):
        self.recipe, self.seconds, self.timer = recipe, seconds, timer

    def measure(self, folder, variant):
        write_network(folder, variant)
        return float(cost(variant, image_size=32, classes=len(CLASSES)).macs)

    def train(self, folder, variant, continues):
        write_network(folder, variant)
        os.makedirs(os.path.join(folder, "checkpoints"), exist_ok=True)
        for phase in range(1, self.recipe.phases + 1):
            done = os.path.join(folder, "checkpoints", str(phase))
            if os.path.exists(done):
                continue
            with open(os.path.join(folder, ".trained"), "a", encoding="utf-8") as file:
                file.write(f"{phase} ")
            time.sleep(self.seconds)
            if not continues(phase, accuracy_of(variant, phase)):
                return False
            with open(done, "w", encoding="utf-8"):
                pass
        return True


def make_request(workdir, *, trials=12, sampler="random", phases=1, **settings):
    """The request of a study in the small space."""
    recipe = dataclasses.replace(
        find_recipe("search"),
        phases=phases,
        **{f"image_size_{which}": 32 for which in ("first", "last", "eval")},
    )
    return SearchRequest(
        settings=SearchSettings("small", recipe, sampler=sampler, **settings),
        data="fake",
        workdir=str(workdir),
        trials=trials,
    )


def search(request, *, seconds=0.0, timer=FLOPS, stop=lambda: ""):
    """Works on a study until it is complete; returns its records."""
    study = open_storage(request)
    open_study(request, study, CLASSES, LABELS)
    settings = request.settings
    identity = settings.identity(CLASSES, LABELS)
    Worker(
        request=request,
        study=study,
        limited=limit_space(
            find_space(settings.space),
            image_size=32,
            classes=len(CLASSES),
            max_parameters=settings.max_parameters,
        ),
        trainer=FakeTrainer(settings.recipe, seconds, timer),
        cache=ResultsCache(request.cache, identity, timer.device),
        stop=stop,
    ).run()
    return study.records()


def with_workers(request, count):
    return dataclasses.replace(request, workers=count)


def work_or_be_killed(request, parent_ended):
    """A worker of ``run_workers``; the first one is killed during its first trial."""
    killed = os.path.join(request.workdir, "killed")
    try:
        os.close(os.open(killed, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        search(request, stop=parent_ended)
        return 0
    search(request, seconds=0.1, stop=lambda: os.kill(os.getpid(), signal.SIGKILL))
    return 1


def wait_for_stop(request, parent_ended):
    """A worker that ends when SIGTERM ends it."""
    while not parent_ended():
        time.sleep(0.05)
    return 1


if __name__ == "__main__":  # a worker in its process: folder [database]
    asked = make_request(sys.argv[1], trials=10, sampler="tpe", phases=2)
    search(dataclasses.replace(asked, storage="".join(sys.argv[2:])), seconds=0.15)
