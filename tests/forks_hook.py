"""What a Python of an environment of the tests does first, by a .pth file, where $FORKS is set.

`tabloop`, `dvc` and `pytest`, however they are started, are then a fork of the program in forks.py. It gets this Python's
search path, so it has the packages and the project that this environment has, and the name of this Python.
"""

import os
import sys

_, *words = sys.orig_argv
argv = (
    ["python-m", *words[1:]]
    if words[:1] == ["-m"]
    else [word.rpartition(os.sep)[2] for word in words[:1]] + words[1:]
)
command = argv[argv[:1] == ["python-m"] :]
# The loop ends by a signal to its process group; a fork's is that of the program.
if command[:1] in (["tabloop"], ["dvc"], ["pytest"]) and command[1:2] != ["loop"]:
    client: dict = {"__name__": "forked"}
    with open(f"{os.path.dirname(__file__)}/forked/tabloop") as file:  # noqa: PTH120, PTH123 - pathlib takes time
        exec(file.read(), client)
    own = {"FORKS_PATH": os.pathsep.join(sys.path), "FORKS_PYTHON": sys.executable}
    if (status := client["run"](argv, os.environ | own)) is not None:
        client["end"](status)
