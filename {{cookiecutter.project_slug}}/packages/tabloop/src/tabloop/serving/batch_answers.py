"""The answers to the rows of a batch: a list in JSON, or an Arrow IPC stream.

Of both functions the arguments are champion and challenger, or twice the champion; n ids; n scores, (n,), NaN where the row
could not be scored; and which of them are the challenger's, (n,) of bool.
"""

from collections.abc import Sequence

import nanoarrow as na
import numpy as np
from arro3.core import Array, DataType
from pydantic_core import to_json

from tabloop.serving import arrow, direct_route, predictor
from tabloop.serving.served_model import ServedModel

PART_ROWS = 2000  # worked on at once


async def as_json(
    models: Sequence[ServedModel], ids: list[str], scores: np.ndarray, challenged: np.ndarray
) -> bytes:
    """The answers as one list. A row that could not be scored has `detail` alone."""
    answers = [to_json({"detail": predictor.UNSCORABLE})] * len(ids)
    for model, own in zip(models, (~challenged, challenged), strict=True):
        places = (own & ~np.isnan(scores)).nonzero()[0].tolist()
        for begin in range(0, len(places), PART_ROWS):
            part = places[begin : begin + PART_ROWS]
            made = model.answers([ids[at] for at in part], scores[part].tolist())
            for at, answer in zip(part, made, strict=True):
                answers[at] = answer
            await direct_route.give_way(direct_route.PART_SECONDS)
    return b"[%s]" % b",".join(answers)


def as_stream(models: Sequence[ServedModel], ids: Array, scores: np.ndarray, challenged: np.ndarray) -> bytes:
    """The fields of a JSON answer as columns; those of a row that could not be scored are null, but for `detail`."""
    failed, text = np.isnan(scores), DataType.utf8()
    thresholds = np.array([model.threshold for model in models])[challenged.astype(int)]
    which, own = _places(challenged, failed), _places(np.arange(len(ids)), failed)
    columns = {
        "prediction_id": ids,
        "probability": Array.from_numpy(scores),
        "prediction": Array.from_numpy((scores >= thresholds).astype(np.int8)),
    }
    if failed.any():
        columns = {name: values.take(own) for name, values in columns.items()}
    return arrow.encode(
        columns
        | {
            "model_version": Array([model.version for model in models], text).take(which),
            "variant": Array([model.role for model in models], text).take(which),
            "detail": Array([predictor.UNSCORABLE], text).take(_places(np.zeros(len(ids)), ~failed)),
        }
    )


def _places(places: np.ndarray, null: np.ndarray) -> Array:
    """Places for Arrow's `take`, (n,), which gives null where one is null."""
    valid = np.packbits(~null, bitorder="little")
    return Array.from_arrow(na.c_array_from_buffers(na.uint32(), len(places), [valid, places.astype("<u4")]))
