"""Begin the project's history, and say what comes next."""

import os
import shutil
import subprocess
import sys

AUTHOR, EMAIL = "{{ cookiecutter.author }}", "{{ cookiecutter.email }}"


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
begin_history()
if around and not ignored:
    print(
        f"\nNote: this is a repository of its own inside the repository {around}: move it out, or ignore it there."
    )
print(
    """
{{ cookiecutter.project_slug }} is ready. Next:

  cd {{ cookiecutter.project_slug }}
  make setup    # its environment, once
  make train    # data to gated model; then `make help`
"""
)
