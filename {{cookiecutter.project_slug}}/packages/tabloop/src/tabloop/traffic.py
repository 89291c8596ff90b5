"""Traffic for the running service: rows of the holdout, as they were or drifted, and their labels as feedback.

python -m <package>.monitoring.simulate --rows 5000 --drift amount=3 --labels 0.9
"""

import argparse
import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from ..params import ROOT, Params, UserError, load, stage

CONNECTIONS = 16


def rows(
    params: Params, n: int, drift: dict[str, float], seed: int, source: Path
) -> "tuple[list[dict[str, Any]], list[int]]":
    """n rows of the holdout, drawn with replacement, and their labels; `drift` multiplies numeric columns."""
    import pandas as pd

    if not source.exists():
        raise UserError(f"{source} is missing: run `make train`")
    schema = params.schema_
    drawn = pd.read_parquet(source).sample(n, replace=True, random_state=seed)
    for name, factor in drift.items():
        if name not in schema.features or not schema.features[name].numeric:
            raise UserError(f"--drift {name}: not a numeric feature of the schema")
        whole = schema.features[name].type == "integer"
        drawn[name] = (drawn[name] * factor).round() if whole else drawn[name] * factor
    columns = [*([schema.entity] if schema.entity else []), *schema.features]
    return json.loads(drawn[columns].to_json(orient="records")), drawn[schema.target.name].astype(
        int
    ).tolist()


async def send(url: str, traffic: list[dict[str, Any]], labels: list[int], share: float, delay: float) -> int:
    """Post each row and, `delay` seconds after the last, the label of `share` of them; the number answered.

    Raises:
        UserError: the service is not there, or refuses.
    """
    import httpx2

    limits = httpx2.Limits(max_connections=CONNECTIONS)
    async with httpx2.AsyncClient(base_url=url, limits=limits, timeout=60) as client:

        async def post(path: str, body: dict[str, Any]) -> str:
            answer = await client.post(path, json=body)
            if answer.is_error:
                raise UserError(f"{url}{path} refuses {body}: {answer.text}")
            return str(answer.json()["prediction_id"])

        async def all_of(what: str, path: str, bodies: list[dict[str, Any]]) -> list[str]:
            ids: list[str] = []
            for at in range(0, len(bodies), 500):
                ids += await asyncio.gather(*(post(path, body) for body in bodies[at : at + 500]))
                print(
                    f"\rsimulate: {len(ids):,} of {len(bodies):,} {what}", end="", file=sys.stderr, flush=True
                )
            print(file=sys.stderr)
            return ids

        try:
            ids = await all_of("rows", "/predict", traffic)
            await asyncio.sleep(delay)
            known = [i for i in range(len(ids)) if i % 100 < 100 * share]
            told = [{"prediction_id": ids[i], "label": labels[i]} for i in known]
            await all_of("labels", "/feedback", told)
        except httpx2.TransportError as error:
            raise UserError(
                f"{url} does not answer ({error or type(error).__name__}): run `make serve`"
            ) from None
    return len(traffic)


def factor(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    return name, float(value)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="simulate", description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=5000)
    parser.add_argument("--drift", type=factor, action="append", default=[], metavar="COLUMN=FACTOR")
    parser.add_argument("--labels", type=float, default=1.0, help="share of rows whose label is told")
    parser.add_argument("--delay", type=float, default=0, help="seconds until the labels are told")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    arguments = parser.parse_args()
    with stage("simulate"):
        drawn = rows(
            load(),
            arguments.rows,
            dict(arguments.drift),
            arguments.seed,
            ROOT / "data/features/holdout.parquet",
        )
        print(
            f"simulate: {asyncio.run(send(arguments.url, *drawn, arguments.labels, arguments.delay)):,} rows answered"
        )
