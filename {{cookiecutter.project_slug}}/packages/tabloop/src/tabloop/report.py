"""The evaluation as one HTML page that needs nothing but itself."""

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader

from ..params import Params

if TYPE_CHECKING:
    import pandas as pd

CANDIDATE, CHAMPION, GUIDE = "#2457c5", "#e07b39", "#9aa4b2"
Points = dict[str, list[dict[str, float]]]
PLOTS = {  # plot -> title, axes, labels
    "roc": ("ROC", "false_positive_rate", "true_positive_rate"),
    "precision_recall": ("Precision and recall", "recall", "precision"),
    "calibration": ("Calibration", "predicted", "observed"),
    "threshold": ("Cost per row by threshold", "threshold", "cost"),
}


def draw(name: str, candidate: Points, champion: Points | None, threshold: float) -> str:
    """One plot as SVG; the champion's curve dashed where there is one."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    mpl.rcParams.update(
        {"svg.fonttype": "none", "svg.hashsalt": name, "font.family": "sans-serif", "font.size": 10}
    )
    _, x, y = PLOTS[name]
    figure = Figure(figsize=(5, 3.6), layout="constrained")
    axes = figure.subplots()
    for points, color, label in ((champion, CHAMPION, "champion"), (candidate, CANDIDATE, "candidate")):
        if points:
            values = [[point[axis] for point in points[name]] for axis in (x, y)]
            style: dict[str, Any] = {
                "color": color,
                "label": label,
                "linestyle": "--" if points is champion else "-",
            }
            axes.plot(
                *values, linewidth=2, marker="o" if name == "calibration" else None, markersize=4, **style
            )
    if name in ("roc", "calibration"):
        end = 1 if name == "roc" else max(point[axis] for point in candidate[name] for axis in (x, y))
        axes.plot([0, end], [0, end], color=GUIDE, linewidth=1, linestyle=":")
    if name == "threshold":
        axes.axvline(threshold, color=GUIDE, linewidth=1, linestyle=":")
        axes.annotate(
            f"chosen: {threshold:.3g}", (threshold, axes.get_ylim()[1]), (4, -12), textcoords="offset points"
        )
    axes.set(xlabel=x.replace("_", " "), ylabel=y.replace("_", " "))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    if champion:
        axes.legend(frameon=False)
    svg = io.StringIO()
    figure.savefig(svg, format="svg", transparent=True, metadata={"Date": None, "Title": PLOTS[name][0]})
    return svg.getvalue()[svg.getvalue().index("<svg") :]


def page(
    params: Params,
    model: dict[str, Any],
    result: dict[str, Any],
    plots: Points,
    champion_plots: Points | None,
    rows: "pd.DataFrame",
) -> str:
    """The page: verdict, metrics, plots, segments, and where the model comes from."""
    time = params.schema_.timestamp
    window = (
        f"{rows[time].min():%Y-%m-%d} to {rows[time].max():%Y-%m-%d}"
        if time
        else "no timestamp: split by hash"
    )
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True
    )
    return environment.get_template("report.html").render(
        params=params,
        model=model,
        result=result,
        window=window,
        plots={
            title: draw(name, plots, champion_plots, result["threshold"])
            for name, (title, _, _) in PLOTS.items()
        },
    )
