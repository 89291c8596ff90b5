"""The contract of `model.json`: what is known of one model, from the rows it was fitted on to its metrics."""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, ValidationError

from tabloop import files
from tabloop.cli import UserError, explained
from tabloop.params import ROOT, Schema

FILE = "model.json"


class Parity(BaseModel, defer_build=True):
    """How close the ONNX graph is to the fitted model: the largest difference in probability, over so many rows."""

    rows: int
    largest_difference: float


class Metrics(BaseModel, allow_inf_nan=False, defer_build=True):
    """What `evaluate` measured on the holdout."""

    auc: float
    auc_low: float
    auc_high: float
    average_precision: float
    brier: float


class ModelCard(BaseModel, frozen=True, populate_by_name=True, allow_inf_nan=False, defer_build=True):
    """One model. `train` writes it; whoever takes it after `evaluate` adds `metrics`.

    Attributes:
        version: the first 12 hex digits of the SHA-256 of `model.onnx`, then threshold and schema as JSON.
        inputs: git's id of the content of each file and folder that trained it; `provenance.origin` finds the commit.
            A commit does not stand here: whoever trains the same inputs, before or after they are committed, or at
            another commit, gets this file byte for byte.
        data_hash: the first 12 hex digits of the SHA-256 of `train.parquet`.
        source_table: project and target; monitoring leaves out what the log has of any other.
        rows: the number of training rows.
        days: the first and the last day of the training rows; null where rows have no time.
        categories: for each category column the levels seen in training.
        ranges: for each numeric column the smallest and largest value seen in training; null if it has none.
        example: one row to try the model with.
        threshold: a probability of at least this is a positive prediction.
    """

    version: str = Field(pattern=r"^[\w.-]{1,64}$")  # it stands in JSON, in file names, in labels
    inputs: dict[str, str] = Field(default_factory=dict)
    data_hash: str
    source_table: str | None = None
    framework: str
    rows: int
    days: tuple[str, str] | None = None
    schema_: Schema = Field(alias="schema")
    categories: dict[str, list[str]]
    ranges: dict[str, tuple[float | None, float | None]]
    example: dict[str, Any]
    parity: Parity
    # Above 1: it is cheapest to predict no positive. A little below 0, or more above 1: rounding.
    threshold: float = Field(gt=-1e-4, lt=1 + 1e-4)
    metrics: Metrics | None = None

    @classmethod
    def read(cls, folder: Path) -> "ModelCard":
        """The card of the model in `folder`.

        Raises:
            UserError: the folder has no model.json, or it is not one; the text names the file.
        """
        path = folder / FILE
        if not path.exists():
            how = "`make train` makes a model, `uv run dvc pull` fetches one that git pins"
            named = path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
            raise UserError(f"{named} is missing: {how}")
        with explained(str(path), ValidationError):
            return cls.model_validate_json(path.read_bytes())

    def write(self, folder: Path) -> None:
        """Write it to `folder`, whole or not at all."""
        files.write_json(folder / FILE, self.as_dict())

    def as_dict(self) -> dict[str, Any]:
        """The card as JSON's types; what the schema leaves at its default is left out there."""
        schema = self.schema_.model_dump(mode="json", exclude_defaults=True)
        return self.model_dump(mode="json", by_alias=True, exclude={"schema_"}) | {"schema": schema}

    def completed(self, metrics: dict[str, Any]) -> "ModelCard":
        """The card with the results of `evaluate`."""
        return self.model_copy(update={"metrics": Metrics.model_validate(metrics)})
