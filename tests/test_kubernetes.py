"""The manifests: rendered from release.env as `kubectl apply --kustomize` does, and held against Kubernetes' schemas."""

import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from conftest import ROOT, Project, answers, clean, wait_for
from tabloop.release import parse
from test_container import HARDENED, docker, image, inspect, url

__all__ = ["image"]  # the fixture

ENVIRONMENTS = ("staging", "production")
Things = dict[str, dict[str, Any]]


def rendered(project: Path, environment: str) -> Things:
    """What an environment's folder declares, by kind; all of it keeps the schemas of the newest Kubernetes."""
    folder = project / "deploy" / environment
    done = subprocess.run(["kubectl", "kustomize", folder], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    file = project.parent / f"{environment}.yaml"
    file.write_text(done.stdout)
    validate = Path(sys.executable).with_name("kubernetes-validate")
    checked = subprocess.run([validate, "--strict", file], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    things = list(yaml.safe_load_all(done.stdout))
    assert len(things) == len({thing["kind"] for thing in things})
    return {thing["kind"]: thing for thing in things}


def container(things: Things) -> dict[str, Any]:
    (found,) = things["Deployment"]["spec"]["template"]["spec"]["containers"]
    return dict(found)


def release(project: Path, environment: str, **values: str) -> dict[str, str]:
    """What release.env says, once these names are set."""
    file = project / "deploy" / environment / "release.env"
    kept = [line for line in file.read_text().splitlines() if line.split("=")[0] not in values]
    file.write_text("\n".join([*kept, *(f"{name}={value}" for name, value in values.items())]) + "\n")
    return parse(file.read_text())


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_release_env_says_what_an_environment_runs(environment: str, project: Project) -> None:
    copy = project()
    image = f"localhost:5000/team/fraud-detection@sha256:{'0' * 64}"
    declared = release(copy, environment, IMAGE=image, PREDICTION_LOG="s3://bucket/log", PORT="8001")
    things = rendered(copy, environment)
    service = container(things)
    assert service["image"] == image == declared["IMAGE"] and things["ConfigMap"]["data"] == declared
    assert service["envFrom"][0]["configMapRef"]["name"] == things["ConfigMap"]["metadata"]["name"]
    # A port is for a machine of its own; here the service listens where the probes ask.
    assert {"name": "PORT", "value": "8000"} in service["env"] and service["ports"][0][
        "containerPort"
    ] == 8000
    before = things["ConfigMap"]["metadata"]["name"]
    release(copy, environment, CHALLENGER_MODE="shadow")
    assert rendered(copy, environment)["ConfigMap"]["metadata"]["name"] != before  # new pods


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_an_environment_is_a_namespace_with_all_that_it_needs(
    environment: str, baked: Path, project: Project
) -> None:
    things = rendered(project(), environment)
    space = f"{baked.name}-{environment}"
    assert things["Namespace"]["metadata"]["name"] == space
    assert {thing["metadata"].get("namespace") for kind, thing in things.items() if kind != "Namespace"} == {
        space
    }
    assert {"HorizontalPodAutoscaler", "PodDisruptionBudget", "NetworkPolicy", "Service"} <= things.keys()
    # Without these a server-side apply is refused, and each other one finds a difference: as was seen by hand (docs/kubernetes.md).
    policy = things["NetworkPolicy"]["spec"]
    rules = [things["Service"]["spec"], *policy["ingress"], *policy["egress"]]
    assert all(port["protocol"] for rule in rules for port in rule["ports"])
    assert things["Deployment"]["spec"]["strategy"]["type"] == "RollingUpdate"
    pod = things["Deployment"]["spec"]["template"]["spec"]
    assert pod["imagePullSecrets"] == [{"name": "registry"}]
    assert pod["serviceAccountName"] == things["ServiceAccount"]["metadata"]["name"]
    # What the namespace's label enforces: https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted
    assert things["Namespace"]["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    guarded = container(things)["securityContext"]
    assert guarded["allowPrivilegeEscalation"] is False and guarded["capabilities"] == {"drop": ["ALL"]}
    assert guarded["readOnlyRootFilesystem"] is True
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}


def test_redis_and_a_bucket_are_within_reach_and_nothing_else(project: Project) -> None:
    """NetworkPolicy lets out to names, HTTPS, Redis' port and the metadata server."""
    egress = rendered(project(), "staging")["NetworkPolicy"]["spec"]["egress"]
    anywhere = {port["port"] for rule in egress if "to" not in rule for port in rule["ports"]}
    assert anywhere == {53, 443, 6379}
    (metadata,) = (rule for rule in egress if "to" in rule)
    assert metadata["to"] == [{"ipBlock": {"cidr": "169.254.0.0/16"}}]


def test_deleting_a_patch_makes_an_environment_reachable_from_outside(project: Project) -> None:
    copy = project()
    assert "Ingress" not in rendered(copy, "staging")
    base = copy / "deploy/kubernetes/kustomization.yaml"
    base.write_text(base.read_text().split("patches:")[0])
    hosts = set()
    for environment in ENVIRONMENTS:
        things = rendered(copy, environment)
        (rule,), (tls,) = things["Ingress"]["spec"]["rules"], things["Ingress"]["spec"]["tls"]
        assert tls["hosts"] == [rule["host"]]
        (path,) = rule["http"]["paths"]
        service = things["Service"]
        assert path["backend"]["service"]["name"] == service["metadata"]["name"]
        assert path["backend"]["service"]["port"]["name"] == service["spec"]["ports"][0]["name"]
        hosts.add(rule["host"])
    assert hosts == {"fraud-detection-staging.example.com", "fraud-detection.example.com"}


def test_deleting_a_patch_scores_a_table_every_night(project: Project) -> None:
    copy = project()
    assert "CronJob" not in rendered(copy, "staging")
    base = copy / "deploy/kubernetes/kustomization.yaml"
    base.write_text(re.sub(r"  - target: \{ kind: CronJob \}\n.*\n", "", base.read_text()))
    release(copy, "staging", MODEL_VERSION="0123abcd4567")
    things = rendered(copy, "staging")
    pod = things["CronJob"]["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    (found,) = pod["containers"]
    assert found["image"] == "ghcr.io/fraud-detection:batch-0123abcd4567"
    assert found["args"] == ["/batch/in.parquet", "/batch/out.parquet"] and "Ingress" not in things
    guarded = container(things)["securityContext"]
    assert found["securityContext"] == guarded and pod["securityContext"]["runAsNonRoot"] is True


@pytest.mark.parametrize(
    "remote", ["git@git.example.org:team/fraud.git", "https://github.com/acme/fraud-detection"]
)
def test_argo_cd_reads_the_repository_wherever_it_is(remote: str, project: Project) -> None:
    """By the command in the docs; the container registry says nothing about where the repository is."""
    copy = project()
    (command,) = re.findall(r"```sh\n(.*?)```", (ROOT / "docs/kubernetes.md").read_text(), re.DOTALL)
    subprocess.run(["git", "remote", "add", "origin", remote], cwd=copy, env=clean(), check=True)
    done = subprocess.run(
        command, shell=True, cwd=copy, env=clean(), capture_output=True, text=True, check=True
    )
    applications = list(yaml.safe_load_all(done.stdout))
    assert [a["spec"]["source"]["repoURL"] for a in applications] == [remote] * 2
    for application, environment in zip(applications, ENVIRONMENTS, strict=True):
        assert application["spec"]["source"]["path"] == f"deploy/{environment}"
        namespace = rendered(copy, environment)["Namespace"]["metadata"]["name"]
        assert application["spec"]["destination"]["namespace"] == namespace


def mebibytes(text: str) -> float:
    """`192Mi` in a manifest, `71.5MiB / 512MiB` by `docker stats`, in MiB."""
    number, unit = re.match(r"([\d.]+)([KMG])i", text).groups()  # type: ignore[union-attr]
    return float(number) * {"K": 1 / 1024, "M": 1, "G": 1024}[unit]


def test_the_service_keeps_within_its_requests_and_limits(image: str, baked: Path, tmp_path: Path) -> None:
    """At rest within what it asks for; under the largest batches, several at once, within what it is let have."""
    asked = container(rendered(shutil.copytree(baked, tmp_path / baked.name, symlinks=True), "production"))[
        "resources"
    ]
    limit = str(asked["limits"]["memory"]).removesuffix("i").lower()
    name = f"ml-template-test-limits-{time.monotonic_ns()}"
    docker(
        "run", "--detach", "--name", name, "--memory", limit, "--publish", "127.0.0.1::8000", *HARDENED, image
    )
    try:
        with httpx.Client(base_url=url(name), timeout=60) as client:
            wait_for(lambda: answers(client))
            at_rest = docker("stats", "--no-stream", "--format", "{{.MemUsage}}", name)
            assert mebibytes(at_rest) < mebibytes(asked["requests"]["memory"]), at_rest
            example = client.get("/model").json()["champion"]["example"]
            with ThreadPoolExecutor(4) as at_once:
                batches = [[example] * 10_000] * 12
                replies = list(at_once.map(lambda rows: client.post("/predict/batch", json=rows), batches))
            assert {answer.status_code for answer in replies} == {200}
            assert client.post("/predict", json=example).status_code == 200
        state = inspect(name, ".State")
        assert state["Running"] and not state["OOMKilled"]
    finally:
        subprocess.run(["docker", "rm", "--force", "--volumes", name], capture_output=True)
