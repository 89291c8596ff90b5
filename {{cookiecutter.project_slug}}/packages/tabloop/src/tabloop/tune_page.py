"""reports/tune.html: what a search found, in pictures that need no internet."""

import io
from typing import TYPE_CHECKING, Any

import numpy as np

from tabloop import files
from tabloop.params import ROOT

if TYPE_CHECKING:
    from optuna import Study

PAGE = "reports/tune.html"
HEAD = """<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content="width=device-width">
<title>Search {0}</title><style>:root {{ color-scheme: light dark }} body {{ font-family: sans-serif; margin: 1em }}
div {{ overflow-x: auto }} svg {{ width: 100%; max-width: 900px; height: auto }} div:last-child svg {{ min-width: 600px }}
@media (prefers-color-scheme: dark) {{ svg {{ filter: invert(1) hue-rotate(180deg) }} }}</style>
<h1>Search {0}: {1} trials</h1>"""


def draw(study: "Study") -> None:
    """Draw which arguments matter, each trial's metric, and the metric by each argument."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import NullFormatter
    from optuna.visualization import matplotlib as plots

    pictures: list[Any] = [plots.plot_optimization_history, plots.plot_slice]
    if len({trial.value for trial in study.get_trials(deepcopy=False) if trial.state.name == "COMPLETE"}) > 3:
        pictures.insert(0, plots.plot_param_importances)
    page = [HEAD.format(study.study_name, len(study.get_trials(deepcopy=False)))]
    for picture in pictures:
        svg, axes = io.StringIO(), np.ravel(picture(study))
        for each in axes:
            each.xaxis.set_minor_formatter(NullFormatter())  # on a log scale their labels lie on each other
        axes[0].figure.savefig(svg, format="svg", bbox_inches="tight")
        page.append(f"<div>{svg.getvalue()[svg.getvalue().index('<svg') :]}</div>")
    plt.close("all")
    files.write(ROOT / PAGE, "\n".join(page))
