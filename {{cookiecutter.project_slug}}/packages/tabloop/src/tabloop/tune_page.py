"""reports/tune.html: what a search found, in pictures that need no internet."""

import io
from typing import TYPE_CHECKING, Any

import numpy as np

from tabloop import files
from tabloop.params import ROOT

if TYPE_CHECKING:
    from optuna import Study

PAGE = "reports/tune.html"


def draw(study: "Study") -> None:
    """Draw which arguments matter, each trial's metric, and the metric by each argument."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from optuna.visualization import matplotlib as plots

    pictures: list[Any] = [plots.plot_optimization_history, plots.plot_slice]
    if len({trial.value for trial in study.get_trials(deepcopy=False) if trial.state.name == "COMPLETE"}) > 3:
        pictures.insert(0, plots.plot_param_importances)
    page = [f"<!doctype html><meta charset=utf-8><title>Search {study.study_name}</title>"]
    for picture in pictures:
        svg = io.StringIO()
        np.ravel(picture(study))[0].figure.savefig(svg, format="svg", bbox_inches="tight")
        page.append(svg.getvalue()[svg.getvalue().index("<svg") :])
    plt.close("all")
    files.write(ROOT / PAGE, "\n".join(page))
