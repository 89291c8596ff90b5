"""The fixtures of tests/kit, and a folder for MLflow."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from kit.conftest import PARAMS, forks, project, tabloop
from tabloop import registry

__all__ = ["forks", "project", "tabloop"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A project's folder, in which this process's MLflow works."""
    folder, before = tmp_path_factory.mktemp("registry"), Path.cwd()
    (folder / "params.yaml").write_text(yaml.safe_dump(PARAMS))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "ROOT", folder)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        yield folder
    os.chdir(before)
