"""`python -m <package>.serving`: serve models/champion, and models/challenger where the environment asks for it."""

from ..params import stage

if __name__ == "__main__":
    with stage("serve"):
        import gc

        import uvicorn

        from .app import create
        from .service import Service
        from .settings import settings
        from .wire import Protocol

        chosen = settings()
        app = create(Service(chosen))
        gc.freeze()  # what was loaded stays: the collector need not look at it, and no request wait for that
        uvicorn.run(
            app,
            host=chosen.host,
            port=chosen.port,
            http=Protocol,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=20,
        )
