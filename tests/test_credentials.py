"""Short-lived credentials in place of stored ones: OIDC to three clouds, the token of a GitHub App.

What the runner does: the callers, the inputs with their defaults, the conditions, the order. What only GitHub and a
cloud can do, sign a token and believe it, is not done here; the stand-ins refuse what the real actions refuse.
"""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import yaml
from conftest import ROOT
from test_contracts import read
from test_workflows import Forge, another

__all__ = ["another"]

WORKFLOWS = ROOT / ".github/workflows"
CLOUDS = ("AWS", "Google", "Azure")
VARIABLES = {
    "AWS_ROLE": "arn:aws:iam::123456789012:role/fraud",
    "AWS_REGION": "eu-central-1",
    "GOOGLE_PROVIDER": "projects/1/locations/global/workloadIdentityPools/github/providers/fraud",
    "AZURE_CLIENT": "a-client",
    "AZURE_TENANT": "a-tenant",
}
TOKEN = "of-the-job"


class Issuer(BaseHTTPRequestHandler):
    """GitHub's issuer of OIDC tokens, which a job with `id-token: write` may ask."""

    def do_GET(self) -> None:
        known = self.headers.get("authorization") == f"bearer {TOKEN}" and "&audience=" in self.path
        self.send_response(200 if known else 401)
        self.end_headers()
        self.wfile.write(json.dumps({"value": f"for-{self.path.partition('&audience=')[2]}"}).encode())

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def issuer() -> Iterator[list[str]]:
    """The options by which the runner tells a job where its issuer is."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Issuer) as server:
        threading.Thread(target=server.serve_forever, args=[0.05], daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/token?version=2"
        yield [
            "--env",
            f"ACTIONS_ID_TOKEN_REQUEST_URL={url}",
            "--env",
            f"ACTIONS_ID_TOKEN_REQUEST_TOKEN={TOKEN}",
        ]
        server.shutdown()


def only(forge: Forge, name: str, words: str, show: dict[str, Any]) -> None:
    """Leave of a reusable workflow's last job the steps that are named like this, and one that shows something."""
    path = forge.work / f"template/.github/workflows/{name}.yml"
    workflow = read(path)
    *_, job = workflow["jobs"].values()
    job["steps"] = [*(step for step in job["steps"] if words in step.get("name", "")), show]
    path.write_text(yaml.safe_dump(workflow, sort_keys=False))


def given(kind: str, values: dict[str, str]) -> list[str]:
    return [part for name, value in values.items() for part in (f"--{kind}", f"{name}={value}")]


def test_a_job_gets_a_clouds_credentials_where_a_variable_names_the_role(
    another: Forge, issuer: list[str]
) -> None:
    only(
        another,
        "train",
        "by OIDC",
        {
            "run": 'echo "$AWS_ACCESS_KEY_ID in $AWS_REGION; $GOOGLE_APPLICATION_CREDENTIALS"; cat gha-*.json || true'
        },
    )
    push = ["push", "--job", "train"]
    code, said = another.run(*push)
    assert code == 0 and "Main AWS by OIDC" not in said and "gha-creds" not in said, said[-3000:]

    code, said = another.run(*push, *issuer, *given("var", VARIABLES))
    assert code == 0, said[-3000:]
    assert "ASIAfor-sts.amazonaws.com in eu-central-1; /" in said
    assert f'"audience": "//iam.googleapis.com/{VARIABLES["GOOGLE_PROVIDER"]}"' in said
    assert "using OIDC: a-client in a-tenant" in said

    # One value is missing, or the caller does not grant the permission: red, in the action's own words.
    incomplete = {"AWS_ROLE": VARIABLES["AWS_ROLE"]}
    code, said = another.run(*push, *issuer, *given("var", incomplete))
    assert code and "Input required and not supplied: aws-region" in said
    code, said = another.run(*push, *given("var", VARIABLES))
    assert code and "Did you mean to set the `id-token` permission?" in said

    # A fork has the variables, and may not ask for a token.
    pull = another.github.add_pull("main", fork="someone/fraud-detection")
    payload = {"pull_request": {"number": pull["number"], "head": pull["head"], "base": pull["base"]}}
    code, said = another.run("pull_request", "--job", "train", *given("var", VARIABLES), payload=payload)
    assert code == 0 and "Main AWS by OIDC" not in said, said[-3000:]


def test_each_job_that_asks_the_remote_gets_them_in_the_same_way() -> None:
    ways = {}
    for path in WORKFLOWS.glob("*.yml"):
        if "dvc-remote-url:" not in path.read_text():
            assert "by OIDC" not in path.read_text()
            continue
        workflow = read(path)
        (job,) = workflow["jobs"].values()
        names = [step.get("name", step.get("run", "")) for step in job["steps"]]
        at = [names.index(f"{cloud} by OIDC") for cloud in CLOUDS]
        asking = [i for i, step in enumerate(job["steps"]) if "DVC_REMOTE_URL" in step.get("env", {})]
        assert names.index("make setup") < min(at) and max(at) < min(asking), path.name
        inputs = workflow["on"]["workflow_call"]["inputs"]
        chosen = {
            name: about for name, about in inputs.items() if name.startswith(("aws", "google", "azure"))
        }
        text = json.dumps([chosen, [job["steps"][i] for i in at]])
        ways[path.stem] = text.replace("env.TRUSTED == 'true' && ", "")
    assert set(ways) == {"train", "drift", "retrain", "promote", "materialize", "batch"}
    assert len(set(ways.values())) == 1


def test_the_token_of_a_github_app_comes_before_the_bots(another: Forge) -> None:
    used = {
        step["env"]["GITHUB_TOKEN"]
        for name in ("deploy", "retrain", "promote")
        for job in read(WORKFLOWS / f"{name}.yml")["jobs"].values()
        for step in job["steps"]
        if "tabloop github p" in step.get("run", "") or "release deploy" in step.get("run", "")
    }
    assert used == {"${{ steps.app.outputs.token || secrets.bot-token || github.token }}"}
    only(another, "deploy", "GitHub App", {"run": 'echo "as ${AS:0:5}"', "env": {"AS": used.pop()}})

    def token(code: int = 0, **secrets: str) -> str:
        options = ["--workflows", ".github/workflows/deploy.yml", "--input", "environment=staging"]
        values = given("secret", {name: value for name, value in secrets.items() if name != "APP_ID"})
        values += given("var", {"APP_ID": secrets["APP_ID"]}) if "APP_ID" in secrets else []
        payload = {"inputs": {"environment": "staging"}}
        ended, said = another.run(
            "workflow_dispatch", *options, *values, "--env", "APP_TOKEN=app-token", payload=payload
        )
        assert bool(ended) == bool(code), said[-3000:]
        return said

    assert "| as of-th" in token()
    assert "| as bot-t" in token(BOT_TOKEN="bot-token")
    key = "-----BEGIN RSA " + "PRIVATE KEY-----"
    assert "| as app-t" in token(BOT_TOKEN="bot-token", APP_ID="Iv1", APP_PRIVATE_KEY=key)
    assert "The 'private-key' input must be set" in token(1, APP_ID="Iv1")
