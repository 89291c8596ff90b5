"""Where the image and the model come from, what they hold, and what must not get into the history."""

import json
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml
from conftest import ROOT, UV, Project, Run, clean

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
        threading.Thread(target=server.serve_forever, daemon=True).start()
        audit = ["make", f"UV={UV}", "audit", f"ARGS=--service-url http://127.0.0.1:{server.server_port}"]
        found = run(copy, *audit, code=2)
        assert "GHSA-test: A hole" in found.stdout and "Fixed in: 99.0" in found.stdout
        assert "Error 1" in found.stderr
        with (copy / "pyproject.toml").open("a") as settings:
            settings.write('\n[tool.uv.audit]\nignore = ["GHSA-test"]\n')
        run(copy, *audit)
        server.shutdown()
    assert "Error 2" in run(copy, *audit, code=2).stderr  # nobody answered: that is no clean bill


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
                assert (
                    "attest/" not in str(about)
                    or {
                        "id-token": "write",
                        "attestations": "write",
                    }.items()
                    <= job["permissions"].items()
                )
