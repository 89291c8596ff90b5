"""What MLflow gets of a search: a run for the study, and below it one for each trial."""

from typing import TYPE_CHECKING

from tabloop import registry
from tabloop.cli import one_line
from tabloop.params import Params
from tabloop.space import arguments
from tabloop.study import BEGUN, ERROR, elsewhere

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

STATUS = {"COMPLETE": "FINISHED", "PRUNED": "KILLED", "FAIL": "FAILED"}


class Runs:
    """The runs of a study. Where MLflow stops to answer that is said once, and the next search logs what is missing."""

    def __init__(self, params: Params, study: "Study", metric: str) -> None:
        """Find the study's run, or make it; log the trials of processes that are gone if they have none."""
        self.params, self.metric, self.lost = params, metric, False
        self.client = registry.connect(params)
        experiment = self.client.get_experiment_by_name(params.project)
        assert experiment  # connect() makes it
        self.experiment = experiment.experiment_id
        # Its file may have been deleted since: then a study of this name begins anew.
        tags = {"study": f"{study.study_name} {study.user_attrs[BEGUN]}"}
        found = self.client.search_runs([self.experiment], f"tags.study = '{tags['study']}'", max_results=1)
        tags["mlflow.runName"] = f"tune {study.study_name}"
        self.parent = (found[0] if found else self.client.create_run(self.experiment, tags=tags)).info.run_id
        below = f"tags.`mlflow.parentRunId` = '{self.parent}'"
        runs = self.client.search_runs([self.experiment], below, max_results=50_000)
        known = {run.data.tags["trial"] for run in runs}
        for trial in study.get_trials(deepcopy=False):
            if trial.state.is_finished() and str(trial.number) not in known and not elsewhere(trial):
                self.log(trial)

    def log(self, trial: "FrozenTrial") -> None:
        """Log a trial that came to its end, the mean after each fold as a step."""
        from mlflow.entities import Metric, Param
        from mlflow.exceptions import MlflowException

        tags = {"mlflow.parentRunId": self.parent, "trial": str(trial.number)}
        tags["mlflow.runName"] = f"trial {trial.number}"
        tags["mlflow.note.content"] = trial.user_attrs.get(ERROR, "")
        times = (trial.datetime_start, trial.datetime_complete)
        begin, end = (int(at.timestamp() * 1000) for at in times if at)  # it came to its end
        used = self.params.train | arguments(self.params.tune, trial.params)
        try:
            if not self.lost:
                run = self.client.create_run(self.experiment, begin, tags).info.run_id
                values = [Metric(self.metric, v, end, step) for step, v in trial.intermediate_values.items()]
                self.client.log_batch(run, values, [Param(n, str(v)) for n, v in used.items()])
                self.client.set_terminated(run, STATUS[trial.state.name], end)
        except MlflowException as error:
            self.lost = True
            print(f"tune: MLflow does not answer: {one_line(error)[:300]}; the next search logs the rest")
