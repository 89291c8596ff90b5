"""The service's settings: environment variables. On a server, release.env sets them by the same names."""

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, ValidationError
from pydantic_settings import BaseSettings

from tabloop.cli import UserError
from tabloop.params import ROOT
from tabloop.predictions import LOG

STORE = ROOT / "data/online/store.db"


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Settings(BaseSettings):
    """Environment variables, by these names in capitals."""

    models: Path = ROOT / "models"
    # Feast's: a SQLite file, redis://host:6379/0, rediss://..., or none: features that are left out are then missing.
    online_store: Annotated[str | Path, BeforeValidator(lambda where: where or STORE)] = STORE
    online_store_password: str = ""  # Redis's, as release.env is no place for it
    # off: the champion answers. shadow: the challenger scores too, for the log only. ab: it answers its share.
    challenger_mode: Literal["off", "shadow", "ab"] = "off"
    challenger_share: Annotated[float, Field(ge=0, le=1)] = 0.1
    api_keys: str = ""  # separated by commas; empty: open to all
    feedback_key: str = ""  # makes prediction ids; the same for all replicas; empty: the project's name
    feedback_per_hour: Annotated[int, Field(ge=1)] = 1_000_000  # labels of one API key, or all without
    prediction_log: str = str(ROOT / LOG)  # a folder, or a URL that fsspec understands; empty: no log
    # The flush interval: what is lost at most when the machine is lost.
    prediction_log_seconds: Annotated[float, Field(gt=0)] = 10
    # Processes that serve, of one container: one for each core that they may use.
    web_concurrency: Annotated[int, Field(ge=1), BeforeValidator(lambda given: given or 1)] = 1
    # A line of JSON on stdout for each answer: method, path, status, seconds, trace, rows.
    access_log: Annotated[bool, BeforeValidator(lambda given: given or False)] = False
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65535)] = 8000

    @property
    def keys(self) -> list[str]:
        """The API keys.

        Raises:
            UserError: there is none, and yet the variable is not empty: it does not say that the service is open. Or no
                client could send one of them.
        """
        keys = [key.strip() for key in self.api_keys.split(",") if key.strip()]
        for at, key in enumerate(keys, 1):
            if not key.isprintable():
                raise UserError(f"API_KEYS: key {at} has a control character, which no header can carry")
        if self.api_keys and not keys:
            raise UserError(f"API_KEYS={self.api_keys!r} has no key; leave it empty for an open service")
        return keys


def load_settings() -> Settings:
    """The settings of this process's environment.

    Raises:
        UserError: a value is not allowed, or the log's URL needs a package that is not installed.
    """
    try:
        settings = Settings()
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"{str(first['loc'][0]).upper()}={first['input']}: {first['msg']}") from None
    protocol, separator, _ = settings.prediction_log.partition("://")
    if separator:
        from fsspec.registry import known_implementations

        known = known_implementations.get(protocol, {"class": "", "err": f"unknown protocol: {protocol}"})
        # Looked for, not imported: only the log's own process needs it.
        if not (module := known["class"].partition(".")[0]) or not find_spec(module):
            raise UserError(f"PREDICTION_LOG={settings.prediction_log}: {known['err']}")
    return settings
