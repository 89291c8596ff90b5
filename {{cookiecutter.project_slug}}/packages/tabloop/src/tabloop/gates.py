"""The contract of `gates` in `params.yaml`: one entry says what a candidate must reach on the holdout."""

from typing import Annotated, Literal

from pydantic import BaseModel, Field, FiniteFloat, model_validator

# The metrics that need nothing of evaluate.py, and whether more is better.
HIGHER_IS_BETTER = {
    "auc": True,
    "average_precision": True,
    "brier": False,
    "calibration_error": False,
    "precision": True,
    "recall": True,
    "cost_per_row": False,
}
# Between the levels of a column: the largest difference in recall, the smallest ratio of the shares predicted positive.
PARITY = {"equal_opportunity_difference": False, "disparate_impact": True}


class Gate(BaseModel, extra="forbid", frozen=True, defer_build=True):
    """One metric and its bar: an absolute one, `min` or `max`, or against the champion on the same rows, with a `margin`.

    Attributes:
        metric: one of HIGHER_IS_BETTER or PARITY, or one that `measure()` in evaluate.py returns.
        margin: by how much the candidate may be worse.
        by: a feature or a sensitive column; each of its levels is judged by itself.
        decides: what is compared with the bar: the value, or the interval's better or worse end.
        better: what is better in a metric of your own.
    """

    metric: str
    min: FiniteFloat | None = None
    max: FiniteFloat | None = None
    against: Literal["champion"] | None = None
    margin: Annotated[FiniteFloat, Field(ge=0)] | None = None
    by: str | None = None
    decides: Literal["value", "better_end", "worse_end"] | None = None
    better: Literal["higher", "lower"] | None = None

    @property
    def higher(self) -> bool:
        """Whether more is better."""
        known = HIGHER_IS_BETTER | PARITY
        if self.metric in known:
            return known[self.metric]
        return self.better == "higher" if self.against else self.min is not None

    @property
    def bar(self) -> float:
        """What the metric, or its difference to the champion's, must reach or not exceed."""
        if self.margin is not None:
            return -self.margin if self.higher else self.margin
        return float(self.max if self.min is None else self.min)  # type: ignore[arg-type]

    def reached_by(self, figure: float) -> bool:
        """Whether a figure is at the bar or on its good side; NaN is not."""
        return figure >= self.bar if self.higher else figure <= self.bar

    @property
    def is_auc_bar(self) -> bool:
        """Whether it is the bar of AUC over all rows, which `--min-auc` replaces and monitoring asks for."""
        return self.metric == "auc" and not self.by and not self.against

    @property
    def end(self) -> str:
        """What is compared with the bar: the value; against the champion the better end, so only what is shown to be worse fails.

        The calibration error has the same default: with few rows its value is chance.
        """
        chance = self.against or self.metric == "calibration_error"
        return self.decides or ("better_end" if chance else "value")

    @model_validator(mode="after")
    def _consistent(self) -> "Gate":
        bars, own = [self.min, self.max], self.metric not in HIGHER_IS_BETTER | PARITY
        if self.against and (self.margin is None or bars != [None, None]):
            raise ValueError("a gate with `against: champion` needs `margin`, and neither `min` nor `max`")
        if not self.against and (self.margin is not None or bars.count(None) != 1):
            raise ValueError("give either `min` or `max`, or `against: champion` and `margin`")
        if self.metric in PARITY and (self.against or not self.by):
            raise ValueError(f"{self.metric} compares levels: give the column as `by`, and no `against`")
        if (self.better is not None) != bool(own and self.against):
            raise ValueError("`better` is only for your own metric with `against: champion`")
        if not own and not self.against and self.higher != (self.min is not None):
            which = ("higher", "min") if self.higher else ("lower", "max")
            raise ValueError(f"{self.metric} is better if it is {which[0]}: give `{which[1]}`")
        if not own and self.metric != "cost_per_row" and not -1 <= self.bar <= 1:
            raise ValueError(f"{self.metric} lies between 0 and 1: {abs(self.bar):g} can't be the bar")
        return self
