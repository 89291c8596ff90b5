"""The contract of `tune` in `params.yaml`: which values of an argument under `train` are searched."""

import json
import math
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, BaseModel, JsonValue, model_validator

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution


def number(value: Any) -> Any:
    """A finite number. YAML takes 1e-4, without a dot, for a text."""
    value = float(value) if isinstance(value, str) else value
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{value!r} is not a number")
    return value


Number = Annotated[Any, AfterValidator(number)]


class Range(BaseModel, extra="forbid", frozen=True, defer_build=True):
    """From `low` to `high`, both included, and whole numbers if both are whole; or one of the `choices`.

    Attributes:
        log: draw the logarithm evenly, for an argument whose orders of magnitude matter.
        step: only low, low + step, and so on.
        choices: of any type, lists included.
    """

    low: Number = None
    high: Number = None
    log: bool = False
    step: Number = None
    choices: list[JsonValue] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> "Range":
        if self.choices is not None:
            if len(self.model_fields_set) > 1 or len(set(map(json.dumps, self.choices))) < 2:
                raise ValueError("choices need at least two values, and nothing beside them")
        elif None in (self.low, self.high) or self.low >= self.high:
            raise ValueError("give low and a higher high, or choices")
        elif (self.log and (self.low <= 0 or self.step)) or (self.step is not None and self.step <= 0):
            raise ValueError("log needs a low above 0 and no step; a step must be above 0")
        return self

    @property
    def whole(self) -> bool:
        """Whether it draws integers."""
        return all(isinstance(value, int) for value in (self.low, self.high, self.step or 1))

    @property
    def distribution(self) -> "BaseDistribution":
        """What Optuna draws from. A choice is its JSON, as Optuna stores no lists."""
        from optuna import distributions as of

        if self.choices is not None:
            return of.CategoricalDistribution([json.dumps(choice) for choice in self.choices])
        if self.whole:
            return of.IntDistribution(self.low, self.high, self.log, self.step or 1)
        return of.FloatDistribution(self.low, self.high, self.log, self.step)

    def argument(self, drawn: Any) -> Any:
        """The argument that Optuna drew. A float is rounded, so that what is written is what was measured."""
        if self.choices is not None:
            return json.loads(drawn)
        rounded = float(f"{drawn:.{12 if self.step else 4}g}")
        return drawn if self.whole else min(max(rounded, self.low), self.high)

    def drawn(self, argument: Any) -> Any:
        """What Optuna would have drawn for an argument; None if it is outside."""
        if self.choices is not None:
            return json.dumps(argument) if argument in self.choices else None
        number = isinstance(argument, int if self.whole else int | float)
        return argument if number and self.low <= argument <= self.high else None


def arguments(space: dict[str, Range], drawn: dict[str, Any]) -> dict[str, Any]:
    """The arguments that Optuna drew."""
    return {name: space[name].argument(value) for name, value in drawn.items()}
