"""uvicorn's server, which ends with the access log."""

from typing import Any

from uvicorn import Server as Uvicorn

from tabloop.serving.protocol import Cycle


class Server(Uvicorn):
    """uvicorn's server. It ends with the access log: behind `run` is too late, as it raises SIGTERM again."""

    async def shutdown(self, sockets: Any = None) -> None:
        """Stop, after the last answer and the end of the application."""
        await super().shutdown(sockets)
        if Cycle.access:
            Cycle.access.stop()
