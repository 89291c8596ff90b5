"""The project's image beside the classic one: size, build, rebuild after a new model, start until it answers.

    uv run benchmarks/serving/image.py demo/fraud-detection

Needs `make demo` and Docker. Classic: one stage, `COPY . .`, `pip install` of all that the project needs.
"""

import json
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
import urllib.request
from pathlib import Path

CLASSIC = """FROM python:{version}-slim
WORKDIR /app
COPY . .
RUN pip install -r requirements.txt './packages/tabloop[pipeline]'
ENV PYTHONPATH=/app/src PROJECT_ROOT=/app HOST=0.0.0.0
CMD ["python", "-m", "{package}.app"]
"""
IGNORED = shutil.ignore_patterns(".git", ".venv", ".dvc", ".uv", "mlruns", "mlflow.db", "data")


def docker(*arguments: str) -> str:
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return done.stdout.strip()


def build(folder: Path, tag: str, *options: str) -> float:
    """Seconds."""
    began = time.perf_counter()
    docker("build", *options, "--tag", tag, str(folder))
    return time.perf_counter() - began


def start(tag: str) -> float:
    """Seconds from `docker run` to the first answer that it is ready."""
    began = time.perf_counter()
    name = docker("run", "--detach", "--publish", "127.0.0.1::8000", tag)
    try:
        url = "http://" + docker("port", name, "8000/tcp").splitlines()[0] + "/health/ready"
        while True:
            try:
                urllib.request.urlopen(url)
                return time.perf_counter() - began
            except OSError:
                time.sleep(0.02)
    finally:
        docker("rm", "--force", "--volumes", name)


def measure(folder: Path, tag: str) -> dict[str, float]:
    """Build without a cache, change the model, build again, start."""
    found = {"build, s": build(folder, tag, "--no-cache")}
    card = folder / "models/champion/model.json"
    card.write_text(json.dumps(json.loads(card.read_text()) | {"created": "later"}))
    found["rebuild after a new model, s"] = build(folder, tag)
    found["start until ready, s"] = min(start(tag) for _ in range(3))
    found["size, MB"] = int(docker("inspect", "--format", "{{.Size}}", tag)) / 1e6
    return found


def main(project: Path) -> None:
    pyproject = tomllib.loads((project / "pyproject.toml").read_text())
    version = pyproject["project"]["requires-python"].strip("=.*")
    needs = [name for name in pyproject["dependency-groups"]["pipeline"] if not name.startswith("tabloop")]
    with tempfile.TemporaryDirectory() as temporary:
        ours, classic = (
            shutil.copytree(project, Path(temporary, name), ignore=IGNORED) for name in ("ours", "classic")
        )
        (classic / ".dockerignore").unlink()
        (classic / "requirements.txt").write_text("\n".join(needs))
        package = project.name.replace("-", "_")
        (classic / "Dockerfile").write_text(CLASSIC.format(version=version, package=package))
        rows = {"classic": measure(classic, "benchmark:classic"), "this": measure(ours, "benchmark:this")}
    print("| | classic | this | ratio |\n|---|---|---|---|")
    for name, value in rows["classic"].items():
        print(f"| {name} | {value:.1f} | {rows['this'][name]:.1f} | {value / rows['this'][name]:.1f} |")
    docker("rmi", "benchmark:classic", "benchmark:this")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
