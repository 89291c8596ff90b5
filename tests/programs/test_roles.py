"""What git pins, what the folders hold, and which candidate may go on."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from kit.conftest import PARAMS, clean
from kit.test_card import CARD, METRICS
from tabloop import roles
from tabloop.cli import UserError
from tabloop.params import Params

from .conftest import Tabloop, begin_history


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """models/ of a project in which git and DVC are at work."""
    for name, path in {"ROOT": ".", "MODELS": "models", "CANDIDATE": "models/candidate"}.items():
        monkeypatch.setattr(roles, name, tmp_path / path)
    monkeypatch.setattr(roles, "EVALUATION", tmp_path / "metrics/evaluation.json")
    begin_history(tmp_path)
    (tmp_path / "metrics").mkdir()
    write_model(tmp_path / "models/candidate", "a")
    return tmp_path / "models"


def write_model(folder: Path, version: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.onnx").write_bytes(version.encode())
    CARD.model_copy(update={"version": version}).write(folder)


def evaluated(models: Path, candidate: str, champion: dict[str, Any], passed: bool = True) -> None:
    evaluation = METRICS | {"version": candidate, "threshold": 0.5, "champion": champion}
    evaluation |= {"gate": {"passed": passed, "reason": "a reason"}}
    (models.parent / "metrics/evaluation.json").write_text(json.dumps(evaluation))


def test_a_folders_hash_is_dvcs(models: Path) -> None:
    folder = models / "champion"
    for name in ("b", "a-b", "a/b", "a/ü/c", "a.b"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    subprocess.run(["dvc", "add", "--quiet", "models/champion"], cwd=models.parent, env=clean(), check=True)
    written = yaml.safe_load((models / "champion.dvc").read_text())["outs"][0]["md5"]
    assert roles.pin("champion") == written == roles.folder_hash(folder)


def test_a_role_is_what_git_pins(models: Path) -> None:
    write_model(models / "champion", "left over")
    assert roles.current("champion") is None
    with pytest.raises(UserError, match="there is no champion: `make train` makes one"):
        roles.required("champion")
    roles.install("champion", CARD)
    assert roles.current("champion") == CARD
    write_model(models / "champion", "another")
    with pytest.raises(UserError, match=r"models/champion does not hold.*dvc pull.*rollout drop champion"):
        roles.current("champion")
    shutil.rmtree(models / "champion")
    with pytest.raises(UserError, match=r"models/champion does not hold.*dvc pull.*rollout drop champion"):
        roles.required("champion")
    (models / "champion.dvc").write_text("<<<<<<< a merge conflict\n")
    with pytest.raises(UserError, match=r"models/champion\.dvc is not a file of DVC's"):
        roles.current("champion")


def test_a_candidate_goes_on_only_if_it_was_judged_against_this_champion(models: Path) -> None:
    with pytest.raises(UserError, match="run `make train`"):
        roles.candidate()
    for version, passed in (("a", False), ("b", True)):
        evaluated(models, version, {}, passed)
        with pytest.raises(UserError, match="this candidate failed the gate"):
            roles.candidate()
    evaluated(models, "a", {"verdict": "none yet"})
    card, evaluation = roles.candidate()
    assert (card.version, card.threshold, evaluation["auc"]) == ("a", 0.5, METRICS["auc"])
    roles.install("champion", card.model_copy(update={"version": "c"}))
    for champion, judged in (({}, "no champion"), ({"version": "b"}, "b")):
        evaluated(models, "a", champion)
        with pytest.raises(UserError, match=f"judged against {judged}, and c is the champion now"):
            roles.candidate()
    evaluated(models, "a", {"version": "c"})
    assert roles.candidate()[0].version == "a"


def test_a_clone_without_a_remote_is_told_how_to_go_on(models: Path, tabloop: Tabloop) -> None:
    root = models.parent
    (root / "params.yaml").write_text(yaml.safe_dump(PARAMS))
    roles.install("champion", CARD)
    shutil.rmtree(models / "champion")
    evaluated(models, "a", {"verdict": "none yet"})
    texts = {tabloop(root, stage, code=1).stderr.partition(": ")[2] for stage in ("champion", "register")}
    assert texts == {f"{roles.not_here('champion')}\n"}
    assert "models/champion.dvc is removed" in tabloop(root, "rollout", "drop", "champion").stdout
    assert tabloop(root, "champion").stdout == "champion: there is none yet\n"
    assert json.loads((root / "metrics/champion.json").read_text()) == {"version": None}
    again = tabloop(root, "rollout", "drop", "champion", code=1).stderr
    assert again == "rollout: there is no champion: models/champion.dvc is missing\n"


def test_evaluate_is_told_of_another_champion_only(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tabloop import rollout

    monkeypatch.setattr(rollout, "CHAMPION", models.parent / "metrics/champion.json")

    def noted() -> Any:
        rollout.note_champion(Params.model_validate(PARAMS))
        return json.loads(rollout.CHAMPION.read_text())["version"]

    assert noted() is None
    roles.install("champion", CARD.model_copy(update={"version": "a"}))
    assert noted() is None  # the candidate itself: its registration changes nothing
    write_model(models / "candidate", "b")
    assert noted() == "a"
