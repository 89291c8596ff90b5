"""Where the image and the model come from, what they hold, and what must not get into the history."""

import importlib.util
import json
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar
from urllib.parse import quote

import pytest
import yaml
from conftest import ROOT, UV, Bake, Project, Run, clean
from test_container import docker
from test_workflows import Forge, another

__all__ = ["another"]

ACTIONS = ROOT / "tests/actions"
DIGEST = f"sha256:{'0' * 64}"
# Assembled here, so that no search finds them in this file.
SECRETS = {
    "src/settings.py": 'AWS = "AKIA' + "Z7XQ4T2LMN3PVR5K" + '"\n',
    "notes.txt": "-----BEGIN RSA " + "PRIVATE KEY-----\n",
    "params.yaml": "source: postgres://user:" + "hunter2hunter@db/events\n",
    "deploy/staging/release.env": "REDIS_" + "PASSWORD=8f3kd9sKq02mXv71\n",
}


def workflow(name: str) -> dict[str, dict[str, str]]:
    """The steps of a reusable workflow's jobs that have a name, by it."""
    text = (ROOT / f".github/workflows/{name}.yml").read_text()
    jobs = yaml.safe_load(text)["jobs"].values()
    return {step["name"]: step for job in jobs for step in job["steps"] if "name" in step}


@pytest.mark.parametrize(
    ("given", "name"),
    [("", "ghcr.io/acme/fraud-detection"), ("localhost:5000/team/fraud", "localhost:5000/team/fraud")],
)
def test_without_a_setting_the_image_is_called_like_the_repository(
    given: str, name: str, tmp_path: Path
) -> None:
    output = tmp_path / "output"
    variables = {"NAME": given, "GITHUB_REPOSITORY": "Acme/Fraud-Detection", "GITHUB_SHA": "abc"}
    step = workflow("image")["Name the image"]["run"]
    subprocess.run(["bash", "-e", "-c", step], env=clean(GITHUB_OUTPUT=str(output), **variables), check=True)
    said = dict(line.split("=") for line in output.read_text().splitlines())
    assert said == {"name": name, "registry": name.split("/")[0], "tagged": f"{name}:abc"}


@pytest.mark.parametrize(
    ("remote", "source"),
    [
        ("git@github.com:acme/fraud.git", "https://github.com/acme/fraud"),
        ("https://user:" + "token@github.com/acme/fraud.git", "https://github.com/acme/fraud"),
        ("ssh://git@git.example.org:2222/acme/fraud.git", "https://git.example.org/acme/fraud"),
        ("https://github.com/acme/fraud", "https://github.com/acme/fraud"),
        ("", ""),
    ],
)
def test_the_image_says_which_repository_it_comes_from(
    remote: str, source: str, project: Project, run: Run
) -> None:
    """The label by which GitHub links a package with its repository; no password gets into it."""
    copy = project()
    if remote:
        run(copy, "git", "remote", "add", "origin", remote)
    planned = run(copy, "make", "--dry-run", "image").stdout
    assert f'--build-arg "SOURCE={source}" .' in planned
    assert 'org.opencontainers.image.source="${SOURCE}"' in (copy / "Dockerfile").read_text()


def test_a_secret_is_found_before_it_is_committed(quick: Path, project: Project, run: Run) -> None:
    """A whole project, with models, digests and metrics in its history, has none."""
    copy = project(quick)
    release = copy / "deploy/staging/release.env"
    release.write_text(release.read_text().replace(":dev", f"@sha256:{'0123456789abcdef' * 4}"))
    search = ["pre-commit", "run", "secrets", "--all-files"]
    done = run(copy, *search, code=None)
    assert done.returncode == 0, done.stdout
    for name, secret in SECRETS.items():
        file = copy / name
        file.write_text((file.read_text() if file.exists() else "") + secret)
    run(copy, "git", "add", "--all")
    found = run(copy, *search, code=1).stdout
    for name in SECRETS:
        assert f"Location:    {name}:" in found, found


class Advisories(BaseHTTPRequestHandler):
    """As https://api.osv.dev: one advisory, for starlette."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))["queries"]
        assert self.path == "/v1/querybatch" and all(query["version"] for query in asked)
        one = {"vulns": [{"id": "GHSA-test", "modified": "2026-01-01T00:00:00Z"}]}
        self.answer({"results": [one if q["package"]["name"] == "starlette" else {} for q in asked]})

    def do_GET(self) -> None:
        assert self.path == "/v1/vulns/GHSA-test"
        fixed = [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "99.0"}]}]
        affected = [{"package": {"name": "starlette", "ecosystem": "PyPI"}, "ranges": fixed}]
        told = {"modified": "2026-01-01T00:00:00Z", "summary": "A hole", "affected": affected}
        self.answer({"id": "GHSA-test"} | told)

    def answer(self, body: object) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *arguments: object) -> None:
        pass


def test_a_known_vulnerability_of_the_lock_is_red_until_it_is_accepted(project: Project, run: Run) -> None:
    copy = project()
    with ThreadingHTTPServer(("127.0.0.1", 0), Advisories) as server:
        threading.Thread(target=server.serve_forever, args=[0.05], daemon=True).start()
        audit = ["make", f"UV={UV}", "audit", f"ARGS=--service-url http://127.0.0.1:{server.server_port}"]
        found = run(copy, *audit, code=2)
        assert "GHSA-test: A hole" in found.stdout and "Fixed in: 99.0" in found.stdout
        assert "Error 1" in found.stderr
        with (copy / "pyproject.toml").open("a") as settings:
            settings.write('\n[tool.uv.audit]\nignore = ["GHSA-test"]\n')
        run(copy, *audit)
        server.shutdown()
    assert "Error 2" in run(copy, *audit, code=2).stderr  # nobody answered: that is no clean bill


def test_the_weekly_audit_is_red_when_there_is_a_vulnerability(another: Forge) -> None:
    weekly = ["schedule", "--workflows", ".github/workflows/ci.yml"]
    with ThreadingHTTPServer(("127.0.0.1", 0), Advisories) as server:
        threading.Thread(target=server.serve_forever, args=[0.05], daemon=True).start()
        asked = ["--env", f"ARGS=--service-url http://127.0.0.1:{server.server_port}"]
        code, said = another.run(*weekly, *asked)
        assert code and "osv.dev/vulnerability/GHSA-test" in said, said[-3000:]
        assert "make lint" not in said and "make train" not in said
        with (another.project / "pyproject.toml").open("a") as settings:
            settings.write('\n[tool.uv.audit]\nignore = ["GHSA-test"]\n')
        another.commit("Accept it")
        code, said = another.run(*weekly, *asked)
        assert code == 0, said[-3000:]
        server.shutdown()


def baked_by_hand(template: Path, out: Path, *answers: str, **variables: str) -> tuple[Path, str]:
    """A project baked as a user does, by the command line, and what the bake said."""
    options = ["--no-input", "--default-config", "--output-dir", str(out)]
    command = [sys.executable, "-m", "cookiecutter", str(template), *options, *answers]
    done = subprocess.run(command, capture_output=True, text=True, env=clean(**variables))
    assert done.returncode == 0, done.stderr
    return out / "fraud-detection", done.stdout


def push(image: str, label: str) -> str:
    """Push an image that differs by its label; its digest."""
    dockerfile = f"FROM scratch\nLABEL of={label}\nCOPY Dockerfile /\n"
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "Dockerfile").write_text(dockerfile)
        docker("build", "--quiet", "--tag", image, folder)
    docker("push", "--quiet", image)
    return docker("inspect", "--format", "{{index .RepoDigests 0}}", image).partition("@")[2]


def test_a_bake_pins_the_base_images_by_the_digests_of_today(
    registry: str, project: Project, run: Run, tmp_path: Path
) -> None:
    """With a real registry in the place of Docker Hub and ghcr.io."""
    out = shutil.ignore_patterns(".git", ".venv", ".uv", ".cache", "demo", "tests")
    template = shutil.copytree(ROOT, tmp_path / "template", ignore=out)
    here = f"{registry}/base-{time.time_ns()}"
    file = template / "{{cookiecutter.project_slug}}/Dockerfile"
    text = file.read_text()
    assert len(re.findall("^FROM (?:python|ghcr.io/astral-sh/uv):", text, re.MULTILINE)) == 2
    file.write_text(
        re.sub(r"^FROM (?:ghcr.io/astral-sh/)?(\w+:)", rf"FROM {here}/\1", text, flags=re.MULTILINE)
    )
    digests = {name: push(f"{here}/{name}", name[:2]) for name in ("uv:0.13", "python:3.11-slim")}
    offline = {"UV_OFFLINE": "1"}
    copy, said = baked_by_hand(template, tmp_path / "a", "python_version=3.11", **offline)
    pinned = re.findall(rf"^FROM {here}/(\S+)@(\S+) AS \w+$", (copy / "Dockerfile").read_text(), re.MULTILINE)
    assert dict(pinned) == digests and "no digest" not in said
    docker("build", "--quiet", "--target", "base", str(copy))
    assert run(copy, "git", "status", "--porcelain").stdout == ""

    # Later: the tag has moved.
    digests["uv:0.13"] = push(f"{here}/uv:0.13", "newer")
    run(copy, "make", "pin")
    pinned = re.findall(rf"^FROM {here}/(\S+)@(\S+) AS \w+$", (copy / "Dockerfile").read_text(), re.MULTILINE)
    assert dict(pinned) == digests
    assert run(copy, "git", "status", "--porcelain").stdout.split() == ["M", "Dockerfile"]

    # One of the registries does not answer: all tags stay, which the bake says, with the command for later.
    file.write_text(file.read_text().replace(f"{here}/uv", "127.0.0.1:1/uv"))
    copy, said = baked_by_hand(template, tmp_path / "b", **offline)
    assert "@" not in "".join(re.findall("^FROM.*", (copy / "Dockerfile").read_text(), re.MULTILINE))
    assert "The base images have no digest in Dockerfile" in said and "`make pin` pins them." in said


class Hub(BaseHTTPRequestHandler):
    """A registry that, as Docker Hub does, gives nothing without a token, which whoever asks for the right scope gets."""

    def do_HEAD(self) -> None:
        address = f"http://127.0.0.1:{self.server.server_port}"  # type: ignore[attr-defined]
        known = self.path == "/v2/library/python/manifests/3.11-slim" and "index" in self.headers["accept"]
        if self.headers.get("authorization") != "Bearer for-all":
            self.send_response(401)
            scope = 'service="hub",scope="repository:library/python:pull"'
            self.send_header("WWW-Authenticate", f'Bearer realm="{address}/token",{scope}')
        else:
            self.send_response(200 if known else 404)
            self.send_header("Docker-Content-Digest", DIGEST if known else "nonsense")
        self.end_headers()

    def do_GET(self) -> None:
        self.send_response(
            200 if self.path == "/token?service=hub&scope=repository%3Alibrary%2Fpython%3Apull" else 403
        )
        self.end_headers()
        self.wfile.write(b'{"token": "for-all"}')

    def log_message(self, *arguments: object) -> None:
        pass


def test_a_digest_is_asked_for_without_a_login() -> None:
    spec = importlib.util.spec_from_file_location("post_gen", ROOT / "hooks/post_gen_project.py")
    assert spec and spec.loader
    hook = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hook)
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, args=[0.05], daemon=True).start()
        here = f"127.0.0.1:{server.server_port}/library"
        assert hook.digest(f"{here}/python:3.11-slim") == DIGEST
        for other in (f"{here}/python:2", f"{here}/uv:0.13", "127.0.0.1:1/python:3"):
            with pytest.raises(OSError):
                hook.digest(other)
        server.shutdown()


WHEEL = "torch-2.13.0+cpu-py3-none-any.whl"


class PyTorch(BaseHTTPRequestHandler):
    """PyTorch's index of CPU builds, as far as a lock asks it."""

    asked: ClassVar[set[str]] = set()

    def do_GET(self) -> None:
        self.asked.add(self.path.partition("-")[0])
        link = f'<a href="/{quote(WHEEL)}" data-dist-info-metadata="true">{WHEEL}</a>'
        metadata = "Metadata-Version: 2.1\nName: torch\nVersion: 2.13.0+cpu\nRequires-Dist: sympy\n"
        self.send_response(200)
        self.send_header("Content-Type", "text/plain" if self.path.endswith(".metadata") else "text/html")
        self.end_headers()
        self.wfile.write((metadata if self.path.endswith(".metadata") else link).encode())

    def log_message(self, *arguments: object) -> None:
        pass


def test_torch_is_the_cpu_build_from_pytorchs_index_which_nothing_else_asks(
    bake: Bake, baked: Path, project: Project
) -> None:
    assert UV and "pytorch" not in (baked / "pyproject.toml").read_text()
    copy = project(bake(framework="torch"))
    local = ("UV_FIND_LINKS", "UV_INDEX")
    env = {name: value for name, value in clean().items() if name not in local}
    with ThreadingHTTPServer(("127.0.0.1", 0), PyTorch) as server:
        threading.Thread(target=server.serve_forever, args=[0.05], daemon=True).start()
        settings, index = copy / "pyproject.toml", f"http://127.0.0.1:{server.server_port}/"
        text, replaced = re.subn("https://download.pytorch.org/whl/cpu", index, settings.read_text())
        assert replaced == 1
        settings.write_text(text)
        done = subprocess.run([UV, "lock", "--quiet"], cwd=copy, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        server.shutdown()
    packages = tomllib.loads((copy / "uv.lock").read_text())["package"]
    linux = [package for package in packages if package["name"] == "torch" and "+" in package["version"]]
    assert [package["version"] for package in linux] == ["2.13.0+cpu"]
    assert linux[0]["source"] == {"registry": index}
    assert not [name for package in packages if (name := package["name"]).startswith(("nvidia", "triton"))]
    assert PyTorch.asked == {"/torch/", "/torch"}


def test_dependabot_moves_what_is_pinned(baked: Path) -> None:
    for folder, image in ((ROOT, "/{{cookiecutter.project_slug}}"), (baked, "/")):
        file = folder / ".github/dependabot.yml"
        check = Path(sys.executable).with_name("check-jsonschema")
        done = subprocess.run(
            [check, "--builtin-schema", "vendor.dependabot", file], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        entries = yaml.safe_load(file.read_text())["updates"]
        moved = {(entry["package-ecosystem"], entry["directory"]) for entry in entries}
        assert moved == {("github-actions", "/"), ("uv", "/"), ("docker", image)}
        assert (folder / image[1:] / "Dockerfile").exists()


def attest(folder: Path, **inputs: str) -> "subprocess.CompletedProcess[str]":
    """Ask the stand-in for actions/attest, as the runner does."""
    names = yaml.safe_load((ACTIONS / "attest/action.yml").read_text())["inputs"]
    given = {name: about.get("default", "") for name, about in names.items()}
    given |= {name.replace("_", "-"): value for name, value in inputs.items()}
    assert given.keys() == names.keys()
    variables = clean(INPUTS=json.dumps(given), ATTESTATIONS=str(folder / "attestations"))
    command = [sys.executable, str(ACTIONS / "attest/attest.py")]
    return subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True)


def verify(folder: Path, image: str, repository: str = "acme/fraud") -> "subprocess.CompletedProcess[str]":
    """Ask the stand-in for GitHub's program."""
    signer = ["--signer-workflow", "acme/ml-template/.github/workflows/image.yml"]
    command = [
        sys.executable,
        str(ACTIONS / "bin/gh"),
        "attestation",
        "verify",
        f"oci://{image}",
        "--repo",
        repository,
    ]
    variables = clean(
        ATTESTATIONS=str(folder / "attestations"), GITHUB_REPOSITORY="acme/fraud", GH_TOKEN="of-the-test"
    )
    return subprocess.run([*command, *signer], env=variables, capture_output=True, text=True)


def test_the_stand_ins_attest_and_verify_as_strictly_as_github(tmp_path: Path) -> None:
    image = f"ghcr.io/acme/fraud@{DIGEST}"
    assert "no attestations found" in verify(tmp_path, image).stderr
    refused = {
        "subject-path, subject-digest": {},
        "subject-name must": {"subject_digest": DIGEST},
        "must be in the format": {"subject_digest": "sha256:12", "subject_name": "ghcr.io/acme/fraud"},
        "Invalid image name": {"subject_digest": DIGEST, "subject_name": "ghcr.io/Acme/fraud"},
        "Could not find": {"subject_path": "models/champion/model.onnx"},
        "missing": {"subject_digest": DIGEST, "subject_name": "ghcr.io/acme/fraud", "sbom_path": "sbom.json"},
    }
    for why, inputs in refused.items():
        done = attest(tmp_path, **inputs)
        assert done.returncode == 1 and why in done.stderr, done.stdout + done.stderr
    for packages, code in ((["onnxruntime"], 1), (["onnxruntime", "libc6"], 0)):
        sbom = {"spdxVersion": "SPDX-2.3", "packages": [{"name": name} for name in packages]}
        (tmp_path / "sbom.json").write_text(json.dumps(sbom))
        subject = {"subject_digest": DIGEST, "subject_name": "ghcr.io/acme/fraud"}
        assert attest(tmp_path, **subject, sbom_path="sbom.json").returncode == code
    assert "no attestations found" in verify(tmp_path, image).stderr  # a bill of materials is no provenance
    assert attest(tmp_path, **subject).stdout == f"attested {image} provenance\n"
    assert "Verification succeeded" in verify(tmp_path, image).stdout
    assert verify(tmp_path, image, repository="acme/other").returncode == 1


def test_each_step_gives_an_action_only_inputs_that_it_has() -> None:
    """Which the runner does not check."""
    for path in (ROOT / ".github/workflows").glob("*.yml"):
        for job in yaml.safe_load(path.read_text())["jobs"].values():
            for step in job.get("steps", []):
                about = ACTIONS / step.get("uses", "").split("@")[0].rpartition("/")[2] / "action.yml"
                if "uses" not in step or not about.exists():
                    continue
                inputs = yaml.safe_load(about.read_text())["inputs"]
                given = step.get("with", {}).keys()
                assert given <= inputs.keys(), f"{path.name}: {step['uses']}"
                assert {name for name, of in inputs.items() if of.get("required")} <= given
                if about.parent.name in ("attest", "configure-aws-credentials", "auth", "login"):
                    assert job["permissions"]["id-token"] == "write", f"{path.name}: {step['uses']}"
