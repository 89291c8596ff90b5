"""Begin the project's history, and say what comes next."""

import shutil
import subprocess
import sys

AUTHOR, EMAIL = "{{ cookiecutter.author }}", "{{ cookiecutter.email }}"


def git(*arguments: str) -> str:
    """Run git in the new project; its output."""
    done = subprocess.run(["git", *arguments], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"ml-template: git {arguments[0]}: {done.stderr.strip()}")
    return done.stdout.strip()


def begin_history() -> None:
    """First commit, on `main`, by whoever git knows, else by the author given."""
    git("init", "--quiet", "--initial-branch=main")
    git("add", "--all")
    known = all(
        subprocess.run(["git", "config", key], capture_output=True).stdout
        for key in ("user.name", "user.email")
    )
    identity = [] if known else ["-c", f"user.name={AUTHOR}", "-c", f"user.email={EMAIL}"]
    git(
        *identity,
        "-c",
        "commit.gpgsign=false",
        "commit",
        "--quiet",
        "--no-verify",
        "--message",
        "Start from ml-template",
    )


if not shutil.which("git"):
    sys.exit("ml-template: git is missing: install it, the project lives in its history")
begin_history()
print(
    """
{{ cookiecutter.project_slug }} is ready. Next:

  cd {{ cookiecutter.project_slug }}
  make setup    # its environment, once
  make train    # data to gated model; then `make help`
"""
)
