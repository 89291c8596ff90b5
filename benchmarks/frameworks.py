"""Trees against the network of PyTorch on the same rows: AUC, seconds, CPU seconds, memory. A line for a GPU where there is one.

    python benchmarks/frameworks.py PROJECT TORCH_PROJECT [ROWS ...]

Two baked projects of the example, the second one with `framework=torch`, and the Python of an environment that has torch. The
simulator makes ROWS transactions; both projects' `model.fit` get the same rows of train in a process of their own, one after
the other, and score the holdout.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

FIT = """
import json, resource, sys, time
import pandas as pd
from tabloop.metrics import auc
from tabloop.onnx_model import model_inputs
from tabloop.params import load
from fraud_detection.model import fit
params, data, device = load(), sys.argv[1], sys.argv[2]
settings = params.train | ({"device": device} if device else {})
schema, target = params.schema_, params.schema_.target.name
train, holdout = (pd.read_parquet(f"{data}/{part}.parquet") for part in ("train", "holdout"))
features, label = model_inputs(train, schema), train[target].to_numpy()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
wall, cpu = time.perf_counter(), time.process_time()
estimator = fit(features, label, schema, settings)
wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
score = estimator.predict_proba(model_inputs(holdout, schema))[:, 1]
card = sys.modules["torch"].cuda.max_memory_allocated() if device.startswith("cuda") else 0
print(json.dumps([len(train), auc(holdout[target].to_numpy(), score), wall, cpu, (peak - before) / 1024, card / 1e6]))
"""


def run(project: Path, *command: str) -> str:
    """The last line that a command in a project prints."""
    paths = os.pathsep.join(str(project / part) for part in ("src", "packages/tabloop/src"))
    environment = os.environ | {
        "PYTHONPATH": paths,
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "2"),
    }
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()[-1] if done.stdout else ""


def featurized(project: Path, rows: int) -> Path:
    """data/features of so many transactions."""
    params = yaml.safe_load((project / "params.yaml").read_text())
    params["data"]["simulator"].update(transactions=rows, users=max(200, rows // 50))
    (project / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    for stage in ("ingest", "validate", "featurize"):
        run(project, sys.executable, "-m", "tabloop", stage)
    return project / "data/features"


def main(trees: Path, torch: Path, sizes: list[int]) -> None:
    """Print the table."""
    found = run(
        torch, sys.executable, "-c", "import torch; print(torch.accelerator.current_accelerator(True) or '')"
    )
    fits = [("trees", trees, ""), ("torch, cpu", torch, "cpu")] + [(f"torch, {found}", torch, found)] * bool(
        found
    )
    print(
        "| transactions | model | rows of train | AUC | seconds | CPU | more memory, MB | of the GPU, MB | times the trees' CPU |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for size in sizes:
        data, first = featurized(trees, size), 0.0
        for name, project, device in fits:
            shutil.rmtree(project / ".checkpoints", ignore_errors=True)  # with one, nothing is left to train
            rows, area, wall, cpu, memory, card = json.loads(
                run(project, sys.executable, "-c", FIT, str(data), device)
            )
            first = first or cpu
            figures = f"{area:.4f} | {wall:.1f} | {cpu:.1f} | {memory:.0f} | {card:.0f} | {cpu / first:.1f} |"
            print(f"| {size:,} | {name} | {rows:,} | {figures}", flush=True)


if __name__ == "__main__":
    main(
        Path(sys.argv[1]).resolve(),
        Path(sys.argv[2]).resolve(),
        [int(size) for size in sys.argv[3:]] or [100_000, 1_000_000],
    )
