"""The service: tabloop's routes, and yours. `python -m {{ cookiecutter.package_name }}.app` starts it."""

from fastapi import FastAPI
from tabloop.serving import Settings, create_app, serve


def make_app(settings: Settings | None = None) -> FastAPI:
    """The service of models/champion. Add your routes and middleware here.

    Middleware sees every request, also those to /predict. If API_KEYS is set, your routes need a key as well, but for
    GET, HEAD and OPTIONS.
    """
    app = create_app("{{ cookiecutter.package_name }}", settings)

    # @app.get("/hello")
    # async def hello() -> dict[str, str]:
    #     return {"hello": "world"}
    #
    # app.add_middleware(CORSMiddleware, allow_origins=["https://example.com"], allow_methods=["*"])

    return app


if __name__ == "__main__":
    serve(make_app)
