"""Load for minutes: are there errors, does memory grow, is every answer in the log?

    uv run benchmarks/serving/endure.py demo/fraud-detection --seconds 300

Needs `make demo` and wrk. Prints the memory of service and log process as it goes.
"""

import argparse
import json
import os
import re
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path

import duckdb

URL = "http://127.0.0.1:8090"
CONNECTIONS = 64


def script(row: dict[str, object]) -> str:
    """What wrk sends: the example row, each time of another user, 5,000 in all."""
    body = json.dumps(row | {"user_id": "USER"}).replace("USER", "' .. n % 5000 .. '")
    return f"""local n = 0
wrk.method = "POST"
request = function()
  n = n + 1
  return wrk.format(nil, nil, nil, '{body}')
end"""


def memory(pid: int) -> dict[int, float]:
    """MB resident, of a process and its children."""
    children = map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
    pages = {p: int(Path(f"/proc/{p}/statm").read_text().split()[1]) for p in (pid, *children)}
    return {p: n * os.sysconf("SC_PAGE_SIZE") / 1e6 for p, n in pages.items()}


def main(project: Path, seconds: int) -> None:
    card = json.loads((project / "models/champion/model.json").read_text())
    with tempfile.TemporaryDirectory() as folder:
        lua = Path(folder, "row.lua")
        lua.write_text(script(card["example"]))
        env = os.environ | {"PORT": "8090", "PREDICTION_LOG": folder, "PREDICTION_LOG_SECONDS": "1"}
        package = project.name.replace("-", "_")
        command = [str(project / ".venv/bin/python"), "-m", f"{package}.app"]
        with subprocess.Popen(command, cwd=project, env=env, stderr=subprocess.DEVNULL) as service:
            time.sleep(3)
            wrk = [
                "wrk",
                "-t1",
                f"-c{CONNECTIONS}",
                f"-d{seconds}",
                "--latency",
                "-s",
                str(lua),
                f"{URL}/predict",
            ]
            load = subprocess.Popen(wrk, stdout=subprocess.PIPE, text=True)
            began = time.monotonic()
            while load.poll() is None:
                time.sleep(min(10, seconds / 5))
                used = memory(service.pid)
                print(
                    f"{time.monotonic() - began:5.0f} s  {' + '.join(f'{mb:.0f}' for mb in used.values())} MB",
                    flush=True,
                )
            said = load.communicate()[0]
            metrics = urllib.request.urlopen(f"{URL}/metrics").read().decode()
            service.terminate()
        answered = sum(float(n) for n in re.findall(r"^predictions_total{.*} (\S+)", metrics, re.MULTILINE))
        rows = duckdb.read_parquet(f"{folder}/predictions/*/*.parquet")
        logged = rows.aggregate("count(DISTINCT prediction_id)").fetchall()[0][0]
    print(said)
    print(
        f"answered {answered:,.0f}, logged {logged:,}; refused or failed: {'Non-2xx' in said or 'Socket errors' in said}"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("project", type=Path)
    parser.add_argument("--seconds", type=int, default=300)
    arguments = parser.parse_args()
    main(arguments.project.resolve(), arguments.seconds)
