"""The service: its routes, and how it starts."""

import gc
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from socket import AF_INET, AF_INET6, create_server, socket
from typing import Annotated, Any

from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.security import APIKeyHeader
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel, ConfigDict, Field

from tabloop.cli import command, explained, one_line
from tabloop.serving import pages, rate_limit, telemetry
from tabloop.serving.batches import Batches
from tabloop.serving.direct_route import MAX_ERRORS, DirectRoute, Refused, problem
from tabloop.serving.explanation import Explainer, Explanation
from tabloop.serving.model_app import ARROW, CLIENT, ModelApp, encoded, known_key
from tabloop.serving.predictor import Predictor
from tabloop.serving.request import whole
from tabloop.serving.settings import Settings, load_settings

BATCH_ROWS = 10_000


class Prediction(BaseModel):
    """The answer to one row."""

    model_config = ConfigDict(protected_namespaces=())

    prediction_id: str = Field(description="Send it to /feedback with the outcome.")
    probability: float = Field(ge=0, le=1)
    prediction: int = Field(ge=0, le=1, description="1 where probability is at least the model's threshold")
    model_version: str
    variant: str = Field(description="champion or challenger")


class Feedback(BaseModel):
    """The outcome of one prediction."""

    model_config = ConfigDict(extra="forbid")

    prediction_id: str = Field(pattern="^[0-9a-f]{32}$", examples=["0123456789abcdef0123456789abcdef"])
    label: Annotated[int, whole(0, 1)] = Field(description="1 where the target was positive")


class Detail(BaseModel):
    """Why a request was refused."""

    detail: Any


def create_app(project: str, settings: Settings | None = None) -> ModelApp:
    """The service of models/champion, and of models/challenger if the settings ask for it.

    Args:
        project: the name of Feast's project, with which the names of the online store's tables begin.
        settings: by default those of the environment.

    Raises:
        UserError: a setting is wrong, or the champion can't be loaded.
    """
    predictor = Predictor(settings or load_settings(), project)
    explainer = Explainer(predictor)
    keys = predictor.settings.keys

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await predictor.log.start()
        yield
        explainer.pool.shutdown(wait=False, cancel_futures=True)
        await predictor.stop()

    app = ModelApp(
        keys,
        title=project.replace("_", "-"),
        version=predictor.champion.version,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        responses={s: {"model": Detail} for s in (400, *([401] if keys else []), 408, 413, 415, 422, 500)},
    )
    _add_predictions(app, predictor)
    _add_explanations(app, predictor, explainer)
    _add_status(app, predictor)
    pages.add_pages(app)
    return app


def _shared(app: ModelApp) -> dict[str, Any]:
    """What the direct routes' declarations share."""
    header = APIKeyHeader(name="X-API-Key", auto_error=False)  # documented here, checked by Guard
    return {"tags": ["predict"], "dependencies": [Depends(header)] if app.keys else []}


def _add_predictions(app: ModelApp, predictor: Predictor) -> None:
    """The routes for rows and outcomes."""
    shared = _shared(app)
    of_row = partial(DirectRoute, fields=predictor.blank.keys())
    Row = predictor.row
    Rows = Annotated[list[Row], Field(min_length=1, max_length=BATCH_ROWS)]  # type: ignore[valid-type]
    Outcomes = Annotated[list[Feedback], Field(min_length=1, max_length=BATCH_ROWS)]

    @app.direct("/predict", partial(of_row, observe=telemetry.observe), response_model=Prediction, **shared)
    async def predict(row: Row) -> bytes:  # type: ignore[valid-type]
        """One row: all features, or the request's features and the entity's key."""
        return await predictor.answer(await predictor.complete(row))

    answers = list[Prediction | Detail]

    binary: dict[str, Any] = {"content": {ARROW.decode(): {"schema": {"type": "string", "format": "binary"}}}}
    also: dict[str, Any] = shared | {"openapi_extra": {"requestBody": binary}, "responses": {200: binary}}
    batches = Batches(predictor, BATCH_ROWS)
    of_rows = partial(of_row, rows=BATCH_ROWS, arrow=batches.answer_arrow, by_column=batches.checker.part)
    of_rows = partial(of_rows, observe=telemetry.BATCH_LATENCY.observe)

    @app.direct("/predict/batch", of_rows, response_model=answers, **also)
    async def predict_batch(rows: Rows) -> bytes:
        """Up to 10,000 rows. The answers have the order of the rows. One that can't be scored has `detail` instead.

        An Arrow IPC stream of the rows is taken, too. With the header `Accept: application/vnd.apache.arrow.stream` its
        answer is one.
        """
        return await batches.answer_rows(rows)

    limit = rate_limit.RateLimit(predictor.settings.feedback_per_hour, encoded(app.keys) or [b""])
    accepted: dict[str, Any] = shared | {"status_code": 202, "responses": {429: {"model": Detail}}}
    of_label = partial(DirectRoute, fields=Feedback.model_fields.keys())

    @app.direct("/feedback", of_label, response_model=Feedback, **accepted)
    async def feedback(outcome: Feedback) -> bytes:
        """The outcome of a prediction that this service gave. If it is reported again, the last one counts.

        Performance and experiments are measured on outcomes; the model may learn from them. One API key, or all clients of
        a service without keys, may send FEEDBACK_PER_HOUR labels in an hour. What is refused counts, too.
        """
        _store(predictor, limit, [outcome], batch=False)
        return outcome.model_dump_json().encode()

    @app.direct(
        "/feedback/batch", partial(of_label, rows=BATCH_ROWS), response_model=dict[str, int], **accepted
    )
    async def feedback_batch(outcomes: Outcomes) -> bytes:
        """The outcomes of up to 10,000 predictions, all or none of them. `accepted` is their number.

        In other respects as /feedback. Of two for one prediction the later one in the list counts.
        """
        _store(predictor, limit, outcomes, batch=True)
        return b'{"accepted":%d}' % len(outcomes)


def _store(predictor: Predictor, limit: rate_limit.RateLimit, outcomes: list[Feedback], batch: bool) -> None:
    """Log outcomes. Raises: Refused: there is no log, they are too many, or the service did not give one of the ids."""
    limit.take(CLIENT.get(), len(outcomes))
    if not predictor.settings.prediction_log:
        raise Refused(503, "PREDICTION_LOG is empty: the service has no log to keep outcomes in")
    if unknown := [at for at, o in enumerate(outcomes) if not predictor.ids.given(o.prediction_id)]:
        telemetry.LABELS.labels("refused").inc(len(outcomes))
        places = [(*((at,) if batch else ()), "prediction_id") for at in unknown[:MAX_ERRORS]]
        reason = "this service did not give this id", "unknown_prediction"
        raise Refused(422, [problem(place, *reason) for place in places])
    telemetry.LABELS.labels("accepted").inc(len(outcomes))
    predictor.log.add_feedback([o.prediction_id for o in outcomes], [o.label for o in outcomes])


def _add_explanations(app: ModelApp, predictor: Predictor, explainer: Explainer) -> None:
    """The routes that say why a row gets its score; with a challenger, one for each model, too."""
    Row = predictor.row
    made = partial(DirectRoute, fields=predictor.blank.keys(), observe=telemetry.EXPLANATION.observe)

    def declare(path: str, role: str | None) -> None:
        options = _shared(app) | {"responses": {503: {"model": Detail}}}

        @app.direct(path, made, response_model=Explanation, **options)
        async def explain(row: Row) -> bytes:  # type: ignore[valid-type]
            """What each feature adds to the probability, by the model that would answer the row. It is not logged."""
            return await explainer.explain(row, role)

    declare("/explain", None)
    for role in ("champion", "challenger") if predictor.challenger else ():
        declare(f"/explain/{role}", role)


def _add_status(app: ModelApp, predictor: Predictor) -> None:
    """The routes that tell how the service does."""
    keys = encoded(app.keys)

    def known(request: Request) -> bool:
        return not keys or bool(known_key(keys, request.scope))

    @app.get("/model", tags=["watch"])
    async def model(request: Request) -> dict[str, Any]:
        """The served models, their share of the requests, latency, and, to who has a key, the state of store and log."""
        return predictor.describe(known(request)) | {"latency_ms": telemetry.percentiles()}

    @app.get("/health/live", tags=["watch"])
    async def live() -> dict[str, str]:
        """The process answers."""
        return {"status": "live"}

    async def check() -> None:
        try:
            Prediction.model_validate_json(predictor.champion.answer_example())
            await predictor.online.check(predictor.champion.schema.views)
        except Exception:
            telemetry.READY.set(0)
            raise
        telemetry.READY.set(1)

    @app.get("/health/ready", tags=["watch"], responses={503: {"model": Detail}})
    async def ready(request: Request) -> dict[str, Any]:
        """The champion answers its example row now, and the online store was seen to have rows of each of its views.

        `degraded` lists what fails though the service answers: `log`, `store`.
        """
        try:
            await check()
        except Exception as error:
            reason = f"not ready: {type(error).__name__}"
            print(f"serve: {reason}: {one_line(error)}", file=sys.stderr, flush=True)
            raise HTTPException(503, f"{reason}: {one_line(error)}" if known(request) else reason) from error
        parts = {"log": predictor.log.error, "store": predictor.online.breaker.error}
        degraded = [name for name, error in parts.items() if error]
        return {"status": "ready"} | ({"degraded": degraded} if degraded else {})

    @app.get("/metrics", tags=["watch"], response_class=Response)
    async def metrics() -> Response:
        """Counters and latency, for Prometheus."""
        with suppress(Exception):  # /health/ready says why
            await check()
        return Response(telemetry.exposition(), media_type=CONTENT_TYPE_LATEST)


def refuse_port(host: str, port: int) -> None:
    """Say that nothing can listen there before a model is loaded, which takes seconds.

    Raises:
        UserError: another program listens there, the user must not, or this machine has no such address.
    """
    then = ": stop what listens there, or set another PORT"
    with explained(f"{host}:{port} can't be listened on", OSError, then=then):
        create_server((host, port), family=AF_INET6 if ":" in host else AF_INET).close()


def serve(make_app: Callable[[Settings], FastAPI]) -> None:
    """Run the application that `make_app` returns until SIGTERM. If it can't start: one line, and exit code 1."""
    with command("serve"):
        import uvicorn

        from tabloop.serving.access_log import AccessLog
        from tabloop.serving.processes import Processes, Server
        from tabloop.serving.protocol import Cycle, Protocol

        settings = load_settings()
        refuse_port(settings.host, settings.port)
        app = make_app(settings)
        if settings.access_log:
            Cycle.access = AccessLog()
        gc.freeze()  # what is loaded stays: the garbage collector need not visit it while requests wait
        config = uvicorn.Config(
            app.entry() if isinstance(app, ModelApp) else app,
            host=settings.host,
            port=settings.port,
            http=Protocol,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            ws="none",
            headers=[("x-content-type-options", "nosniff")],
            timeout_graceful_shutdown=20,
            workers=1,
        )

        def run(listening: list[socket] | None = None) -> None:
            server = Server(config)
            with suppress(KeyboardInterrupt):
                server.run(listening)
            if not server.started:
                sys.exit(1)

        if settings.web_concurrency == 1:
            run()
        else:
            sys.exit(Processes(partial(run, [config.bind_socket()])).run(settings.web_concurrency))
