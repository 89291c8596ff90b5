"""What the environment may set; the same names in release.env."""

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings

from ..params import ROOT, UserError


class Settings(BaseSettings):
    """Environment variables, by these names in capitals."""

    models: Path = ROOT / "models"
    online_store: Path = ROOT / "data/online_store.db"
    # off: the champion answers; shadow: the challenger answers too, for the log only; ab: it answers its share
    challenger_mode: Literal["off", "shadow", "ab"] = "off"
    challenger_share: Annotated[float, Field(ge=0, le=1)] = 0.1
    api_keys: str = ""  # separated by commas; none: open
    prediction_log: str = str(ROOT / "data/log")  # a folder or any URL of fsspec's; empty: no log
    prediction_log_seconds: Annotated[float, Field(gt=0)] = 10  # the most a lost machine takes with it
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65535)] = 8000


def settings() -> Settings:
    """Raises: UserError: a variable's value can't be, or the log's place needs a package that is not installed."""
    try:
        chosen = Settings()
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"{str(first['loc'][0]).upper()}={first['input']}: {first['msg']}") from None
    protocol, separator, _ = chosen.prediction_log.partition("://")
    if separator:
        from fsspec.registry import known_implementations

        known = known_implementations.get(protocol, {"class": "", "err": f"Protocol not known: {protocol}"})
        # Found, not imported: that is for the log's own process.
        if not (module := known["class"].partition(".")[0]) or not find_spec(module):
            raise UserError(f"PREDICTION_LOG={chosen.prediction_log}: {known['err']}")
    return chosen
