"""DVC's remote and run cache as workflows use them: DVC_REMOTE_URL and DVC_CREDENTIALS, on disk only while they are used."""

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from tabloop import actions, files, roles, rollout
from tabloop.cli import UserError, explained
from tabloop.params import ROOT

CONFIG, CACHE = ROOT / ".dvc/config.local", ROOT / ".dvc/cache"


def dvc(*arguments: str) -> None:
    """Run a DVC command in the project, by the DVC of this environment.

    Raises:
        UserError: it fails; DVC has said why.
    """
    if subprocess.run([sys.executable, "-m", "dvc", *arguments], cwd=ROOT).returncode:
        raise UserError(f"dvc {arguments[0]} failed: see the lines above")


@contextmanager
def configured(url: str) -> Iterator[None]:
    """Let DVC's remote be at `url`, with DVC_CREDENTIALS; afterwards .dvc/config.local is as it was.

    Raises:
        UserError: DVC_CREDENTIALS is no configuration.
    """
    from dvc.config import Config, ConfigError  # `dvc remote modify` would take half a second

    before = CONFIG.read_text("utf-8") if CONFIG.exists() else None
    try:
        if credentials := os.environ.get("DVC_CREDENTIALS"):
            files.write(CONFIG, credentials + "\n")
        what, at = "DVC_CREDENTIALS is not the text of a .dvc/config.local", str(CONFIG.parent)
        with explained(what, ConfigError), Config(at, at).edit("local") as config:
            config["remote"].setdefault("local", {})["url"] = url
        yield
    finally:
        CONFIG.unlink(missing_ok=True)
        if before is not None:
            files.write(CONFIG, before)


def fetch(targets: tuple[str, ...]) -> str:
    """Get data, models and the run cache, or these targets alone, from the remote; what was done.

    Without a remote a pinned champion that is not here is given up: the next candidate takes its place.

    Raises:
        UserError: the remote does not answer or refuses, or lacks one of the targets.
    """
    if url := os.environ.get("DVC_REMOTE_URL"):
        if not actions.untrusted():
            with configured(url):
                dvc("pull", *(targets or ("--run-cache", "--allow-missing")))
            return f"{', '.join(targets) or 'data, models and run cache'} fetched from {url}"
        why = "This pull request has no secrets, so `DVC_REMOTE_URL` is not used"
    else:
        why = "No `DVC_REMOTE_URL`"
    text = f"{why}: data and models are made here and are not kept."
    try:
        roles.current("champion")
    except UserError:
        text += " " + rollout.give_up("champion")
    return text


def push() -> str:
    """Send data, models and the run cache to the remote; what was done.

    Raises:
        UserError: the remote does not answer or refuses, or a pull request would change it.
    """
    url = os.environ.get("DVC_REMOTE_URL")
    if not url:
        return "No `DVC_REMOTE_URL`: nothing is kept."
    if actions.event_name() in ("pull_request", "merge_group"):
        raise UserError("a change that is not merged must not write to the DVC remote")
    with configured(url):
        dvc("push", "--run-cache")
    return f"data, models and run cache sent to {url}"


def pack(archive: Path) -> str:
    """Write the run cache and the candidate to an archive, by which another machine need not train it again.

    Raises:
        UserError: nothing is trained here.
    """
    lock = ROOT / "dvc.lock"
    stages = yaml.safe_load(lock.read_text("utf-8"))["stages"] if lock.exists() else {}
    if "train" not in stages:
        raise UserError("nothing is trained yet: run `make train`")
    (folder,) = (cached(out["md5"]) for out in stages["train"]["outs"])
    objects = [folder, *(cached(file["md5"]) for file in json.loads(folder.read_text("utf-8")))]
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for path in (*(CACHE / "runs").rglob("*"), *objects):
            file.write(path, path.relative_to(CACHE))
    return f"run cache and candidate -> {archive}"


def unpack(archive: Path) -> str:
    """Add what `pack` wrote to DVC's cache.

    Raises:
        UserError: the file is no such archive.
    """
    with explained(str(archive), zipfile.BadZipFile, OSError), zipfile.ZipFile(archive) as file:
        file.extractall(CACHE)
    return f"{archive} -> run cache and candidate"


def cached(md5: str) -> Path:
    """Where DVC's cache has the file of this hash."""
    return CACHE / "files/md5" / md5[:2] / md5[2:]
