"""The HTTP service of a trained model: `create_app` makes it, `serve` runs it."""

from tabloop.serving.app import create_app, serve
from tabloop.serving.settings import Settings

__all__ = ["Settings", "create_app", "serve"]
