"""The alerts by a real Prometheus: each fires and resolves, on series made up and on a service with real faults."""

import contextlib
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from itertools import cycle
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
import pytest
import yaml
from conftest import Project, answers, clean, free_port, wait_for, within
from onnx import helper, numpy_helper
from prometheus_client import Counter, Gauge, Histogram
from prometheus_server import IMAGE, prometheus_server, promtool
from tabloop.serving import telemetry
from test_container import compose

JOB = "fraud-detection"
RULES, DASHBOARD = "deploy/monitoring/alerts.yml", "deploy/monitoring/dashboard.json"
KEY = {"user_id": "u000001", "amount": 12.5, "merchant_category": "fuel", "channel": "online"}
NAN_ABOVE = 100_000  # an amount for which the champion of these tests answers NaN
FASTER = 200  # so much shorter are the rules' windows and waits in the test with a real service: 5m is 1.5 s


def rules(project: Path) -> list[dict[str, Any]]:
    groups = yaml.safe_load((project / RULES).read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def alerts(project: Path) -> dict[str, dict[str, Any]]:
    return {rule["alert"]: rule for rule in rules(project) if "alert" in rule}


def dashboard(project: Path) -> dict[str, Any]:
    return dict(json.loads((project / DASHBOARD).read_text()))


def queries(project: Path) -> list[str]:
    """All of PromQL in the rules and the dashboard."""
    panels = dashboard(project)["panels"]
    return [rule["expr"] for rule in rules(project)] + [t["expr"] for p in panels for t in p["targets"]]


def monitoring(project: Path, **variables: str) -> dict[str, Any]:
    """What `make monitor` gives to Compose."""
    shown = subprocess.run(
        ["make", "--no-print-directory", "--dry-run", "monitor", f"COMPOSE={compose()}"],
        cwd=project,
        env=clean(),
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    command = shown[shown.index("IMAGE=") :].replace("up prometheus grafana", "config --format json")
    command = command.replace('TARGET=""', f'TARGET="{variables.get("TARGET", "")}"')
    done = subprocess.run(command, shell=True, cwd=project, env=clean(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_promtool_accepts_the_rules_and_every_query_of_the_dashboard(baked: Path, tmp_path: Path) -> None:
    shutil.copy(baked / RULES, tmp_path)
    recorded = [
        {"record": f"panel:{at}", "expr": re.sub(r"\$__rate_interval", "1m", query)}
        for at, query in enumerate(queries(baked))
    ]
    (tmp_path / "panels.yml").write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": recorded}]}))
    found = promtool(tmp_path, "check", "rules", "alerts.yml", "panels.yml")
    assert found.count("SUCCESS") == 2


def test_every_metric_of_the_rules_and_the_dashboard_exists(baked: Path) -> None:
    known = {rule["record"] for rule in rules(baked) if "record" in rule} | {"up"}
    for metric in vars(telemetry).values():
        if isinstance(metric, Counter | Gauge | Histogram):
            known |= {sample for family in metric.describe() for sample in names(family.name, family.type)}
    for query in queries(baked):
        used = set(re.findall(r"([a-z][\w:]*)\{", query))
        assert used and used <= known, query
    le = {
        float(bound)
        for bound in re.findall(r'prediction_seconds_bucket\{[^}]*le="([\d.]+)"', str(rules(baked)))
    }
    assert le and le <= set(telemetry._BOUNDS)
    ages = set(re.findall(r'online_feature_age_seconds_bucket\{[^}]*le="([\d.]+)"', str(rules(baked))))
    assert ages and ages <= {str(float(age)) for age in telemetry._AGES}  # a label is a text


def names(family: str, kind: str) -> set[str]:
    """The names of a family's samples."""
    return {
        "counter": {f"{family}_total"},
        "histogram": {f"{family}_{part}" for part in ("bucket", "count", "sum")},
    }.get(kind, {family})


def test_every_alert_says_what_to_do_by_commands_that_exist(baked: Path) -> None:
    targets = " ".join(re.findall(r"^\.PHONY: (.+)$", (baked / "Makefile").read_text(), re.MULTILINE)).split()
    app = (baked / "packages/tabloop/src/tabloop/serving/app.py").read_text()
    for name, alert in alerts(baked).items():
        assert alert["labels"]["severity"] in ("page", "ticket"), name
        assert alert["annotations"]["summary"], name
        commands = re.findall(r"`([^`]+)`", alert["annotations"]["description"])
        assert commands, name
        for command in commands:
            program, *arguments = command.split(maxsplit=1)
            if program == "make":
                assert arguments[0].split()[0] in targets, command
            elif program == "curl":
                assert f'"/{arguments[0].split("/", 1)[1]}"' in app, command
            else:
                assert program in ("kubectl", "df"), command


def test_make_monitor_is_a_valid_compose_project_that_a_deploy_does_not_see(
    baked: Path, tmp_path: Path
) -> None:
    found = monitoring(baked)
    assert found["name"] == f"{JOB}-monitoring"
    assert found["services"]["prometheus"]["image"] == IMAGE
    for service in ("prometheus", "grafana"):
        assert re.search(r":v?\d+\.\d+\.\d+$", found["services"][service]["image"])
        assert all(port["host_ip"] == "127.0.0.1" for port in found["services"][service]["ports"])
    for name in ("alerts", "dashboard"):
        assert Path(found["configs"][name]["file"]).is_file()
    (tmp_path / "alerts.yml").write_text((baked / RULES).read_text())
    text = found["configs"]["prometheus"]["content"].replace("/etc/prometheus/", "")
    assert "host.docker.internal:8000" in text
    (tmp_path / "prometheus.yml").write_text(text)
    assert "23 rules found" in promtool(tmp_path, "check", "config", "prometheus.yml")
    (scraped,) = yaml.safe_load(text)["scrape_configs"]
    assert {job for query in queries(baked) for job in re.findall(r'job="([^"]+)"', query)} == {JOB}
    assert scraped["job_name"] == JOB
    for name in ("datasource", "dashboards"):
        assert yaml.safe_load(found["configs"][name]["content"])["apiVersion"] == 1
    files = ["--project-directory", "deploy/staging", "--file", "deploy/compose.yaml"]
    command = [*compose().split(), *files, "--env-file", "deploy/staging/release.env", "config"]
    deployed = subprocess.run(command, cwd=baked, env=clean(), capture_output=True, text=True, check=True)
    assert set(yaml.safe_load(deployed.stdout)) == {"name", "services", "networks", "volumes"}
    assert set(yaml.safe_load(deployed.stdout)["services"]) == {"service"}


# Of each alert: series, at first bad, then good. promtool's notation: `0+3x60` grows by 3 in each of 60 minutes.
DAY = 1440
ANSWERS = 'responses_total{status="200"}'
FAILURES = 'responses_total{status="500"}'
IN_TIME, ALL_ROWS = 'prediction_seconds_bucket{le="0.1"}', "prediction_seconds_count"
BATCHES = "batch_seconds_count"
LOOKED_UP, FRESH = "online_feature_age_seconds_count", 'online_feature_age_seconds_bucket{le="259200.0"}'


@dataclass
class Story:
    """The series of an alert's test, the minutes when it fires, and those when it does not."""

    series: dict[str, str]
    fires: list[int]
    quiet: list[int]
    step: int = 1  # minutes between samples


MADE_UP = {
    # 20 failures in 1,000 responses: 20 times what the objective allows.
    "AvailabilityBurnsFast": Story(
        {ANSWERS: "0+980x60 58800+1000x60", FAILURES: "0+20x60 1200+0x60"}, [20, 60], [0, 100, 120]
    ),
    "AvailabilityBurnsSlowly": Story(
        {ANSWERS: "0+29940x144 4311360+30000x288", FAILURES: "0+60x144 8640+0x288"},
        [2 * DAY],
        [30, 5 * DAY, 8 * DAY],
        30,
    ),
    "LatencyBurnsFast": Story(
        {ALL_ROWS: "0+1000x120", IN_TIME: "0+700x60 42000+1000x60"}, [20, 60], [0, 100, 120]
    ),
    "LatencyBurnsSlowly": Story(
        {ALL_ROWS: "0+1000x432", IN_TIME: "0+980x144 141120+1000x288"},
        [2 * DAY],
        [30, 5 * DAY, 8 * DAY],
        30,
    ),
    "ServiceDown": Story({"up": "1x10 0x10 1x10"}, [15, 20], [5, 25]),
    "NotReady": Story({"service_ready": "1x10 0x10 1x10"}, [15, 20], [5, 25]),
    "ChampionFails": Story({"unscored_rows_total": "0x10 1+1x10 11x20"}, [13, 20], [5, 30]),
    "StoreMissing": Story(
        {
            'online_store_errors_total{reason="gone"}': "0+1x20 20x20",
            'online_store_errors_total{reason="resting"}': "0+9x20 180x20",
            ALL_ROWS: "0+10x40",
            BATCHES: "0+5x40",
        },
        [15, 20],
        [2, 30],
    ),
    "StoreStale": Story(
        {
            LOOKED_UP + '{view="a"}': "0+10x240",
            FRESH.replace("{", '{view="a",'): "0x120 0+1x120",
            LOOKED_UP + '{view="b"}': "0+10x240",
            FRESH.replace("{", '{view="b",'): "0x240",
        },
        [60, 120],
        [10, 130, 240],
    ),
    "LogFailing": Story(
        {"prediction_log_errors_total": "0+1x20 20x40", "prediction_log_lag_seconds": "0x60"},
        [15, 20],
        [3, 40],
    ),
    "LogDropping": Story(
        {'prediction_log_rows_total{outcome="dropped"}': "0x5 5+5x5 30x30"}, [10, 15], [4, 30]
    ),
    "ModelTooOld": Story(
        {'model_newest_row_timestamp_seconds{variant="champion"}': "-7776000x150 0x60"}, [90, 140], [30, 200]
    ),
    "DriftNotChecked": Story(
        {"drift_checked_timestamp_seconds": "0x144 259200x40"},
        [2 * DAY + 30, 3 * DAY],
        [DAY, 3 * DAY + 60],
        30,
    ),
}
WAITS = {  # the same alerts by another way
    "LogFailing": Story(
        {"prediction_log_errors_total": "0x60", "prediction_log_lag_seconds": "0+60x20 0x40"}, [20], [5, 40]
    ),
    "ServiceDown": Story({}, [10], []),
    "StoreMissing": Story(
        {'online_store_errors_total{reason="locked"}': "0+1x60", ALL_ROWS: "0+1000x60", BATCHES: "0x60"},
        [],
        [20, 60],
    ),
    "AvailabilityBurnsFast": Story({ANSWERS: "0+9950x60", FAILURES: "0+50x60"}, [], [20, 60]),
    # A check each night, a restart after 20 hours: never an alert.
    "DriftNotChecked": Story(
        {"drift_checked_timestamp_seconds": "0x40 72000x8 0x1 72000x40 158400x60"},
        [],
        [600, 1470, 2 * DAY, 3 * DAY],
        30,
    ),
}


def test_each_alert_fires_and_resolves_over_its_whole_windows(baked: Path, tmp_path: Path) -> None:
    shutil.copy(baked / RULES, tmp_path)
    assert MADE_UP.keys() == alerts(baked).keys()
    stories = [*MADE_UP.items(), *WAITS.items()]
    for step in {story.step for _, story in stories}:
        tests = []
        for name, story in stories:
            if story.step == step:
                series = (
                    story.series
                    if "up" in story.series or not story.series
                    else {"up": "1x500"} | story.series
                )
                labelled = {
                    re.sub(r"^(\w+)(?:\{(.*)\})?$", rf'\1{{job="{JOB}", instance="a:1", \2}}', n): v
                    for n, v in series.items()
                }
                count = f'count(ALERTS{{alertname="{name}", alertstate="firing"}}) or vector(0)'
                expected = [(at, 1) for at in story.fires] + [(at, 0) for at in story.quiet]
                tests.append(
                    {
                        "name": name,
                        "interval": f"{step}m",
                        "input_series": [
                            {"series": n.replace(", }", "}"), "values": v} for n, v in labelled.items()
                        ],
                        "promql_expr_test": [
                            {
                                "expr": count,
                                "eval_time": f"{at}m",
                                "exp_samples": [{"labels": "{}", "value": value}],
                            }
                            for at, value in expected
                        ],
                    }
                )
        made = {"rule_files": ["alerts.yml"], "evaluation_interval": f"{step}m", "tests": tests}
        (tmp_path / f"every{step}.yml").write_text(yaml.safe_dump(made))
        promtool(tmp_path, "test", "rules", f"every{step}.yml")


def answers_nan(graph: Path) -> None:
    """Let a graph answer NaN for amounts above NAN_ABOVE: its probability plus 0 * sqrt(NAN_ABOVE - amount)."""
    model = onnx.load(str(graph))
    for node in model.graph.node:
        node.output[:] = ["before" if name == "probability" else name for name in node.output]
    limit = numpy_helper.from_array(np.array([[NAN_ABOVE]], "float32"), "limit")
    nothing = numpy_helper.from_array(np.array(0, "float32"), "nothing")
    flat = numpy_helper.from_array(np.array([-1], "int64"), "flat")
    model.graph.initializer.extend([limit, nothing, flat])
    steps = [
        ("Sub", ["limit", "amount"], "left"),
        ("Sqrt", ["left"], "root"),
        ("Mul", ["root", "nothing"], "zero"),
        ("Reshape", ["zero", "flat"], "zeros"),
        ("Add", ["before", "zeros"], "probability"),
    ]
    model.graph.node.extend(helper.make_node(kind, inputs, [output]) for kind, inputs, output in steps)
    onnx.save(model, str(graph))


class Scene:
    """A service that asks and is watched: clients that never pause, and faults made and undone."""

    def __init__(self, project: Path, environment: Path, log: Path) -> None:
        self.project, self.environment, self.log, self.port = project, environment, log, free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self.amounts, self.end = cycle([12.5]), threading.Event()
        self.clients = threading.Thread(target=self._ask)
        self.store = project / "data/online/store.db"

    def start(self, ready: bool = True) -> None:
        """Start the service, and wait until it answers."""
        settings = {"PREDICTION_LOG": str(self.log), "PREDICTION_LOG_SECONDS": "0.5", "PORT": str(self.port)}
        command = ["python", "-m", "fraud_detection.app"]
        env = within(self.project, self.environment) | settings
        self.process = subprocess.Popen(command, cwd=self.project, env=env, stderr=subprocess.DEVNULL)
        with httpx.Client(base_url=f"http://127.0.0.1:{self.port}") as client:
            wait_for(lambda: answers(client, "/health/ready" if ready else "/health/live"))

    def kill(self) -> None:
        assert self.process
        self.process.kill()
        self.process.wait()

    def writer(self) -> int:
        """The process that writes the log."""
        assert self.process
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return int(children[0])

    def know(self, at: float) -> None:
        """Let all features of the store be known since then."""
        with contextlib.closing(sqlite3.connect(self.store)) as store, store:
            for (table,) in store.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
                store.execute(f'UPDATE "{table}" SET event_ts = ?', (int(at),))

    def _ask(self) -> None:
        with httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=5) as client:
            while not self.end.wait(0.05):
                with contextlib.suppress(httpx.TransportError):
                    client.post("/predict", json=KEY | {"amount": next(self.amounts)})


@pytest.fixture
def scene(project: Project, quick: Path, environment: Path, tmp_path: Path) -> Iterator[Scene]:
    """A fresh model with fresh features; the graph answers NaN for great amounts."""
    copy = project(quick)
    champion = copy / "models/champion"
    answers_nan(champion / "model.onnx")
    card = json.loads((champion / "model.json").read_text())
    card["days"][1] = date.today().isoformat()
    (champion / "model.json").write_text(json.dumps(card))
    scene = Scene(copy, environment, tmp_path / "log")
    scene.know(time.time())
    scene.start()
    scene.clients.start()
    yield scene
    scene.end.set()
    scene.clients.join()
    scene.kill()


def sped_up(text: str) -> str:
    """Durations of rules and configuration, divided by FASTER: `[5m]`, `for: 2m`; and 15s, which becomes 250ms."""
    minutes = {"m": 1, "h": 60, "d": 1440}

    def shorter(found: re.Match[str]) -> str:
        return f"{found[1]}{int(found[2]) * minutes[found[3]] * 60_000 // FASTER}ms"

    return re.sub(r"(\[|for: )(\d+)([mhd])\b", shorter, text).replace("15s", "250ms")


def test_real_faults_of_a_running_service_fire_their_alerts_which_resolve(
    scene: Scene, baked: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "prometheus"
    folder.mkdir()
    (folder / "alerts.yml").write_text(sped_up((baked / RULES).read_text()))
    config = monitoring(baked, TARGET=f"127.0.0.1:{scene.port}")["configs"]["prometheus"]["content"]
    config = sped_up(config.replace("/etc/prometheus", str(folder)))
    with prometheus_server(folder, config) as prometheus:

        def fault(expected: set[str], inject: Callable[[], object], undo: Callable[[], object]) -> None:
            inject()
            wait_for(lambda: expected <= prometheus.firing())
            fired = {alert["labels"]["alertname"]: alert for alert in prometheus.alerts()}
            undo()
            for alert in fired.values():
                assert "<" not in str(alert["annotations"]), alert  # no value, an error in the template
            # What burns may come back once, as its windows end at different times.
            burns = {"AvailabilityBurnsSlowly", "AvailabilityBurnsFast"}
            assert fired.keys() <= expected | burns, fired.keys()
            wait_for(lambda: prometheus.firing() <= {"AvailabilityBurnsSlowly"})

        wait_for(
            lambda: prometheus.client.get("/api/v1/query", params={"query": "predictions_total"}).json()[
                "data"
            ]["result"]
        )
        time.sleep(3)  # what would fire at once, without a fault, does so
        assert not prometheus.firing()

        gone = scene.store.with_suffix(".gone")
        fault({"StoreMissing"}, lambda: scene.store.rename(gone), lambda: gone.rename(scene.store))

        away = scene.log.with_suffix(".away")

        def unwritable() -> None:
            scene.log.rename(away)
            scene.log.write_text("a file where the folder should be")

        def writable() -> None:
            scene.log.unlink()
            away.rename(scene.log)

        def lose() -> None:
            unwritable()
            wait_for(lambda: "LogFailing" in prometheus.firing())
            os.kill(scene.writer(), signal.SIGKILL)

        fault({"LogFailing", "LogDropping"}, lose, writable)

        def great() -> None:
            scene.amounts = cycle([12.5, 2.0 * NAN_ABOVE])

        def usual() -> None:
            scene.amounts = cycle([12.5])

        fault({"ChampionFails", "AvailabilityBurnsFast"}, great, usual)
        fault({"ServiceDown"}, scene.kill, scene.start)

        def without_store() -> None:
            scene.kill()
            scene.store.rename(gone)
            scene.start(ready=False)

        # Not ready for want of a store, whose look-ups fail, too; and Prometheus saw the restart.
        without_store()
        wait_for(lambda: {"NotReady", "StoreMissing"} <= prometheus.firing())
        gone.rename(scene.store)
        wait_for(lambda: prometheus.firing() <= {"AvailabilityBurnsSlowly"})
