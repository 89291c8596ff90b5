"""Refuse what cannot work as soon as it is answered: cookiecutter.json asks this filter after each group of questions."""

import keyword
import re
import sys
from typing import Any

from cookiecutter.utils import simple_filter

SHAPES = {
    "project_slug": (
        r"[a-z][a-z0-9]*(-[a-z0-9]+)*",
        "use lower-case letters, digits and single hyphens, a letter first",
    ),
    "package_name": (
        r"[a-z][a-z0-9_]*",
        "use lower-case letters, digits and underscores, a letter first, no keyword",
    ),
    "container_registry": (
        r"[a-z0-9][a-z0-9.:_-]*(/[a-z0-9][a-z0-9._-]*)*",
        "give it like ghcr.io or registry.acme.com/team, in lower case",
    ),
}


def problem(answers: dict[str, Any]) -> str | None:
    """What is wrong with the answers given so far, naming the one to correct; None if all can work."""
    for name in ("project_name", "description", "author", "email"):
        value = answers.get(name, "-")
        if not value.strip() or re.search(r'["\\\x00-\x1f{}]', value):
            return f"{name} {value!r}: must not be empty, nor hold quotes, backslashes, braces or line breaks"
    for name, (shape, rule) in SHAPES.items():
        value = answers.get(name)
        if value is not None and (not re.fullmatch(shape, value) or keyword.iskeyword(value)):
            return f"{name} {value!r}: {rule}"
    for name, more in (("project_slug", frozenset()), ("package_name", sys.stdlib_module_names)):
        value = answers.get(name, "")
        if value.replace("-", "_") in {*answers["_taken"], *more}:
            return f"{name} {value!r} is the name of a package that the project needs: choose another"
    return None


@simple_filter
def refuse(answers: dict[str, Any]) -> str:
    """Nothing, or the end of the bake, in one line and before anything is written."""
    if found := problem(answers):
        sys.exit(f"ml-template: {found}")
    return ""
