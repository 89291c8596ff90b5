"""Let the workflows call the template that this bake came from, begin the project's history, say what comes next."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

AUTHOR, EMAIL = "{{ cookiecutter.author }}", "{{ cookiecutter.email }}"
# What the user gave to cookiecutter, and where that lies on this machine.
TEMPLATE, CLONE = r"""{{ cookiecutter._template }}""", r"""{{ cookiecutter._repo_dir }}"""
PLACEHOLDER = "{{ cookiecutter._template_repository }}"


def environment() -> dict[str, str]:
    """The environment without the variables by which git, running a hook, tells its children of its repository."""
    names = subprocess.run(
        ["git", "rev-parse", "--local-env-vars"], capture_output=True, text=True
    ).stdout.split()
    return {name: value for name, value in os.environ.items() if name not in names}


def git(*arguments: str, check: bool = True) -> str:
    """Run git in the new project; its output, empty where it failed."""
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, env=environment())
    if check and done.returncode:
        sys.exit(f"ml-template: git {arguments[0]}: {done.stderr.strip()}")
    return "" if done.returncode else done.stdout.strip()


def template_repository() -> str | None:
    """OWNER/NAME of the template's repository, by its git remote or by what the user gave; None if neither says it."""
    # This hook runs in the new project, where `.` is another folder.
    clone = Path(os.environ.get("PWD", "/"), CLONE)
    top = git("-C", str(clone), "rev-parse", "--show-toplevel", check=False)
    own = top and Path(top).samefile(clone)  # not a copy that lies in another repository
    remote = git("-C", str(clone), "remote", "get-url", "origin", check=False) if own else ""
    for address in (remote, TEMPLATE):
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


def lock() -> bool:
    """Pin every dependency in uv.lock, which the first commit then has; False where uv or the network is missing."""
    uv = shutil.which("uv") or os.environ.get("UV")
    if not uv:
        return False
    try:
        done = subprocess.run([uv, "lock", "--quiet"], capture_output=True, timeout=60, env=environment())
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def begin_history() -> None:
    """First commit, on `main`, by whoever git knows, else by the author given."""
    git("init", "--quiet", "--initial-branch=main")
    git("add", "--all")
    known = git("config", "user.name", check=False) and git("config", "user.email", check=False)
    who = [] if known else ["-c", f"user.name={AUTHOR}", "-c", f"user.email={EMAIL}"]
    git(
        *who, "-c", "commit.gpgsign=false", "commit", "--quiet", "--no-verify", "-m", "Start from ml-template"
    )
    git("clean", "-ffdXq")  # bytecode and caches that lay in the template's packages/


if not shutil.which("git"):
    sys.exit("ml-template: git is missing: install it, the project lives in its history")
around = git("rev-parse", "--show-toplevel", check=False)
ignored = git("check-ignore", ".", check=False)
repository = template_repository()
if repository:
    name_template(repository)
locked = lock()
begin_history()
if around and not ignored:
    print(
        f"\nNote: this is a repository of its own inside the repository {around}: move it out, or ignore it there."
    )
print(f"\nIts workflows call {repository or PLACEHOLDER}/.github/workflows at v1.")
if not repository:
    print(
        "The template has no git remote that says where it lives. Name it before the first push:\n"
        f"  grep -rl {PLACEHOLDER} . --exclude-dir=.git | xargs sed -i s#{PLACEHOLDER}#OWNER/NAME#g"
    )
print(
    """
{{ cookiecutter.project_slug }} is ready. Next:

  cd {{ cookiecutter.project_slug }}
  make setup    # its environment, once
  make train    # data to gated model; then `make help`
"""
)
if not locked:
    print(
        "`make setup` makes uv.lock, for which uv or the network is missing here: commit it before the first push."
    )
