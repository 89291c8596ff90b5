"""Search the arguments under `train` in params.yaml on train alone, and say what the best ones gain.

The rows of train are in PARTS parts, by time. A trial is scored on three of them, each by a model of the parts before. No
trial sees the newest part: there the best arguments are compared with those of params.yaml, as the largest of many scores
is in part luck.
"""

import contextlib
import io
import shutil
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from optuna import Study, Trial
from optuna.trial import FrozenTrial, TrialState

from tabloop import candidate, files, onnx_model, owner, params_file, ray_engine, split
from tabloop.cli import UserError, one_line
from tabloop.intervals import Scored, estimate, influence
from tabloop.metrics import Estimate, enough
from tabloop.params import ROOT, Params, load
from tabloop.progress import progress
from tabloop.space import arguments
from tabloop.study import ERROR, ask, counted, elsewhere, name_of, open_study
from tabloop.tune_reports import PAGE, Runs, draw

PARTS = 6
FOLDS, NEWEST = (2, 3, 4), 5
Going = tuple[Trial, list[float]]  # a trial and its scores so far


@dataclass(frozen=True)
class Rows:
    """What trials are scored on: the model's inputs, (n, columns), a target of 0 and 1, (n,), each row's part, (n,)."""

    inputs: pd.DataFrame
    target: np.ndarray
    part: np.ndarray
    ordered: bool

    def before(self, part: int) -> np.ndarray:
        """The rows that the model of a part is fitted on, (n,); parts that have no order are alike."""
        return self.part < part if self.ordered else (self.part != part) & (self.part != NEWEST)


def read_rows(params: Params) -> Rows:
    """The rows of train in parts of equal size: by time, or by a hash of the entity or row.

    Raises:
        UserError: there is no train, or a part lacks a class.
    """
    schema = params.schema_
    rows = candidate.in_order(candidate.read_features("train"), schema)
    part = split.parts(rows, schema, PARTS)
    target = rows[schema.target.name].to_numpy()
    if any(len(np.unique(target[part == number])) < 2 for number in range(PARTS)):
        what = f"train has {len(rows):,} rows, {target.sum():,} of them positive"
        raise UserError(f"{what}: each of its {PARTS} parts needs both classes")
    return Rows(onnx_model.model_inputs(rows, schema), target, part, schema.timestamp is not None)


def predict(fit: Callable[..., Any], rows: Rows, params: Params, part: int) -> np.ndarray:
    """P(positive) of a part's rows, by a model that has not seen them: all that a trial computes.

    Raises:
        UserError: the estimator refuses an argument, or gives probabilities that are not finite.
    """
    before = rows.before(part)
    with contextlib.redirect_stdout(io.StringIO()):  # what fit says of its progress
        estimator = candidate.fit_or_explain(fit, rows.inputs[before], rows.target[before], params)
    probability = np.asarray(estimator.predict_proba(rows.inputs[rows.part == part])[:, 1])
    if not np.isfinite(probability).all():
        raise UserError("the model gives probabilities that are not finite")
    return probability


def with_drawn(params: Params, drawn: dict[str, Any]) -> Params:
    """The same with the arguments that Optuna drew."""
    return params.model_copy(update={"train": params.train | arguments(params.tune, drawn)})


class Here:
    """One trial at a time, in this process, with the interface of `ray_engine.Cluster`."""

    cores = 1

    def __init__(self, work: Callable[..., Any]) -> None:
        self.work = work

    def submit(self, *block: Any) -> "Here":
        """What is computed when its result is asked for."""
        return Here(partial(self.work, *block))

    def result(self) -> Any:
        """Compute it."""
        return self.work()

    def first(self, jobs: Iterable[Any]) -> Any:
        """The one that there is."""
        return next(iter(jobs))


def workers(fit: Callable[..., Any], rows: Rows) -> contextlib.AbstractContextManager[Any]:
    """What computes `predict`: this process, or the cores of the Ray cluster."""
    work = partial(predict, fit, rows)
    return ray_engine.cluster(work) if ray_engine.is_chosen() else contextlib.nullcontext(Here(work))


@dataclass(frozen=True)
class Search:
    """A study of the owner's `fit`."""

    study: Study
    fit: Callable[..., Any]
    params: Params
    rows: Rows
    metric: str

    def run(self, runs: Runs, trials: int, timeout: float) -> None:
        """Try arguments until the study has so many trials, or the time is over.

        Raises:
            UserError: the arguments that params.yaml has now fail.
        """
        end, params = time.monotonic() + timeout, self.params
        own = {name: found.drawn(params.train[name]) for name, found in params.tune.items()}
        if None not in own.values():
            self.study.enqueue_trial(own, skip_if_exists=True)
        space = {name: found.distribution for name, found in params.tune.items()}
        with progress("tune", trials) as bar, workers(self.fit, self.rows) as pool:
            going = dict[Any, Going]()
            while True:
                while len(going) < pool.cores and time.monotonic() < end:
                    mine = {trial.number for trial, _ in going.values()}
                    if not (trial := ask(self.study, space, trials, mine)):
                        break
                    going[pool.submit(with_drawn(params, trial.params), FOLDS[0])] = (trial, [])
                if not going:
                    return
                trial, values = going.pop(job := pool.first(going))
                if self.has_next(trial, values, job):
                    going[pool.submit(with_drawn(params, trial.params), FOLDS[len(values)])] = (trial, values)
                    continue
                done = self.study.get_trials(deepcopy=False)[trial.number]
                runs.log(done)
                said = f"tune: trial {done.number}: {arguments(params.tune, done.params)}"
                if ERROR in done.user_attrs:
                    bar.write(f"{said} failed: {done.user_attrs[ERROR]}")
                    if done.params == own:
                        raise UserError("these are the arguments of params.yaml: correct them first")
                elif done == self.best:
                    bar.write(f"{said} is the best so far: {self.metric} {done.value:.4f}")
                bar.update(len(counted(self.study)) - bar.n)

    def has_next(self, trial: Trial, values: list[float], job: Any) -> bool:
        """Score a trial on its next part; whether it goes on. It ends below the median of the others, or after the last."""
        part = FOLDS[len(values)]
        try:
            scored = Scored(job.result(), 0.5)
            target = self.rows.target[self.rows.part == part]
            values.append(influence(self.metric, target, scored, self.params.evaluate.cost)[0])
            trial.report(float(np.mean(values)), part)
            if part == FOLDS[-1]:
                self.study.tell(trial, float(np.mean(values)))
            elif trial.should_prune():
                self.study.tell(trial, state=TrialState.PRUNED)
            else:
                return True
        except ray_engine.LostError:
            raise
        except Exception as error:  # whatever an estimator raises: this trial fails, and the search goes on
            trial.set_user_attr(ERROR, one_line(error)[:300] or type(error).__name__)
            self.study.tell(trial, state=TrialState.FAIL)
        return False

    @property
    def best(self) -> FrozenTrial | None:
        """The trial with the largest mean over all parts, if one came to its end."""
        done = [trial for trial in self.study.get_trials(deepcopy=False) if trial.state.name == "COMPLETE"]
        return max(done, key=lambda trial: (trial.value, -trial.number), default=None)

    def conclude(self, write: bool | None) -> str:
        """Say what was found, draw it, and write it to params.yaml if it is better; what was done.

        Raises:
            UserError: no trial came to its end, or `train` in params.yaml was edited meanwhile.
        """
        trials, best, params = counted(self.study), self.best, self.params
        if any(trial.state.name == "RUNNING" and elsewhere(trial) for trial in trials):
            return "another search still runs a trial of this study, and then prints the result"
        if best is None:
            raise UserError(f"none of {len(trials)} trials finished")
        found = with_drawn(params, best.params)
        own = arguments(params.tune, best.params)
        print(f"tune: of {len(trials)} trials, {best.number} is the best: {own}")
        draw(self.study)
        if found.train == params.train:
            return f"these are the arguments of params.yaml -> {PAGE}"
        gain, rows = self.gain(found), int((self.rows.part == NEWEST).sum())
        what = f"{self.metric} {gain.value:+.4f} [{gain.low:+.4f}, {gain.high:+.4f}]"
        print(f"tune: {what} against params.yaml, on {rows:,} rows of train that no trial saw", flush=True)
        if not (gain.low > 0 if write is None else write):
            why = "the gain may be chance, because its interval contains 0: --write writes it anyway"
            return f"nothing is written{'' if write is False else f'; {why}'} -> {PAGE}"
        if load().train not in (params.train, found.train):
            raise UserError("nothing is written, because `train` in params.yaml was edited meanwhile")
        new = {name: found.train[name] for name in params.tune if found.train[name] != params.train[name]}
        path = ROOT / "params.yaml"
        text = params_file.with_arguments(path.read_bytes().decode(), new, f"{what} by tabloop tune")
        files.write(path, text)
        return f"written to params.yaml; next: `make train` -> {PAGE}"

    def gain(self, found: Params) -> Estimate:
        """By how much the metric is larger with these arguments on the newest part, with its paired interval."""
        target, evaluate = self.rows.target[self.rows.part == NEWEST], self.params.evaluate
        new, old = (Scored(predict(self.fit, self.rows, p, NEWEST), 0.5) for p in (found, self.params))
        gain = estimate(self.metric, target, new, old, evaluate.cost, evaluate.confidence)
        return gain if enough(target) else Estimate(gain.value, -1.0, 1.0)


def tune(trials: int, timeout: float, metric: str, write: bool | None) -> str:
    """Search, and write to params.yaml what is shown to be better; what was done.

    Args:
        trials: how many the study shall have in all.
        timeout: seconds after which no trial begins.
        write: True: always write the best; False: write nothing.

    Raises:
        UserError: there is nothing to search or to search on, MLflow does not answer, or no trial came to its end.
    """
    if not (params := load()).tune:
        raise UserError("params.yaml has no `tune`: give arguments of `train` their ranges there")
    rows, fit = read_rows(params), owner.module("model").fit
    study = open_study(name_of(params, candidate.FEATURES / "train.parquet", metric))
    print(f"tune: study {study.study_name} has {len(counted(study))} of {trials} trials", flush=True)
    search = Search(study, fit, params, rows, metric)
    try:
        search.run(Runs(params, study, metric), trials, timeout)
        said = search.conclude(write)
        shutil.rmtree(candidate.CHECKPOINTS, ignore_errors=True)  # the study has what they were for
        return said
    except KeyboardInterrupt:
        done = sum(trial.state.is_finished() for trial in counted(study))
        sys.exit(f"tune: stopped; {done} trials are kept, and `make tune` continues")
