"""`engine: ray` on a real cluster: a head without cores and two workers, each with processes of its own.

They are started by Ray's `cluster_utils.Cluster`, which runs what `ray start` runs.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from conftest import wait_for
from kit.conftest import PARAMS, clean, orders, project, tabloop  # noqa: F401

Tabloop = Callable[..., "subprocess.CompletedProcess[str]"]
MODEL = """
import time
from pathlib import Path
from sklearn.linear_model import LogisticRegression
def fit(features, target, schema, params):
    time.sleep(params["pause"])
    return LogisticRegression(C=params["C"]).fit(features[["amount"]], target)
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0"}
    from ray.cluster_utils import Cluster

    small = {"object_store_memory": 80_000_000, "include_dashboard": False}
    started = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **small})
    for _ in range(2):
        started.add_node(num_cpus=1, **small)
    before = processes(started)
    yield started
    started.shutdown()
    assert wait_for(lambda: not any(process.is_running() and process.status() != "zombie" for process in before))
