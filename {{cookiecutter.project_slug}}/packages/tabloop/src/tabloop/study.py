"""The study that `tabloop tune` keeps in data/tune.db: the same one for the same data, space and code.

Several processes may work on it at once, and each may be killed at any time: who asks for a trial gives back those whose
process is gone.
"""

import hashlib
import json
import logging
import os
import sys
import time
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from optuna import Study, Trial
from optuna.samplers import TPESampler
from optuna.trial import FrozenTrial, TrialState

from tabloop.locks import fcntl
from tabloop.params import ROOT, Params

DATABASE = "data/tune.db"
ERROR, PROCESS, BEGUN = "error", "process", "begun"  # why a trial failed, whose it is; when the study began


def name_of(params: Params, train: Path, metric: str) -> str:
    """A hash of all that decides what a trial gives: rows, schema, space, the other arguments, metric, and code.

    The code is what model.py imported from src/. The value of an argument that is searched is not among it, so that the
    study goes on after the best one was written to params.yaml.
    """
    files = {str(getattr(module, "__dict__", {}).get("__file__")) for module in list(sys.modules.values())}
    own = [file for file in sorted(files) if file.startswith(f"{ROOT / 'src'}{os.sep}")]
    code = [Path(file).read_text("utf-8") for file in own]
    declared = params.model_dump(mode="json", include={"schema_", "tune"})
    declared["fixed"] = {name: value for name, value in params.train.items() if name not in params.tune}
    with train.open("rb") as rows:
        found = hashlib.file_digest(rows, "sha256")
    found.update(json.dumps([declared, metric, code], sort_keys=True, default=str).encode())
    return found.hexdigest()[:12]


@contextmanager
def locked() -> Iterator[None]:
    """Hold the lock of all processes that work on data/tune.db."""
    path = (ROOT / DATABASE).with_suffix(".lock")
    path.parent.mkdir(exist_ok=True)
    with path.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def open_study(name: str) -> Study:
    """The study of that name, as it was left, or a new one."""
    optuna.logging.set_verbosity(logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    pruner, timeout = optuna.pruners.MedianPruner(), {"connect_args": {"timeout": 60}}
    with locked():
        storage = optuna.storages.RDBStorage(f"sqlite:///{ROOT / DATABASE}", timeout)
        if (names := optuna.get_all_study_names(storage)) and name not in names:
            print("tune: a new study: the data, `tune`, other arguments, the metric or model.py changed")
        study = optuna.create_study(
            storage=storage, pruner=pruner, study_name=name, direction="maximize", load_if_exists=True
        )
        if BEGUN not in study.user_attrs:
            study.set_user_attr(BEGUN, time.time())
    return study


def counted(study: Study) -> list[FrozenTrial]:
    """The trials that run or came to their end; not those that wait, or whose process was killed."""
    found = study.get_trials(deepcopy=False)
    killed = [t for t in found if t.state.name == "FAIL" and ERROR not in t.user_attrs]
    return [trial for trial in found if trial.state.name != "WAITING" and trial not in killed]


def ask(study: Study, space: dict[str, Any], trials: int, mine: Collection[int] = ()) -> Trial | None:
    """The next trial, drawn from Optuna's distributions; None where the study has as many as it shall have.

    Args:
        mine: the numbers of the trials that this process has now.
    """
    with locked():
        for left in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if left.number not in mine and not elsewhere(left):
                study.tell(left.number, state=TrialState.FAIL)
                if "again" not in left.user_attrs:  # what ends two processes is not tried a third time
                    study.enqueue_trial(left.params, {"again": True})
        if len(counted(study)) >= trials:
            return None
        # By the number of the trial: a study that goes on asks for the same as one that never stopped.
        study.sampler = TPESampler(seed=len(study.get_trials(deepcopy=False)))
        trial = study.ask(space)
        trial.set_user_attr(PROCESS, [os.getpid(), started(os.getpid())])
        return trial


def elsewhere(trial: FrozenTrial) -> bool:
    """Whether another process, which is alive, has the trial."""
    pid, when = trial.user_attrs.get(PROCESS, (0, 0))
    # The system's idea of when a process started moves with its clock.
    return pid != os.getpid() and abs(started(pid) - when) < 2


def started(pid: int) -> float:
    """When a process started, in seconds since 1970; infinity where there is none."""
    import psutil

    return psutil.Process(pid).create_time() if psutil.pid_exists(pid) else float("inf")
