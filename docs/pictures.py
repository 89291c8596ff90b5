"""The pictures of docs/pictures, from a real run: `make pictures`.

The example is baked, trained before a recorded terminal, played through the loop, and served drifting traffic.
"""

import io
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright
from rich.console import Console
from rich.text import Text

PORT, TO = "8377", Path(__file__).with_name("pictures")
URL = f"http://127.0.0.1:{PORT}"
# Of the recording: its width, where lines are cut; the longest pause that it keeps, in seconds.
COLUMNS, PAUSE = 110, 1.0
COMMITTER = ["-c", "user.name=you", "-c", "user.email=you@localhost"]
# What it leaves out: DVC's words about its lock file, MLflow's, empty lines, the table of checks.
LEFT_OUT = r"\s*$|> |Updating lock|Use `dvc|.* Checking graph|Successfully|Created| {12}"
LEFT_OUT += r"|\s*(passed|not judged|failed) {2,}"
ENV = {
    name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "MAKEFLAGS", "MAKELEVEL")
}
ENV |= {"PORT": PORT, "PREDICTION_LOG_SECONDS": "1", "COLUMNS": "200"}


def made(project: Path, *words: str) -> None:
    """Run `make` in the project."""
    subprocess.run(["make", *words], cwd=project, env=ENV, check=True, stdout=subprocess.DEVNULL)


@contextmanager
def served(project: Path) -> Iterator[None]:
    """The service of the project, ready."""
    process = subprocess.Popen(["make", "serve"], cwd=project, env=ENV, start_new_session=True)
    try:
        for _ in range(300):
            with suppress(OSError):
                urllib.request.urlopen(f"{URL}/health/ready", timeout=5)
                break
            time.sleep(0.1)
        yield
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def recorded(command: list[str], project: Path) -> list[tuple[float, str]]:
    """The lines that a command writes to a terminal, each with its second; pauses are cut to PAUSE."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        command, cwd=project, env=ENV, stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    lines, rest, at, last = [], b"", 0.0, time.monotonic()
    with suppress(OSError):  # the end of a terminal
        while block := os.read(ours, 65536):
            now = time.monotonic()
            at, last = at + min(now - last, PAUSE), now
            *whole, rest = (rest + block).split(b"\n")
            lines += [(at, re.sub(r".*\r", "", line.decode().rstrip("\r"))) for line in whole]
    os.close(ours)
    text = [(at, line.replace(str(project.parent), "/home/you")) for at, line in lines]
    if process.wait():
        sys.exit("\n".join(line for _, line in text))
    return text


def terminal(command: str, project: Path) -> None:
    """An SVG of a terminal in which the lines of the command appear as they did."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    rows = [(0.0, Text(f"$ {command}"))]
    for at, line in recorded(command.split(), project):
        text = Text.from_ansi(line)
        if not re.match(LEFT_OUT, text.plain):
            text.truncate(COLUMNS, overflow="ellipsis")
            rows.append((at, text))
    console.print(Text("\n").join(row for _, row in rows))
    svg = console.export_svg(title=command, unique_id="terminal")
    svg = re.sub(r"@font-face \{.*?\}", "", svg, flags=re.DOTALL).replace("</style>", APPEAR, 1)

    def delayed(found: "re.Match[str]") -> str:
        return f'style="animation-delay:{rows[int(found[1])][0]:.2f}s" {found[0]}'

    svg = re.sub(r'clip-path="url\(#terminal-line-(\d+)\)"', delayed, svg)
    (TO / "train.svg").write_text(svg, encoding="utf-8")


APPEAR = "@keyframes appear { from { opacity: 0 } } [style] { animation: appear 1ms both }</style>"


def ask(page: Page) -> None:
    """A row that is unlike training, and why it gets its score."""
    page.fill("[name=user_id]", "nobody")
    page.fill("[name=amount]", "90000")
    page.select_option("[name=channel]", "online")
    page.click("#predict")
    page.wait_for_selector("#why")


def pages(project: Path) -> None:
    """A picture of each page, light and dark."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for name, address in {
            "service": URL,
            **{p.stem: p.as_uri() for p in project.glob("reports/*.html")},
        }.items():
            for scheme in ("light", "dark") if name == "service" else ("light",):
                page = browser.new_page(viewport={"width": 1000, "height": 860}, color_scheme=scheme)
                page.goto(address)
                if name == "service":
                    ask(page)
                # With fewer colours a small thing loses its own: the loop's green points become grey.
                picture = Image.open(io.BytesIO(page.screenshot()))
                picture.convert("RGB").quantize(200, dither=Image.Dither.NONE).save(
                    TO / f"{name}-{scheme}.png", optimize=True
                )
        browser.close()


def main() -> None:
    """Bake, train, serve; take the pictures."""
    TO.mkdir(exist_ok=True)
    root = Path(__file__).parents[1]
    with tempfile.TemporaryDirectory() as folder:
        options = f"--no-input --default-config python_version=3.{sys.version_info[1]}".split()
        bake = [sys.executable, "-m", "cookiecutter", str(root), "--output-dir", folder, *options]
        subprocess.run(bake, check=True, stdout=subprocess.DEVNULL)
        project = Path(folder).resolve() / "fraud-detection"
        made(project, "setup")
        terminal("make train", project)
        subprocess.run(["git", "add", "--all"], cwd=project, check=True)
        commit = ["git", *COMMITTER, "commit", "--quiet", "--no-verify", "--message", "First model"]
        subprocess.run(commit, cwd=project, check=True)
        made(project, "loop")
        with served(project):
            made(project, "traffic", f"ARGS=--url {URL} --drift amount=3")
            time.sleep(3)  # for the log's flush
            made(project, "drift")
            pages(project)


if __name__ == "__main__":
    main()
