"""`params.yaml`, typed: the schema from which columns, views, inputs and requests derive."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

ROOT = Path(os.environ.get("PROJECT_ROOT", Path(__file__).parents[2]))

ColumnType = Literal["number", "integer", "boolean", "category"]


class UserError(Exception):
    """A mistake the user can mend; its text names the file, field or value, and the fix."""


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Column(Strict):
    """One feature column.

    `source` is its name in the raw table where that differs, `values` the categories allowed
    (empty: any), `min` and `max` are inclusive.
    """

    type: ColumnType
    nullable: bool = True
    min: float | None = None
    max: float | None = None
    values: list[str] = []
    source: str | None = None
    description: str | None = None

    @property
    def numeric(self) -> bool:
        """Whether the model takes it as float32, not as a string."""
        return self.type != "category"


class Target(Strict):
    """The binary target: the raw value `positive` is 1, the other value 0, a missing one not labelled yet."""

    name: str
    positive: Any = 1
    source: str | None = None


class Schema(Strict):
    """What every row is made of; nobody writes a column's name twice."""

    key: list[str] = []
    entity: str | None = None
    timestamp: str | None = None
    target: Target
    views: dict[str, dict[str, Column]] = {}
    request: dict[str, Column] = {}
    # name -> name in the raw table, for entity, timestamp and key where it differs
    sources: dict[str, str] = {}

    @property
    def features(self) -> dict[str, Column]:
        """The model's inputs in order: every view's columns, then the request's."""
        return {n: c for view in self.views.values() for n, c in view.items()} | self.request

    @model_validator(mode="after")
    def _consistent(self) -> "Schema":
        names = [n for view in self.views.values() for n in view] + list(self.request)
        if not names:
            raise ValueError("no feature: declare at least one under `views` or `request`")
        if odd := [n for n in names if not n.isidentifier() or n in ("probability", "event_timestamp")]:
            raise ValueError(
                f"{odd[0]!r} can't be a column's name here: choose another, and give the raw one as `source`"
            )
        roles = [self.entity, self.timestamp, self.target.name]
        if twice := {n for n in names if names.count(n) > 1 or n in roles}:
            raise ValueError(f"declared twice: {', '.join(sorted(twice))}")
        if self.views and not self.entity:
            raise ValueError("views need an `entity` to belong to")
        return self


class Simulator(Strict):
    seed: int
    transactions: int = Field(ge=1000)
    users: int = Field(ge=10)
    start: str
    days: int = Field(ge=1)


class Data(Strict):
    """`feedback`: a prediction log, folder or URL, whose labelled rows join the training data."""

    source: str
    feedback: str | None = None
    simulator: Simulator | None = None


class Split(Strict):
    holdout: float = Field(gt=0, lt=1)


class Cost(Strict):
    """Cost of one error of each kind, in any one unit."""

    false_positive: float = Field(ge=0)
    false_negative: float = Field(ge=0)


class Evaluate(Strict):
    bootstrap: int = Field(ge=100)
    confidence: float = Field(gt=0, lt=1)
    cost: Cost
    segments: list[str] = []


class Gates(Strict):
    min_auc: float = Field(ge=0, le=1)


class DriftBars(Strict):
    """From where on a difference is drift."""

    column: Annotated[float, Field(gt=0)] = 0.1  # distance of one column's distributions
    missing: Annotated[float, Field(gt=0)] = 0.1  # change of its share of missing values
    share: Annotated[float, Field(gt=0, le=1)] = 0.3  # share of drifted columns that makes the whole drift


class Experiment(Strict):
    """When the A/B verdict may be given."""

    min_entities: Annotated[int, Field(ge=20)] = 200  # with a label, in each variant
    error: Annotated[float, Field(gt=0, lt=1)] = 0.05  # chance of a wrong verdict, however often one looks


class Monitoring(Strict):
    window_days: Annotated[float, Field(gt=0)] = 7
    min_rows: Annotated[int, Field(ge=1000)] = 2000  # fewer say nothing
    sample: Annotated[int, Field(ge=1000)] = 20_000  # rows compared
    drift: DriftBars = DriftBars()
    experiment: Experiment = Experiment()


class Params(Strict):
    project: str
    data: Data
    schema_: Schema = Field(alias="schema")
    split: Split
    train: dict[str, Any]
    evaluate: Evaluate
    gates: Gates
    monitoring: Monitoring = Monitoring()

    @model_validator(mode="after")
    def _segments(self) -> "Params":
        if unknown := set(self.evaluate.segments) - set(self.schema_.features):
            raise ValueError(f"evaluate.segments: not a feature: {', '.join(sorted(unknown))}")
        return self


def load(path: Path | None = None) -> Params:
    """Read and check `params.yaml`.

    Raises:
        UserError: names the field that is wrong.
    """
    path = path or ROOT / "params.yaml"
    try:
        return Params.model_validate(yaml.safe_load(path.read_text()))
    except FileNotFoundError:
        raise UserError(f"{path} is missing: run this from the project's folder") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path.name} is not YAML: {' '.join(str(error).split())}") from None
    except ValidationError as error:
        first = min(
            error.errors(), key=lambda e: e["type"] != "extra_forbidden"
        )  # a name misspelt, before it is missed
        raise UserError(f"{path.name}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Run a stage: a user's mistake ends it with one line on stderr and exit code 1, not a traceback."""
    try:
        yield
    except UserError as error:
        sys.exit(f"{name}: {error}")
