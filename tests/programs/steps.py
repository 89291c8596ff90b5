"""Steps of a rollout with real git, DVC and MLflow, each in a fork of this process: it can be killed, and starts at once."""

import json
import os
import shutil
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from kit.conftest import PARAMS, clean
from kit.test_card import CARD, METRICS
from onnx import TensorProto, helper
from tabloop import (
    model_card,
    params,
    provenance,
    registry,
    release,
    replay,
    roles,
    rollout,
    tracking,
)
from tabloop.cli import UserError

from .conftest import begin_history, commit

PROJECT = params.Params.model_validate(PARAMS)
Step = Callable[[], str]
STEPS: dict[str, Step] = {
    "register": lambda: rollout.register(PROJECT),
    "challenge": lambda: rollout.challenge(PROJECT),
    "promote": lambda: rollout.promote(PROJECT),
    "withdraw": lambda: rollout.withdraw(PROJECT),
}
BEFORE = {"register": "trained", "challenge": "retrained", "promote": "challenged", "withdraw": "challenged"}
# What holds after each step: the versions of champion and challenger.
AFTER = {"register": ("a", None), "challenge": ("a", "b"), "promote": ("b", None), "withdraw": ("a", None)}


def enter(folder: Path) -> None:
    """Let this process work on the project in `folder`."""
    os.chdir(folder)
    for module in (model_card, params, provenance, registry, release, roles, rollout, tracking):
        module.ROOT = folder  # type: ignore[attr-defined]
    roles.MODELS, roles.CANDIDATE = folder / "models", folder / "models/candidate"
    roles.EVALUATION, rollout.CHAMPION = folder / "metrics/evaluation.json", folder / "metrics/champion.json"
    replay.REPORT, rollout.REGISTRATION = folder / "reports/replay.json", folder / "reports/registration.json"


def run(
    folder: Path,
    step: Step,
    sabotage: Callable[[], Any] = lambda: None,
    variables: dict[str, str] | None = None,
) -> tuple[int, str]:
    """Run a step in a process of its own; its exit status, negative for a signal, and what it returned or refused."""
    answer = folder.parent / f"{folder.name}.answer"
    answer.write_text("")
    if not (pid := os.fork()):
        status = 2
        try:
            here = clean(**variables or {})
            os.environ.clear()
            os.environ.update(here)
            enter(folder)
            sabotage()
            answer.write_text(step())
            status = 0
        except UserError as error:
            answer.write_text(str(error))
            status = 1
        except BaseException:
            answer.write_text(traceback.format_exc())
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), answer.read_text()


def finish(folder: Path, step: Step) -> str:
    status, text = run(folder, step)
    assert status == 0, text
    return text


def write_candidate(folder: Path, version: str, judged: str | None) -> None:
    """models/candidate with a graph that MLflow takes, and the evaluation that passed it."""
    inputs = [helper.make_tensor_value_info("amount", TensorProto.FLOAT, [None, 1])]
    outputs = [helper.make_tensor_value_info("probability", TensorProto.FLOAT, [None, 1])]
    node = helper.make_node("Sigmoid", ["amount"], ["probability"], name=version)
    graph = helper.make_graph([node], version, inputs, outputs)
    candidate = folder / "models/candidate"
    candidate.mkdir(parents=True, exist_ok=True)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    (candidate / "model.onnx").write_bytes(model.SerializeToString())
    CARD.model_copy(update={"version": version}).write(candidate)
    result: dict[str, Any] = METRICS | {
        "version": version,
        "rows": 9,
        "positives": 4,
        "threshold": 0.5,
        "precision": None,
        "recall": 0.0,
    }
    check = {"name": "AUC", "value": 0.9, "low": 0.8, "high": 1.0, "against": None, "rule": "at least 0.5"}
    checks = [check | {"passed": True, "note": ""}]
    level = {"rows": 9, "positives": 4, "auc": 0.9, "low": 0.8, "high": 1.0}
    segments = {"country": {"DE": level, "FR": level | {"low": None, "high": None}}}
    result |= {"gate": {"passed": True, "reason": "a reason", "checks": checks}, "segments": segments}
    gap = {"metric": "auc", "value": 0.1, "low": 0.05, "high": 0.15}
    beside = {"metrics": {"auc": 0.8}, "differences": [gap], "verdict": "The candidate is better"}
    champion = beside | {"version": judged} if judged else {"verdict": "There was no champion yet"}
    (folder / "metrics").mkdir(exist_ok=True)
    (folder / "metrics/evaluation.json").write_text(json.dumps(result | {"champion": champion}))


def finish_all(folder: Path, step: str) -> str:
    """Run a step to its end and check that git, folders and MLflow then agree; what it returned."""

    def checked() -> str:
        text = STEPS[step]()
        check_state(*AFTER[step])
        return text

    return finish(folder, checked)


def check_state(*expected: str | None) -> None:
    """Check the versions of champion and challenger: what git pins, the folders hold, MLflow's aliases and the page say."""
    versions = [card.version if (card := roles.current(role)) else None for role in roles.ROLES]
    client = registry.connect(PROJECT)
    aliases = client.get_registered_model("kit").aliases
    named = [
        aliases.get(role) and client.get_model_version("kit", aliases[role]).tags["version"]
        for role in roles.ROLES
    ]
    assert versions == named == list(expected)
    page = (roles.MODELS.parent / "MODEL_CARD.md").read_text()
    other = f"The challenger is {expected[1]}." if expected[1] else "There is no challenger."
    assert page.startswith(f"# kit: model {expected[0]}\n") and other in page
    assert [(roles.MODELS / role).exists() for role in roles.ROLES] == [
        version is not None for version in expected
    ]


def import_once(folder: Path) -> None:
    """Let this process import what a step needs, by a model tracked in `folder`: MLflow and DVC take seconds a fork."""
    import dvc.api
    import mlflow.tracking.request_header.registry
    import networkx
    import scmrepo.git

    assert dvc.api and mlflow.tracking and networkx and scmrepo.git
    write_candidate(folder, "a", None)
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
            patch.delenv(name)
        patch.setattr(registry, "ROOT", folder)
        candidate = folder / "models/candidate"
        registry.log(PROJECT, CARD, {}, candidate)


def make_projects(origin: Path) -> None:
    """Three states of one project, each a folder: trained, retrained, challenged."""
    import_once(origin / "unused")
    folder = origin / "trained"
    write_candidate(folder, "a", None)
    (folder / "params.yaml").write_text(yaml.safe_dump(PARAMS))
    (folder / ".gitignore").write_text(
        "mlflow.db\nmlruns/\nmodels/candidate/\nmodels/champion/\nmodels/challenger/\n"
    )
    begin_history(folder)
    commit(folder)
    finish(folder, lambda: str(registry.connect(PROJECT)))  # MLflow's tables take a second
    retrained = shutil.copytree(folder, origin / "retrained", symlinks=True)
    assert finish(retrained, STEPS["register"]) == "kit version 1 (a) is champion"
    write_candidate(retrained, "b", "a")
    finish(retrained, STEPS["register"])
    commit(retrained)
    challenged = shutil.copytree(retrained, origin / "challenged", symlinks=True)
    assert finish(challenged, STEPS["challenge"]) == "Make b the challenger"
    commit(challenged)
