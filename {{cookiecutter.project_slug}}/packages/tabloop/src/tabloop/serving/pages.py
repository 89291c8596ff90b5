"""The pages of the service: `/`, and `/docs` from files of this machine. Their headers let no other site frame them."""

import re
from base64 import b64encode
from hashlib import sha256
from pathlib import Path

from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles

PAGE = Path(__file__).with_name("page.html")
SWAGGER = {
    "tryItOutEnabled": True,
    "persistAuthorization": True,
    "filter": True,
    "displayRequestDuration": True,
}


def add_pages(app: FastAPI) -> None:
    """Add both."""
    docs = get_swagger_ui_html(  # its addresses are relative, so that they hold behind a proxy, too
        openapi_url="openapi.json",
        title=app.title,
        swagger_js_url="swagger/swagger-ui-bundle.js",
        swagger_css_url="swagger/swagger-ui.css",
        swagger_favicon_url="swagger/favicon-32x32.png",
        swagger_ui_parameters=SWAGGER,
    )
    app.mount("/swagger", StaticFiles(packages=[("fastapi_swagger", "resources")]))
    _add_page(app, "/", PAGE.read_text())
    _add_page(app, "/docs", bytes(docs.body).decode())


def _add_page(app: FastAPI, path: str, html: str) -> None:
    scripts = re.findall("<script>(.*?)</script>", html, re.DOTALL)
    hashes = [f"'sha256-{b64encode(sha256(script.encode()).digest()).decode()}'" for script in scripts]
    policy = {
        "default-src": "'self'",
        "script-src": f"'self' {' '.join(hashes)}",
        "style-src": "'self' 'unsafe-inline'",
        "img-src": "'self' data:",
        "base-uri": "'none'",
        "form-action": "'self'",
        "frame-ancestors": "'none'",
    }
    headers = {
        "Content-Security-Policy": "; ".join(f"{name} {value}" for name, value in policy.items()),
        "X-Frame-Options": "DENY",
        "Referrer-Policy": "same-origin",
    }

    @app.get(path, include_in_schema=False)
    async def page() -> HTMLResponse:
        return HTMLResponse(html, headers=headers)
