"""Refuse what cannot work, before anything is written."""

import json
import keyword
import re
import shlex
import sys

answers = json.loads(r"""{{ cookiecutter|tojson }}""")
TAKEN = answers["_taken"]


def problem() -> str | None:
    """What is wrong with the answers, naming the one to mend; None if all can work."""
    slug, package = answers["project_slug"], answers["package_name"]
    for name in ("project_name", "description", "author", "email"):
        if not answers[name].strip() or re.search(r'["\\\x00-\x1f{}]', answers[name]):
            return f"{name} {answers[name]!r}: must not be empty, nor hold quotes, backslashes, braces or line breaks"
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", slug):
        return f"project_slug {slug!r}: use lower-case letters, digits and single hyphens, a letter first"
    if not re.fullmatch(r"[a-z][a-z0-9_]*", package) or keyword.iskeyword(package):
        return f"package_name {package!r}: use lower-case letters, digits and underscores, a letter first, no keyword"
    for name, value, taken in (
        ("project_slug", slug, TAKEN),
        ("package_name", package, [*TAKEN, *sys.stdlib_module_names]),
    ):
        if value.replace("-", "_") in taken:
            return f"{name} {value!r} is the name of a package that the project needs: choose another"
    if not re.fullmatch(r"[a-z0-9][a-z0-9.:_-]*(/[a-z0-9][a-z0-9._-]*)*", answers["container_registry"]):
        return f"container_registry {answers['container_registry']!r}: give it like ghcr.io or registry.acme.com/team, in lower case"
    return None


def again(wrong: str) -> str:
    """The command that gives the same answers again, without a question, but for the one to mend."""
    given = {name: value for name, value in answers.items() if not name.startswith("_") and name != wrong}
    pairs = [f"{name}={value}" for name, value in given.items()]
    command = shlex.join(["cookiecutter", answers.get("_template", "TEMPLATE"), "--no-input", *pairs])
    return f"Nothing was written. Your other answers are kept in this command; fill in the last one:\n  {command} {wrong}="


if found := problem():
    sys.exit(f"ml-template: {found}\n{again(found.split()[0])}")
