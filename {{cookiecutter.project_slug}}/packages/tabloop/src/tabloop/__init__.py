"""The machinery of a tabular machine-learning project: its stages, its service, its checks and its roles.

A project's own files call these modules; nothing here has to be edited. README.md beside this package lists them.
"""

import os

# onnxruntime, Feast and others report usage to their makers unless told not to, before they are imported.
os.environ.update(ORT_DISABLE_TELEMETRY="1", FEAST_USAGE="False", DO_NOT_TRACK="true")
# GCC's OpenMP, which scikit-learn has, lets a thread that waits spin: on cores that others need, a training takes many times
# the CPU seconds. It reads this when it is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# A git hook or an editor may point git at another repository than the one of the working directory.
for _name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_PREFIX"):
    os.environ.pop(_name, None)
