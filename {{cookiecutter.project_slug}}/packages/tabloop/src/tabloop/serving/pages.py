"""The pages: `/`, and `/docs` from files of this machine. No other site may frame them, and only their own scripts run."""

import re
from base64 import b64encode
from hashlib import sha256
from html import escape
from pathlib import Path

from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles

PAGE, STYLE, SCRIPT = (Path(__file__).with_name(f"page.{kind}") for kind in ("html", "css", "js"))
POLICY = (
    "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'; script-src 'self'"
)


def add_pages(app: FastAPI) -> None:
    """Add both. The addresses in them are relative, so that they hold behind a proxy, too."""
    docs = get_swagger_ui_html(
        openapi_url="openapi.json",
        title=app.title,
        swagger_js_url="swagger/swagger-ui-bundle.js",
        swagger_css_url="swagger/swagger-ui.css",
        swagger_favicon_url="swagger/favicon-32x32.png",
        swagger_ui_parameters={"tryItOutEnabled": True, "persistAuthorization": True},
    )
    app.mount("/swagger", StaticFiles(packages=[("fastapi_swagger", "resources")]))
    page = PAGE.read_text("utf-8").replace("Model service", escape(app.title))
    page = page.replace("</style>", f"{STYLE.read_text('utf-8')}</style>")
    page = page.replace("</script>", f"{SCRIPT.read_text('utf-8')}</script>")
    for path, html in (("/", page), ("/docs", bytes(docs.body).decode())):
        scripts = re.findall("<script>(.*?)</script>", html, re.DOTALL)
        hashes = [b64encode(sha256(script.encode()).digest()).decode() for script in scripts]
        policy = " ".join([POLICY, *(f"'sha256-{digest}'" for digest in hashes)])
        headers = {"Content-Security-Policy": policy, "X-Frame-Options": "DENY"}
        app.add_route(path, HTMLResponse(html, headers=headers), methods=["GET"], include_in_schema=False)  # type: ignore[arg-type]
