"""Name the template in the workflows, begin the project's history, pin images and packages, say what comes next."""

import json
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

AUTHOR, EMAIL = "{{ cookiecutter.author }}", "{{ cookiecutter.email }}"
# What the user gave to cookiecutter, and where that lies on this machine. cruft does not say where: it compares two bakes
# file by file, and keeps the template's commit itself.
TEMPLATE, CLONE = r"""{{ cookiecutter._template }}""", r"""{{ cookiecutter.get('_repo_dir', '') }}"""
ANSWERS = r"""{{ cookiecutter|tojson }}"""
PLACEHOLDER = "{{ cookiecutter._template_repository }}"
KINDS = """
    oci.image.index.v1 docker.distribution.manifest.list.v2
    oci.image.manifest.v1 docker.distribution.manifest.v2
"""
MANIFESTS = ", ".join(f"application/vnd.{kind}+json" for kind in KINDS.split())


def environment() -> dict[str, str]:
    """The environment without the variables by which git, running a hook, tells its children of its repository."""
    names = subprocess.run(
        ["git", "rev-parse", "--local-env-vars"], capture_output=True, encoding="utf-8"
    ).stdout.split()
    return {name: value for name, value in os.environ.items() if name not in names}


def git(*arguments: str, check: bool = True) -> str:
    """Run git in the new project; its output, empty where it failed."""
    done = subprocess.run(["git", *arguments], capture_output=True, encoding="utf-8", env=environment())
    if check and done.returncode:
        sys.exit(f"ml-template: git {arguments[0]}: {done.stderr.strip()}")
    return "" if done.returncode else done.stdout.strip()


def template() -> tuple[str, str, str]:
    """The template's address without a password, its commit and its version; the last two empty if it has no history."""
    # This hook runs in the new project, where `.` is another folder.
    clone = Path(os.environ.get("PWD", "/"), CLONE or "/")
    top = git("-C", str(clone), "rev-parse", "--show-toplevel", check=False)
    if not top or not Path(top).samefile(clone):  # a copy, perhaps one that lies in another repository
        return TEMPLATE, "", ""
    remote = git("-C", str(clone), "remote", "get-url", "origin", check=False)
    commit = git("-C", str(clone), "rev-parse", "--verify", "HEAD", check=False)
    version = git("-C", str(clone), "describe", "--tags", "--always", "--dirty", check=False)
    return re.sub(r"(?<=://)[^/@]+@", "", remote) or str(clone.resolve()), commit, version


def repository_of(*addresses: str) -> str | None:
    """OWNER/NAME of the template's repository, by the first address that says it; None if none does."""
    for address in addresses:
        short = re.fullmatch(r"(?:gh|gl|bb):([\w.-]+/[\w.-]+)", address)
        long = re.match(r"(?:\w+://(?:[^/]+@)?|[^/@]+@)[^/:]+(?::\d+/|[/:])([\w.-]+/[\w.-]+)", address)
        if found := short or long:
            return found[1].removesuffix(".git")
    return None


def name_template(repository: str) -> None:
    """Write the template's repository wherever the bake has the placeholder."""
    for path in Path().rglob("*"):
        if path.is_file() and ".git" not in path.parts and path.suffix in (".yml", ".yaml", ".md", ".toml"):
            text = path.read_text(encoding="utf-8")
            if PLACEHOLDER in text:
                path.write_text(text.replace(PLACEHOLDER, repository), encoding="utf-8")


def digest(image: str) -> str:
    """The digest that an image's tag has in its registry now, asked without a login.

    Raises:
        OSError, ValueError, KeyError, HTTPException: the registry does not answer, or not as registries do.
    """
    name, tag = image.rsplit(":", 1)
    host, _, path = name.partition("/")
    if "." not in host and ":" not in host:  # Docker Hub's
        host, path = "registry-1.docker.io", name if path else f"library/{name}"
    plain = host.startswith(("127.0.0.1:", "localhost:"))  # as Docker does
    address = f"{'http' if plain else 'https'}://{host}/v2/{path}/manifests/{tag}"
    request = Request(address, method="HEAD", headers={"Accept": MANIFESTS})
    try:
        answer = urlopen(request, timeout=5)
    except HTTPError as refused:
        asked = dict(re.findall(r'(\w+)="([^"]*)"', refused.headers.get("WWW-Authenticate", "")))
        with urlopen(f"{asked.pop('realm')}?{urlencode(asked)}", timeout=5) as given:
            request.add_header("Authorization", f"Bearer {json.load(given)['token']}")
        answer = urlopen(request, timeout=5)
    if not re.fullmatch("sha256:[0-9a-f]{64}", found := answer.headers["Docker-Content-Digest"] or ""):
        raise ValueError(f"{address}: no digest")
    return str(found)


def pin_images() -> bool:
    """Write the digests of the base images into Dockerfile, beside their tags; False if a registry does not answer."""
    file = Path("Dockerfile")
    text = file.read_text(encoding="utf-8")
    try:
        pinned = re.sub(r"^FROM (\S+:\S+)", lambda at: f"{at[0]}@{digest(at[1])}", text, flags=re.MULTILINE)
    except (OSError, ValueError, KeyError, HTTPException):
        return False
    file.write_text(pinned, encoding="utf-8")
    return True


def lock() -> str:
    """Pin every dependency in uv.lock, which the first commit then has; why that could not be done, empty if it was."""
    uv = shutil.which("uv") or os.environ.get("UV")
    if not uv:
        return "uv is not installed"
    try:
        done = subprocess.run([uv, "lock", "--quiet"], capture_output=True, timeout=60, env=environment())
    except (OSError, subprocess.TimeoutExpired):
        return "uv did not end within a minute"
    said = [line.strip() for line in done.stderr.decode(errors="replace").splitlines() if line.strip()]
    return "; ".join(re.sub("^(error|cause): ", "", line) for line in said[:2]) if done.returncode else ""


def record(address: str, commit: str, version: str) -> None:
    """Write .template.json: from what `tabloop update` bakes the next version."""
    given = {name: value for name, value in json.loads(ANSWERS).items() if not name.startswith("_")}
    known = {"template": address, "commit": commit, "version": version, "answers": given}
    text = json.dumps(known, indent=2, ensure_ascii=False) + "\n"
    Path(".template.json").write_text(text, encoding="utf-8")


def commit(message: str) -> None:
    """Commit all that changed, by whoever git knows, else by the author given."""
    git("-c", f"core.excludesFile={os.devnull}", "add", "--all")  # else a global gitignore takes files away
    known = git("config", "user.name", check=False) and git("config", "user.email", check=False)
    who = [] if known else ["-c", f"user.name={AUTHOR}", "-c", f"user.email={EMAIL}"]
    if git("status", "--porcelain"):
        git(*who, "-c", "commit.gpgsign=false", "commit", "--quiet", "--no-verify", "-m", message)


def begin_history() -> None:
    """The first commit, on `main`. The branch `template` is there, too: updates are merged from it."""
    git("init", "--quiet", "--initial-branch=main")
    commit("Start from ml-template")
    git("branch", "template")
    git("clean", "-ffdXq")  # bytecode and caches that lay in the template's packages/


def main() -> None:
    if not shutil.which("git"):
        sys.exit("ml-template: git is missing: install it, the project lives in its history")
    around = git("rev-parse", "--show-toplevel", check=False)
    ignored = git("check-ignore", ".", check=False)
    address, *version = template()
    if repository := repository_of(address, TEMPLATE):
        name_template(repository)
    if not CLONE:
        print("\nNext: git init, git add --all, git commit; then make setup.")
        return
    record(address, *version)
    begin_history()
    if "TABLOOP_UPDATE" in os.environ:  # it merges the first commit only
        return
    with ThreadPoolExecutor(1) as pool:  # both wait for a network
        locking = pool.submit(lock)
        pinned = pin_images()
        unlocked = locking.result()
    commit("Pin base images and packages")
    if around and not ignored:
        print(
            f"\nNote: this is a repository of its own inside the repository {around}: move it out, or ignore it there."
        )
    print(f"\nIts workflows call {repository or PLACEHOLDER}/.github/workflows at v1.")
    if not repository:
        print(
            "The template has no git remote that says where it lives. Name it before the first push:\n"
            f"  replace {PLACEHOLDER} by OWNER/NAME in the files that this lists: git grep --files-with-matches {PLACEHOLDER}"
        )
    print(NEXT)
    if unlocked:
        print(
            f"`make setup` makes uv.lock, which could not be made here ({unlocked}): commit it before the first push."
        )
    if not pinned:
        print(
            "The base images have no digest in Dockerfile, as a registry does not answer here: `make pin` pins them."
        )


NEXT = """
{{ cookiecutter.project_slug }} is ready. Next:

  cd {{ cookiecutter.project_slug }}
  make setup    # its environment, once
  make train    # data to gated model; then `make help`
"""

if __name__ == "__main__":
    main()
