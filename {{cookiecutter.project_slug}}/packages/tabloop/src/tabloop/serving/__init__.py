"""The HTTP service of a trained model: `create_app` makes it, `serve` runs it."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tabloop.serving.app import create_app, serve
    from tabloop.serving.settings import Settings

__all__ = ["Settings", "create_app", "serve"]


def __getattr__(name: str) -> Any:
    """What `__all__` lists, imported when it is asked for: the pipeline uses modules of this package without FastAPI."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from tabloop.serving import app

    return getattr(app, name)
