"""The HTTP service: what it answers to, documented. Predictions themselves are answered in fast.py."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from fastapi.security import APIKeyHeader
from fastapi_swagger import patch_fastapi
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel, ConfigDict, Field

from .fast import BATCH_ROWS, LATENCY, Fast, reasons
from .service import Service

PAGE = Path(__file__).with_name("page.html")


class Prediction(BaseModel):
    """The answer to one row; `prediction` is 1 where `probability` reaches the model's threshold."""

    model_config = ConfigDict(protected_namespaces=())

    prediction_id: str = Field(description="give it back with the outcome, to /feedback")
    probability: float = Field(ge=0, le=1)
    prediction: int = Field(ge=0, le=1)
    model_version: str
    variant: str = Field(description="champion or challenger")


class Feedback(BaseModel):
    """What turned out to be true of a prediction."""

    model_config = ConfigDict(extra="forbid")

    prediction_id: str = Field(pattern="^[0-9a-f]{32}$", examples=["0123456789abcdef0123456789abcdef"])
    label: int = Field(ge=0, le=1, description="1 where the target was positive")


class Detail(BaseModel):
    """Why a request was refused."""

    detail: Any


def create(service: Service) -> Fast:
    """The ASGI application that serves it."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await service.log.start()
        yield
        await service.log.stop()

    name = __package__.split(".")[0].replace("_", "-")
    app = FastAPI(
        title=name,
        version=service.champion.version,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        swagger_ui_oauth2_redirect_url=None,
        responses={status: {"model": Detail} for status in (400, 408, 413, 422)},
    )
    patch_fastapi(app, redirect_from_root_to_docs=False)
    key = [Depends(APIKeyHeader(name="X-API-Key", auto_error=False))] if service.settings.api_keys else []
    Row = service.row
    Rows = Annotated[list[Row], Field(min_length=1, max_length=BATCH_ROWS)]  # type: ignore[valid-type]

    @app.exception_handler(RequestValidationError)
    async def refused(request: Request, error: RequestValidationError) -> JSONResponse:
        return JSONResponse({"detail": reasons(error.errors())}, 422)

    @app.post("/predict", dependencies=key, tags=["predict"])
    async def predict(row: Row) -> Prediction:  # type: ignore[valid-type]
        """One row: all features, or those of the request and the entity's key."""
        raise NotImplementedError("fast.py is ahead")

    @app.post("/predict/batch", dependencies=key, tags=["predict"])
    async def predict_batch(rows: Rows) -> list[Prediction]:
        """Many rows; the answers come in their order."""
        raise NotImplementedError("fast.py is ahead")

    @app.post("/feedback", dependencies=key, tags=["predict"], status_code=202)
    async def feedback(said: Feedback) -> Feedback:
        """The outcome of a prediction, as soon as it is known: what the model is judged by."""
        if not service.settings.prediction_log:
            raise HTTPException(503, "PREDICTION_LOG is not set: there is nowhere to keep it")
        service.log.feedback(said.prediction_id, said.label)
        return said

    @app.get("/model", tags=["watch"])
    async def model() -> dict[str, Any]:
        """What is served, by version and share, and how it does."""
        return describe(service)

    @app.get("/health/live", tags=["watch"])
    async def live() -> dict[str, str]:
        """The process answers."""
        return {"status": "live"}

    @app.get("/health/ready", tags=["watch"], responses={503: {"model": Detail}})
    async def ready() -> dict[str, str]:
        """The champion answers its example, now."""
        try:
            service.champion.answer_example()
        except Exception as error:
            raise HTTPException(503, f"the champion does not answer: {error}") from error
        return {"status": "ready"}

    @app.get("/metrics", tags=["watch"], response_class=Response)
    async def metrics() -> Response:
        """Counters and latency, for Prometheus."""
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(PAGE)

    return Fast(app, service)


def describe(service: Service) -> dict[str, Any]:
    """Champion, challenger, routing, latency and log, as JSON takes it."""
    settings, log = service.settings, service.log
    active = service.challenger is not None
    centiles = np.percentile(LATENCY.latest or [np.nan], (50, 95, 99)) * 1000
    return {
        "champion": service.champion.card,
        "challenger": service.challenger.card if service.challenger else None,
        "challenger_error": service.challenger_error,
        "challenger_mode": settings.challenger_mode if active else "off",
        "challenger_share": settings.challenger_share if active and settings.challenger_mode == "ab" else 0,
        "latency_ms": {
            f"p{p}": round(ms, 3) for p, ms in zip((50, 95, 99), centiles.tolist(), strict=True) if ms == ms
        },
        "log": {"target": settings.prediction_log or None, "error": log.error},
        "api_keys": bool(settings.api_keys),
    }
