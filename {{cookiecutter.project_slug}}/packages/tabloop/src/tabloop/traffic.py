"""Traffic for the running service: rows of the holdout, as they were or drifted, and their labels as feedback."""

import json
import math
import time
from collections.abc import Iterator
from typing import Any

import httpx2
import pandas as pd

from tabloop.cli import UserError, one_line
from tabloop.params import ROOT, Params
from tabloop.progress import progress

HOLDOUT = ROOT / "data/features/holdout.parquet"
CHUNK = 1000  # rows or labels of a request


def run(
    params: Params, url: str, rows: int, drift: tuple[str, ...], labels: float, delay: float, seed: int
) -> int:
    """Send rows to the service at `url` and then their labels; the number of rows that were answered.

    Args:
        rows: how many rows of the holdout, drawn with replacement.
        drift: `COLUMN=FACTOR` each: multiply a numeric column.
        labels: the share of rows whose label is reported.
        delay: seconds between the last row and the first label.
        seed: of the draw.

    Raises:
        UserError: an argument is wrong, there is no holdout, or the service does not answer or refuses.
    """
    given = ("rows", rows, 1, 1e8), ("labels", labels, 0, 1), ("delay", delay, 0, 1e6), ("seed", seed, 0, 1e9)
    for name, value, low, high in given:
        if not low <= value <= high:
            raise UserError(f"--{name} {value}: give a number from {low} to {high:,.0f}")
    drawn = draw(params, rows, factors(params, drift), seed)
    schema = params.schema_
    columns = [*([schema.entity] if schema.entity else []), *schema.features]
    bodies = json.loads(drawn[columns].to_json(orient="records", double_precision=15))
    try:
        with httpx2.Client(base_url=url, timeout=60) as client:
            parts = post(client, "/predict/batch", "rows", bodies)
            ids = [name for part in parts for name in prediction_ids(part)]
            time.sleep(delay)
            outcomes = [
                {"prediction_id": ids[i], "label": int(label)}
                for i, label in enumerate(drawn[schema.target.name])
                if i % 100 < 100 * labels
            ]
            list(post(client, "/feedback/batch", "labels", outcomes))
    except (httpx2.TransportError, httpx2.InvalidURL) as error:
        reason = one_line(error) or type(error).__name__
        raise UserError(f"{url} does not answer ({reason}): run `make serve`, or give --url") from None
    return len(ids)


def factors(params: Params, drift: tuple[str, ...]) -> dict[str, float]:
    """The factor of each column, from `COLUMN=FACTOR` each.

    Raises:
        UserError: a column is not numeric or unknown, or a factor is not a number.
    """
    features = params.schema_.features
    numeric = [name for name, column in features.items() if column.type in ("number", "integer")]
    found = {}
    for text in drift:
        name, _, value = text.partition("=")
        try:
            found[name] = float(value)
        except ValueError:
            found[name] = math.nan
        if name not in numeric or not math.isfinite(found[name]):
            known = ", ".join(numeric)
            raise UserError(f"--drift {text}: give COLUMN=FACTOR, a number and a column of: {known}")
    return found


def draw(params: Params, rows: int, drift: dict[str, float], seed: int) -> pd.DataFrame:
    """Rows of the holdout, drawn with replacement, with columns multiplied.

    Raises:
        UserError: there is no holdout, or it was made by another schema.
    """
    if not HOLDOUT.exists():
        raise UserError(f"{HOLDOUT} is missing: run `make train`")
    holdout, schema = pd.read_parquet(HOLDOUT), params.schema_
    if absent := {*filter(None, [schema.entity]), *schema.features} - {*holdout}:
        raise UserError(f"{HOLDOUT} lacks {min(absent)}, which params.yaml has: run `make train`")
    drawn = holdout.sample(rows, replace=True, random_state=seed)
    for name, factor in drift.items():
        whole = params.schema_.features[name].type == "integer"
        drawn[name] = (drawn[name] * factor).round() if whole else drawn[name] * factor
    return drawn


def post(
    client: httpx2.Client, path: str, what: str, bodies: list[dict[str, Any]]
) -> Iterator[httpx2.Response]:
    """Post the bodies in chunks; the service's responses.

    Raises:
        UserError: the service refuses.
    """
    with progress(what, len(bodies)) as bar:
        for at in range(0, len(bodies), CHUNK):
            response = client.post(path, json=bodies[at : at + CHUNK])
            if response.is_error:
                reason = one_line(response.text)[:500]
                raise UserError(f"{response.url} refuses with {response.status_code}: {reason}")
            yield response
            bar.update(CHUNK)


def prediction_ids(response: httpx2.Response) -> list[str]:
    """The id of each prediction of a batch.

    Raises:
        UserError: the response has none, as it comes from another service.
    """
    try:
        return [str(row["prediction_id"]) for row in response.json()]
    except (ValueError, TypeError, KeyError):
        raise UserError(f"{response.url} gives no predictions: give the service's address by --url") from None
