"""What is seen of a search: reports/tune.html, whose pictures need no internet, and MLflow's runs."""

import io
from typing import Any

import numpy as np
from optuna import Study
from optuna.trial import FrozenTrial

from tabloop import files, registry, report, space
from tabloop.cli import one_line
from tabloop.params import ROOT, Params
from tabloop.study import BEGUN, ERROR, elsewhere

PAGE = "reports/tune.html"
STATUS = {"COMPLETE": "FINISHED", "PRUNED": "KILLED", "FAIL": "FAILED"}


def draw(study: Study) -> None:
    """Draw which arguments matter, each trial's metric, and the metric by each argument."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import NullFormatter
    from optuna.visualization import matplotlib as plots

    pictures: list[Any] = [plots.plot_optimization_history, plots.plot_slice]
    trials, drawn = study.get_trials(deepcopy=False), []
    if len({trial.value for trial in trials if trial.state.name == "COMPLETE"}) > 3:
        pictures.insert(0, plots.plot_param_importances)
    for picture in pictures:
        svg, axes = io.StringIO(), np.ravel(picture(study))
        for each in axes:
            each.xaxis.set_minor_formatter(NullFormatter())  # on a log scale their labels lie on each other
        axes[0].figure.savefig(svg, format="svg", bbox_inches="tight")
        drawn.append(svg.getvalue()[svg.getvalue().index("<svg") :])
    plt.close("all")
    files.write(ROOT / PAGE, report.render("tune.html", study=study, trials=trials, pictures=drawn))


class Runs:
    """The runs of a study. If MLflow stops answering, a line says so once, and the next search logs the rest."""

    def __init__(self, params: Params, study: Study, metric: str) -> None:
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

    def log(self, trial: FrozenTrial) -> None:
        """Log a trial that came to its end, the mean after each fold as a step."""
        from mlflow.entities import Metric, Param
        from mlflow.exceptions import MlflowException

        tags = {"mlflow.parentRunId": self.parent, "trial": str(trial.number)}
        tags["mlflow.runName"] = f"trial {trial.number}"
        tags["mlflow.note.content"] = trial.user_attrs.get(ERROR, "")
        times = (trial.datetime_start, trial.datetime_complete)
        begin, end = (int(at.timestamp() * 1000) for at in times if at)  # it came to its end
        used = self.params.train | space.arguments(self.params.tune, trial.params)
        try:
            if not self.lost:
                run = self.client.create_run(self.experiment, begin, tags).info.run_id
                values = [Metric(self.metric, v, end, step) for step, v in trial.intermediate_values.items()]
                self.client.log_batch(run, values, [Param(n, str(v)) for n, v in used.items()])
                self.client.set_terminated(run, STATUS[trial.state.name], end)
        except MlflowException as error:
            self.lost = True
            print(f"tune: MLflow does not answer: {one_line(error)[:300]}; the next search logs the rest")
