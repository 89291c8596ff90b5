"""The pictures of docs/pictures: pages of a baked and trained project. `python docs/pictures.py PROJECT`, in its environment."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

PORT, TO = "8377", Path(__file__).with_name("pictures")


@contextmanager
def served(project: Path) -> Iterator[str]:
    """The service of the project; its address."""
    (app,) = project.glob("src/*/app.py")
    paths = os.pathsep.join(str(project / part) for part in ("src", "packages/tabloop/src"))
    with tempfile.TemporaryDirectory() as log:
        env = os.environ | {"PORT": PORT, "PYTHONPATH": paths, "PREDICTION_LOG": log}
        command = [sys.executable, "-m", f"{app.parent.name}.app"]
        process = subprocess.Popen(command, cwd=project, env=env, stderr=subprocess.DEVNULL)
        try:
            for _ in range(300):
                with suppress(OSError):
                    urllib.request.urlopen(f"http://127.0.0.1:{PORT}/health/ready", timeout=5)
                    break
                time.sleep(0.1)
            yield f"http://127.0.0.1:{PORT}"
        finally:
            process.terminate()
            process.wait()


def ask(page: Page) -> None:
    """A row that is unlike training, and why it gets its score."""
    page.fill("[name=user_id]", "nobody")
    page.fill("[name=amount]", "90000")
    page.select_option("[name=channel]", "online")
    page.click("#predict")
    page.wait_for_selector("#why")


def main(project: Path) -> None:
    """Take all pictures, light and dark."""
    TO.mkdir(exist_ok=True)
    with served(project) as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        pages = {"service": url} | {p.stem: p.as_uri() for p in project.glob("reports/*.html")}
        for name, address in pages.items():
            for scheme in ("light", "dark"):
                page = browser.new_page(viewport={"width": 1000, "height": 860}, color_scheme=scheme)
                page.goto(address)
                if name == "service":
                    ask(page)
                page.screenshot(path=TO / f"{name}-{scheme}.png")
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
