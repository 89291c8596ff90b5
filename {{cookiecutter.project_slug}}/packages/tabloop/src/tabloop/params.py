"""The contract of `params.yaml`: the schema from which columns, views, inputs and requests derive, and all settings."""

import os
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from tabloop.cli import UserError, explained
from tabloop.columns import TYPES, ColumnType, TypeName, class_text
from tabloop.gates import Gate
from tabloop.reading.settings import Reading
from tabloop.space import Range

# Feast's time column, the graph's output and reference.parquet's score: no column can have one of these names.
RESERVED = ("event_timestamp", "probability")
MISSING = "{} is missing: run this in the project's folder"
EXACT = 2**53  # the whole numbers up to it are floats, too
LONG = 36_500  # days: dates end in the year 9999


def find_root() -> Path:
    """The project's folder: PROJECT_ROOT, or the nearest folder above the working directory with a params.yaml.

    Where there is none, the working directory: the image has models but no params.yaml.
    """
    if given := os.environ.get("PROJECT_ROOT"):
        return Path(given).resolve()
    here = Path.cwd()
    return next((folder for folder in (here, *here.parents) if (folder / "params.yaml").is_file()), here)


ROOT = find_root()


class Strict(BaseModel):
    """A part of params.yaml: unknown names are refused.

    Pydantic builds a validator when something is read by it: one for each class would take 30 ms of every command.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True, allow_inf_nan=False)


class Column(Strict):
    """One feature column. `values` are the categories allowed (empty: any), `min` and `max` are inclusive.

    `days_since` is a raw date: the feature is the number of days from it to the row's timestamp. `allow_leak`: featurize
    does not stop if the column alone predicts the target.
    """

    type: TypeName
    nullable: bool = True
    min: float | None = None
    max: float | None = None
    values: list[str] = []
    days_since: str | None = None
    allow_leak: bool = False
    description: str | None = None

    @model_validator(mode="after")
    def _bounds(self) -> "Column":
        for name, bound in (("min", self.min), ("max", self.max)):
            if bound is None:
                continue
            if self.type == "integer" and not (bound.is_integer() and abs(bound) <= EXACT):
                raise ValueError(f"{name} of an integer must be a whole number between -2**53 and 2**53")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError("min must not be above max")
        return self

    @property
    def kind(self) -> ColumnType:
        """What each library calls this type."""
        return TYPES[self.type]

    @property
    def numeric(self) -> bool:
        """Whether the model takes it as float32, not as a string."""
        return self.kind.numeric


class Target(Strict):
    """The binary target: the value `positive` is 1, the other value is 0, a missing value is not labelled yet.

    Where there are more values: `negative` lists those that are 0, and rows with any other have no label; or it is "*",
    for all but `positive`. Of a number: `at_least` is the least that is 1; smaller ones are 0. `known_at` is the column
    that says when the label was known.
    """

    name: str
    positive: Any = 1
    negative: list[Any] | Literal["*"] | None = None
    at_least: float | None = None
    known_at: str | None = None

    def label(self, value: Any) -> int | None:
        """1, 0 or None, no label, for a value of the target."""
        text = class_text(value)
        if self.at_least is not None:
            try:
                return int(float(text) >= self.at_least)
            except ValueError:
                return None
        if text == class_text(self.positive):
            return 1
        listed = isinstance(self.negative, list) and text not in map(class_text, self.negative)
        return None if listed else 0


class Schema(Strict):
    """What every row consists of.

    `rename` maps a name to the column's name in the raw table where they differ. `sensitive` columns are never the model's:
    by them it is judged.
    """

    key: list[str] = []
    entity: str | None = None
    timestamp: str | None = None
    target: Target
    views: dict[str, dict[str, Column]] = {}
    request: dict[str, Column] = {}
    sensitive: dict[str, Column] = {}
    rename: dict[str, str] = {}

    @property
    def features(self) -> dict[str, Column]:
        """The model's inputs in order: every view's columns, then the request's."""
        return {n: c for view in self.views.values() for n, c in view.items()} | self.request

    @property
    def columns(self) -> dict[str, Column]:
        """The features, and what the model is judged by."""
        return self.features | self.sensitive

    @property
    def own_key(self) -> list[str]:
        """The key columns that are neither the entity nor the timestamp."""
        return [name for name in self.key if name not in (self.entity, self.timestamp)]

    @model_validator(mode="after")
    def _consistent(self) -> "Schema":
        names = [n for view in self.views.values() for n in view] + list(self.request)
        if not names:
            raise ValueError("no feature: declare at least one under `views` or `request`")
        names += self.sensitive
        roles = [self.entity, self.timestamp, self.target.name, self.target.known_at]
        declared = dict.fromkeys(name for name in (*names, *roles, *self.key) if name)
        if odd := [n for n in declared if not n.isidentifier() or n in RESERVED]:
            advice = "choose another, and give the raw name under `rename`"
            raise ValueError(f"{odd[0]!r} can't be a column's name here: {advice}")
        if twice := {n for n in names if names.count(n) > 1 or n in roles}:
            raise ValueError(f"declared twice: {', '.join(sorted(twice))}")
        aged = [name for name, column in (self.request | self.sensitive).items() if column.days_since]
        if aged and not self.timestamp:
            raise ValueError(f"{aged[0]}: days_since needs a timestamp")
        known = self.target.known_at
        if known and (not self.timestamp or known == self.timestamp):
            raise ValueError("target.known_at needs a timestamp, which is another column")
        raw = self.rename.get(known or "", known)
        if early := [n for n, c in self.features.items() if c.days_since and c.days_since == raw]:
            raise ValueError(f"{early[0]}: days_since {known}, which is known only with the label")
        if self.views and not self.entity:
            raise ValueError("views need an `entity` to belong to")
        if unknown := self.rename.keys() - declared.keys():
            raise ValueError(f"rename: no column is called {', '.join(sorted(unknown))}")
        return self


class Data(Strict):
    """`feedback` is a prediction log, folder or URL, whose labelled rows join the training data.

    `simulator` holds the arguments of the example's simulator, `src/<package>/simulator.py`.
    """

    source: str
    reading: Reading = Reading()
    feedback: str | None = None
    simulator: dict[str, Any] | None = None


class Split(Strict):
    """`holdout` is the share of rows that the model is evaluated on.

    `feedback_in_holdout`: whether outcomes that clients reported may be among them, and so decide the gate.
    """

    holdout: float = Field(gt=0, lt=1)
    feedback_in_holdout: bool = False


class Cost(Strict):
    """The cost of one error of each kind, in any one unit."""

    false_positive: float = Field(ge=0)
    false_negative: float = Field(ge=0)


class Evaluate(Strict):
    """How a model is measured."""

    confidence: float = Field(gt=0, lt=1)
    cost: Cost
    segments: list[str] = []


class DriftBars(Strict):
    """The size from which a difference is drift.

    `column` is the Jensen-Shannon distance of a column, `missing` and `unseen` are changes of its share of missing values
    and of values of a level or type that training did not have, `correlation` is the change of two columns' correlation, `share`
    is the share of drifted columns from which the whole has drifted.
    """

    column: Annotated[float, Field(gt=0)] = 0.1
    missing: Annotated[float, Field(gt=0)] = 0.1
    unseen: Annotated[float, Field(gt=0)] = 0.01
    correlation: Annotated[float, Field(gt=0)] = 0.15
    share: Annotated[float, Field(gt=0, le=1)] = 0.3


class Experiment(Strict):
    """When the A/B test gives a verdict.

    `min_entities` are labelled entities in each variant, `error` is the chance of a wrong verdict however often one looks.
    """

    min_entities: Annotated[int, Field(ge=20)] = 200
    error: Annotated[float, Field(gt=0, lt=1)] = 0.05


class Monitoring(Strict):
    """The window of the prediction log, the fewest rows for a result, the most rows in Evidently's pages."""

    window_days: Annotated[float, Field(gt=0, le=LONG)] = 7
    min_rows: Annotated[int, Field(ge=1000)] = 2000
    sample: Annotated[int, Field(ge=1000)] = 20_000
    keep_days: Annotated[int, Field(ge=1, le=LONG)] | None = None
    drift: DriftBars = DriftBars()
    experiment: Experiment = Experiment()

    @model_validator(mode="after")
    def _keep_what_is_checked(self) -> "Monitoring":
        if self.keep_days and self.keep_days <= self.window_days:
            raise ValueError(f"keep_days must exceed window_days, {self.window_days:g}: checks need them")
        return self


class Params(Strict):
    """All of params.yaml."""

    project: str
    engine: Literal["local", "ray"] = "local"
    data: Data
    schema_: Schema = Field(alias="schema")
    split: Split
    train: dict[str, Any]
    tune: dict[str, Range] = {}
    evaluate: Evaluate
    gates: list[Gate]
    monitoring: Monitoring = Monitoring()

    @property
    def source_table(self) -> str:
        """The name by which the prediction log tells tables apart."""
        return f"{self.project}/{self.schema_.target.name}"

    @model_validator(mode="after")
    def _segments(self) -> "Params":
        if unknown := set(self.evaluate.segments) - set(self.schema_.columns):
            names = ", ".join(sorted(unknown))
            raise ValueError(f"evaluate.segments: neither a feature nor a sensitive column: {names}")
        if unknown := self.tune.keys() - self.train.keys():
            raise ValueError(f"tune: not an argument under train: {', '.join(sorted(unknown))}")
        known: set[tuple[str, str | None, str | None]] = set()
        for gate in self.gates:
            by = f"gates: {gate.metric} by {gate.by}"
            if gate.by is not None and gate.by not in self.schema_.columns:
                raise ValueError(f"{by}: neither a feature nor a sensitive column")
            if gate.by is not None and self.schema_.columns[gate.by].type == "number":
                raise ValueError(f"{by}: a column of numbers has no levels")
            if (key := (gate.metric, gate.by, gate.against)) in known:
                raise ValueError(f"gates: {' '.join(filter(None, key))}: it is there twice")
            known.add(key)
        return self

    @property
    def min_auc(self) -> float | None:
        """The bar of AUC over all rows, if there is one."""
        return next((gate.min for gate in self.gates if gate.is_auc_bar), None)


def load(path: Path | None = None) -> Params:
    """Read and check `params.yaml`.

    Raises:
        UserError: the file is missing or is not YAML, or a field is wrong; the text names it.
    """
    path = path or ROOT / "params.yaml"
    if not path.exists():
        raise UserError(MISSING.format(path))
    other = f"{path.name} is not YAML in UTF-8"
    with explained(other, yaml.YAMLError), explained(path.name, ValidationError):
        return Params.model_validate(yaml.safe_load(path.read_bytes()))
