"""What compare.py starts, each in its own environment: `python servers.py NAME` on PORT, of the estimator in MODEL.

Each is the framework's own introductory example, with batching on and the access log off.
"""

import importlib
import os
import sys
from pathlib import Path
from typing import Any

MODEL, PORT = Path(os.environ.get("MODEL", "")), int(os.environ.get("PORT", 0))


def fit() -> None:
    """Fit the project's estimator on its rows and write it with joblib and MLflow. It runs in the project's folder."""
    import joblib
    import mlflow.sklearn
    import pandas as pd
    from tabloop.onnx_model import model_inputs
    from tabloop.params import load

    params = load()
    schema = params.schema_
    rows = pd.read_parquet("data/features/train.parquet")
    model = importlib.import_module(f"{os.environ['PACKAGE']}.model")
    target = rows[schema.target.name].to_numpy()
    fitted = model.fit(model_inputs(rows, schema), target, schema, params.train)
    joblib.dump(fitted, MODEL)
    options = {"pyfunc_predict_fn": "predict_proba", "serialization_format": "cloudpickle"}
    mlflow.sklearn.save_model(fitted, MODEL.with_suffix(".mlflow"), **options)


def limit() -> None:
    """The least that an ASGI server can do: the same answer to every request."""
    import uvicorn

    body = os.environ["ANSWER"].encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    uvicorn.run(app, port=PORT, http="httptools", loop="uvloop", lifespan="off", access_log=False)


HEADERS = [(b"content-type", b"application/json")]


async def reading(scope: Any, receive: Any, send: Any) -> None:
    """The limit's application, which reads the body, too."""
    await receive()
    body = os.environ["ANSWER"].encode()
    headers = [*HEADERS, (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class Rsgi:
    """The same in granian's own interface."""

    async def __rsgi__(self, scope: Any, protocol: Any) -> None:
        await protocol()
        protocol.response_str(200, [("content-type", "application/json")], os.environ["ANSWER"])


rsgi = Rsgi()


def protocol() -> None:
    """The same on this project's protocol, whose messages may be a whole answer."""
    import uvicorn
    from tabloop.serving.model_app import WHOLE
    from tabloop.serving.protocol import Protocol

    body = os.environ["ANSWER"].encode()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": WHOLE, "status": 200, "body": body})

    options: dict[str, Any] = {"http": Protocol, "loop": "uvloop", "lifespan": "off", "ws": "none"}
    uvicorn.run(app, port=PORT, access_log=False, **options)


def naive() -> None:
    """FastAPI and pandas, as in most tutorials."""
    import joblib
    import pandas as pd
    import uvicorn
    from fastapi import FastAPI

    model = joblib.load(MODEL)
    app = FastAPI()

    @app.post("/predict")
    async def predict(row: dict[str, Any]) -> dict[str, list[float]]:
        return answer([row])

    @app.post("/predict/batch")
    async def predict_batch(rows: list[dict[str, Any]]) -> dict[str, list[float]]:
        return answer(rows)

    def answer(rows: list[dict[str, Any]]) -> dict[str, list[float]]:
        frame = pd.DataFrame(rows)
        return {
            "prediction": model.predict(frame).tolist(),
            "probability": model.predict_proba(frame)[:, 1].tolist(),
        }

    uvicorn.run(app, port=PORT, access_log=False)


if os.environ.get("SERVER") == "litserve":  # its worker, another process, imports it
    import joblib
    import litserve as ls
    import pandas as pd

    class API(ls.LitAPI):
        def setup(self, device: str) -> None:
            self.model = joblib.load(MODEL)

        def batch(self, inputs: list[dict[str, Any]]) -> Any:
            return pd.DataFrame(inputs)

        def predict(self, x: Any) -> Any:
            return self.model.predict_proba(x)[:, 1].tolist()

        def unbatch(self, output: list[float]) -> list[float]:
            return output

        def encode_response(self, output: float) -> dict[str, float]:
            return {"probability": output}


def litserve() -> None:
    server = ls.LitServer(API(max_batch_size=64, batch_timeout=0.001), accelerator="cpu")
    server.run(port=PORT, num_api_servers=1, generate_client_file=False, log_level="error", access_log=False)


if os.environ.get("SERVER") == "bentoml":  # `bentoml serve servers:Model` imports it
    import bentoml
    import joblib
    import pandas as pd

    @bentoml.service(workers=1, logging={"access": {"enabled": False}})
    class Model:
        def __init__(self) -> None:
            self.model = joblib.load(MODEL)

        @bentoml.api(batchable=True, max_batch_size=1000)
        def predict(self, rows: list[dict[str, Any]]) -> list[float]:
            return self.model.predict_proba(pd.DataFrame(rows))[:, 1].tolist()


if __name__ == "__main__":
    started = {"fit": fit, "limit": limit, "protocol": protocol, "naive": naive, "litserve": litserve}
    started[sys.argv[1]]()
