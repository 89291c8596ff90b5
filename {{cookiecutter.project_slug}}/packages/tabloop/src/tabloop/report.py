"""The curves of an evaluation, drawn once: in the HTML page and, as Mermaid, in a pull request's comment."""

import io
from typing import TYPE_CHECKING, Any

from tabloop import verdicts
from tabloop.card import ModelCard
from tabloop.params import Params

if TYPE_CHECKING:
    import pandas as pd

CANDIDATE, CHAMPION, GUIDE = "#2457c5", "#e07b39", "#9aa4b2"
WIDE = 30  # the largest predicted share of a bin, over the smallest, from which the scale is logarithmic
Points = dict[str, list[dict[str, float]]]
CURVES = {  # name -> title, axes
    "roc": ("ROC", "false_positive_rate", "true_positive_rate"),
    "precision_recall": ("Precision and recall", "recall", "precision"),
    "calibration": ("Calibration", "predicted", "observed"),
    "threshold": ("Cost per row by threshold", "threshold", "cost"),
}


def draw(name: str, candidate: Points, champion: Points | None, threshold: float) -> str:
    """One curve as SVG; the champion's is dashed."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    style: Any = {"svg.fonttype": "none", "svg.hashsalt": name, "font.family": "sans-serif", "font.size": 10}
    title, x, y = CURVES[name]
    with mpl.rc_context(style):
        figure = Figure(figsize=(5, 3.6))
        axes = figure.subplots(gridspec_kw={"left": 0.17, "right": 0.98, "bottom": 0.15, "top": 0.97})
        predicted = [point["predicted"] for point in candidate[name]] if name == "calibration" else [1.0]
        log = 0 < min(predicted) * WIDE < max(predicted)  # at low rates all points but one are near 0
        marker = "o" if name == "calibration" else None
        curves = (champion, CHAMPION, "champion", "--"), (candidate, CANDIDATE, "candidate", "-")
        for points, color, label, line in curves:
            if points:
                xs, ys = ([point[axis] for point in points[name]] for axis in (x, y))
                if log:
                    ys = [max(point[y], 0.5 / point["rows"]) for point in points[name]]
                axes.plot(xs, ys, line, color=color, label=label, linewidth=2, marker=marker, markersize=4)
        if name in ("roc", "calibration"):
            end = 1 if name == "roc" else max(point[axis] for point in candidate[name] for axis in (x, y))
            ends = [min(predicted) if log else 0, end]
            axes.plot(ends, ends, color=GUIDE, linewidth=1, linestyle=":")
        if name == "threshold":
            axes.axvline(threshold, color=GUIDE, linewidth=1, linestyle=":")
            at = (threshold, axes.get_ylim()[1])
            axes.annotate(f"chosen: {threshold:.3g}", at, (4, -12), textcoords="offset points")
        if log:
            axes.set(xscale="log", yscale="log")
        ending = ", log scale" if log else ""
        axes.set(xlabel=x.replace("_", " ") + ending, ylabel=y.replace("_", " ") + ending)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
        if champion:
            axes.legend(frameon=False)
        svg = io.StringIO()
        figure.savefig(svg, format="svg", transparent=True, metadata={"Date": None, "Title": title})
    return svg.getvalue()[svg.getvalue().index("<svg") :]


def mermaid(name: str, points: list[dict[str, float]]) -> str:
    """One curve as a Mermaid chart, which GitHub draws, at even steps of x."""
    import numpy as np

    title, x, y = CURVES[name]
    xs, ys = (np.array([point[axis] for point in points], float) for axis in (x, y))
    order, steps = np.argsort(xs, kind="stable"), np.linspace(0, xs.max(), 21)
    heights = ", ".join(f"{height:.3f}" for height in np.interp(steps, xs[order], ys[order]))
    axes = f'    x-axis "{x}" 0 --> {xs.max():.3g}\n    y-axis "{y}" 0 --> {ys.max():.3g}'
    return f'```mermaid\nxychart-beta\n    title "{title}"\n{axes}\n    line [{heights}]\n```\n'


def page(
    params: Params,
    card: ModelCard,
    result: dict[str, Any],
    plots: Points,
    champion: Points | None,
    rows: "pd.DataFrame",
) -> str:
    """The report as one HTML page that opens offline: verdict, metrics, curves, segments, and the model's origin."""
    time = params.schema_.timestamp
    window = f"{rows[time].min():%Y-%m-%d} to {rows[time].max():%Y-%m-%d}" if time else "split by hash"
    drawn = {title: draw(name, plots, champion, result["threshold"]) for name, (title, *_) in CURVES.items()}
    return render(
        "report.html", params=params, model=card, result=result, window=window, plots=drawn, verdicts=verdicts
    )


def render(template: str, **values: Any) -> str:
    """A template that stands beside this file, filled in.

    In HTML what would be a tag is escaped, and a figure may be missing, which an owner's evaluate.py leaves out.

    Raises:
        jinja2.UndefinedError: another template has a name that is not among the values.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined, Undefined

    options: Any = {"trim_blocks": True, "lstrip_blocks": True, "keep_trailing_newline": True}
    page, missing = (True, Undefined) if template.endswith(".html") else (False, StrictUndefined)
    jinja = Environment(loader=PackageLoader("tabloop", "."), autoescape=page, undefined=missing, **options)
    jinja.filters |= {"digits": verdicts.figure, "cell": verdicts.cell}
    return jinja.get_template(template).render(**values)


def text(template: str, **values: Any) -> str:
    """A template filled in by `render`, without the end of its last line, which printing adds."""
    return render(template, **values).removesuffix("\n")
