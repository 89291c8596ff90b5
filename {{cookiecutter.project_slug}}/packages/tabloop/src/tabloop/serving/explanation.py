"""Why one row gets its score: POST /explain, computed by the graph in a thread of its own.

The baseline is the model's example row: of each column the median or the most frequent value in training. It is of
nobody, and it is in model.json, so the image needs no training rows.
"""

import asyncio
import os
import sys
import time
from collections.abc import Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from hashlib import blake2b
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, Field
from pydantic_core import to_json

from tabloop.card import ModelCard
from tabloop.cli import one_line
from tabloop.serving.breaker import Breaker
from tabloop.serving.direct_route import Refused
from tabloop.serving.predictor import Predictor
from tabloop.serving.served_model import Row, ServedModel
from tabloop.shapley import Shapley, shapley

SECONDS = 2.0  # of the processor, that an explanation may take
MAX_WAITING = 8  # explanations; others are refused
SCORED_ROWS = 256  # scored in one call of the graph, during which the thread of the predictions can work
UNEXPLAINED = "the model can't score this row, or a mix of it and the baseline"


class Contribution(BaseModel):
    """What one feature adds to the probability."""

    feature: str
    value: Any = Field(description="The row's. A value that was looked up is shown only if API_KEYS are set.")
    looked_up: bool = Field(description="Whether the service read the value from the online store")
    baseline: Any = Field(description="The median, or the most frequent value, in training")
    contribution: float = Field(description="In probability; below 0, it lowers it", examples=[0.31])
    error: float = Field(description="Half of the 95 % interval of sampling; 0 where method is exact", ge=0)


class Explanation(BaseModel):
    """Why a row gets its probability: `base_value` and all contributions add up to it."""

    probability: float = Field(ge=0, le=1)
    prediction: int = Field(ge=0, le=1, description="1 where probability is at least the model's threshold")
    model_version: str
    variant: str = Field(description="champion or challenger")
    base_value: float = Field(ge=0, le=1, description="The probability of the baseline row")
    method: Literal["exact", "sampled"] = Field(description="Of all coalitions, or of a sample")
    contributions: list[Contribution] = Field(description="Of each feature, the largest first")
    not_known: list[str] = Field(
        description="What the online store or the training data did not have: an entity, a level, a value beyond the range"
    )


class Explainer:
    """Explains one row at a time, and lets few wait, so that predictions keep their time."""

    def __init__(self, predictor: Predictor) -> None:
        self.predictor, self.waiting, self.breaker = predictor, 0, Breaker()
        self.pool = ThreadPoolExecutor(1, "explain", step_back, (15,))

    async def explain(self, given: Row, role: str | None) -> bytes:
        """The explanation of a validated row, as JSON.

        Args:
            role: of the model to explain; None: of the one that would answer this entity.

        Raises:
            Refused: too many wait, it takes too long, or the graph fails.
            ValidationError: the row leaves out columns that are looked up, and the entity.
        """
        if self.waiting > MAX_WAITING:
            raise Refused(503, "too many explanations wait: try it again", retry_after=1)
        self.waiting += 1
        try:
            row = await self.predictor.complete(given)
            looked_up, loop = self.predictor.looked_up - given.keys(), asyncio.get_running_loop()
            return await loop.run_in_executor(self.pool, self._explain, row, role, looked_up)
        finally:
            self.waiting -= 1

    def _explain(self, row: Row, role: str | None, looked_up: Set[str]) -> bytes:
        model, champion = self.predictor.model_of(row, role), self.predictor.champion
        # As for predictions, the champion's where the challenger fails.
        for asked in [model] if role else dict.fromkeys([model, champion]):
            try:
                return answer(asked, row, looked_up, shown=bool(self.predictor.settings.keys))
            except TimeoutError:
                raise Refused(503, f"the explanation takes more than {SECONDS:g} s") from None
            except Exception as error:  # onnxruntime's exceptions have no common base
                self.breaker.failed(f"{asked.role}: a row can't be explained: {one_line(error)[:300]}")
        raise Refused(500, UNEXPLAINED)


def step_back(nice: int) -> None:
    """Let this thread have less time than others that want it, at 15 next to none. Elsewhere, it would be the process."""
    if sys.platform == "linux":
        with suppress(OSError):  # not where a sandbox forbids it
            os.setpriority(os.PRIO_PROCESS, 0, nice)


def contributions(model: ServedModel, row: Row) -> tuple[list[str], Shapley]:
    """The features whose values are not the baseline's, and their Shapley values. The others add nothing.

    Raises:
        TimeoutError: they take more than SECONDS. Else what the graph raises.
    """
    names, end = model.schema.features, time.thread_time() + SECONDS
    own, base = (model.inputs({n: [of.get(n)] for n in names}) for of in (row, model.card.example))
    # Missing is NaN, which is not equal to itself.
    players = [n for n in names if own[n] != base[n] and (own[n] == own[n] or base[n] == base[n])]
    places = {name: [place] for place, name in enumerate(players)}

    def value(coalitions: np.ndarray) -> np.ndarray:
        scores = np.empty(len(coalitions))
        for at in range(0, len(coalitions), SCORED_ROWS):
            if time.thread_time() > end:
                raise TimeoutError
            part = coalitions[at : at + SCORED_ROWS]
            inputs = {n: np.where(part[:, place], own[n], base[n]) for n, place in places.items()}
            inputs |= {n: np.repeat(base[n], len(part), axis=0) for n in names if n not in places}
            scores[at : at + SCORED_ROWS] = model.probability(inputs)
        return scores

    # The same row has the same explanation, whichever process gives it.
    seed = blake2b(to_json([model.version, {n: row.get(n) for n in names}]), digest_size=8)
    return players, shapley(value, len(players), int.from_bytes(seed.digest(), "big"))


def not_known(card: ModelCard, row: Row, looked_up: Set[str], shown: bool) -> list[str]:
    """Of the row, what the online store or the training data did not have, in a sentence each."""
    found = []
    if looked_up and all(row.get(name) is None for name in looked_up):
        found.append(f"the online store has no features of this {card.schema_.entity}")
    for name in card.schema_.features:
        value = row.get(name)
        number = f"{value:.15g}" if isinstance(value, int | float) else value
        figure = name if name in looked_up and not shown else f"{name} {number}"
        low, high = card.ranges.get(name, (None, None))
        if value not in (None, "") and name in card.categories and value not in card.categories[name]:
            found.append(f"{figure} is a level that training did not have")
        elif value is not None and low is not None and high is not None and not low <= value <= high:
            found.append(f"{figure} is outside the training data's range, {low:g} to {high:g}")
    return found


def answer(model: ServedModel, row: Row, looked_up: Set[str], shown: bool) -> bytes:
    """An Explanation as JSON. `shown`: whether the client may see values that were looked up."""
    players, found = contributions(model, row)
    figures = zip(found.contributions.tolist(), found.errors.tolist(), strict=True)
    moved = dict(zip(players, figures, strict=True))
    parts = [
        Contribution(
            feature=name,
            value=row.get(name) if shown or name not in looked_up else None,
            looked_up=name in looked_up,
            baseline=model.card.example.get(name),
            contribution=moved.get(name, (0, 0))[0],
            error=moved.get(name, (0, 0))[1],
        )
        for name in model.schema.features
    ]
    explanation = Explanation(
        probability=found.score,
        prediction=int(found.score >= model.threshold),
        model_version=model.version,
        variant=model.role,
        base_value=found.baseline,
        method="exact" if found.exact else "sampled",
        contributions=sorted(parts, key=lambda part: -abs(part.contribution)),
        not_known=not_known(model.card, row, looked_up & set(model.schema.features), shown),
    )
    return to_json(explanation)
