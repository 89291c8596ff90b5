"""The gates of params.yaml: what may stand there, what each check says, and how it reads."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from tabloop import evaluation, registry, roles, summary, verdicts
from tabloop.cli import UserError
from tabloop.evaluation import Holdout, Scored, judge
from tabloop.metrics import at_threshold, auc
from tabloop.params import Params, load

from .conftest import PARAMS
from .monitored import install
from .test_card import CARD

NONE = "There was no champion yet"
VERSUS = {"against": "champion"}
AUC = {"metric": "auc", "min": 0.5}


def params(*gates: dict[str, Any], **evaluate: Any) -> Params:
    changed = PARAMS["evaluate"] | evaluate
    return Params.model_validate(PARAMS | {"gates": list(gates), "evaluate": changed})


def measure(target: np.ndarray, probability: np.ndarray, threshold: float, params: Params) -> dict[str, Any]:
    found: dict[str, Any] = {"auc": auc(target, probability), "threshold": threshold, "model": "words"}
    found |= at_threshold(target, probability, threshold, params.evaluate.cost)
    top = np.argsort(-probability, kind="stable")[: len(target) // 10]
    return found | {"precision_in_top": float(target[top].mean()), "undefined": None}


def holdout(*gates: dict[str, Any], rows: int = 4000, seed: int = 0, worse: float = 0.0) -> Holdout:
    """Rows of three large countries and a small one; a champion that is as good as the candidate, or better by `worse`."""
    random = np.random.default_rng(seed)
    target = (random.random(rows) < 0.3).astype(int)
    country = random.choice(["DE", "FR", "US", "LU"], rows, p=[0.4, 0.3, 0.29, 0.01])
    champion = target + random.normal(0, 0.8, rows)
    candidate = champion + random.normal(0, 0.05 + worse, rows)
    table = pd.DataFrame({"country": country, "returned": target})
    table.loc[::50, "country"] = None
    scored = [Scored(1 / (1 + np.exp(-2 * (score - 0.5))), 0.5) for score in (candidate, champion)]
    return Holdout(params(*gates), measure, table, target, *scored)


def alone(*gates: dict[str, Any], **changes: Any) -> Holdout:
    found = holdout(*gates, **changes)
    return Holdout(found.params, measure, found.rows, found.target, found.candidate, None)


def check(*gates: dict[str, Any], **changes: Any) -> list[dict[str, Any]]:
    return list(judge(holdout(*gates, **changes), "", None)["checks"])


@pytest.mark.parametrize(
    ("gate", "said"),
    [
        ({"metric": "auc"}, "give either `min` or `max`, or `against: champion` and `margin`"),
        ({"metric": "auc", "min": 0.5, "max": 0.9}, "give either `min` or `max`"),
        ({"metric": "auc", "max": 0.9}, "auc is better if it is higher: give `min`"),
        ({"metric": "brier", "min": 0.1}, "brier is better if it is lower: give `max`"),
        ({"metric": "auc", "min": 85}, "auc lies between 0 and 1: 85 can't be the bar"),
        ({"metric": "auc", "min": float("nan")}, "gates.0.min: Input should be a finite number"),
        ({"metric": "auc", "min": 0.5, "margin": 0.1}, "give either `min` or `max`"),
        ({"metric": "auc", **VERSUS}, "a gate with `against: champion` needs `margin`"),
        ({"metric": "auc", **VERSUS, "min": 0.5, "margin": 0}, "and neither `min` nor `max`"),
        ({"metric": "auc", **VERSUS, "margin": -0.1}, "gates.0.margin: Input should be greater than"),
        (
            {"metric": "auc", "against": "challenger", "margin": 0},
            "gates.0.against: Input should be 'champion'",
        ),
        ({"metric": "auc", "min": 0.5, "better": "higher"}, "`better` is only for your own metric"),
        (
            {"metric": "lift", **VERSUS, "margin": 0},
            "`better` is only for your own metric",
        ),
        (
            {"metric": "auc", "min": 0.5, "by": "land"},
            "gates: auc by land: neither a feature nor a sensitive column",
        ),
        ({"metric": "auc", "min": 0.5, "by": "amount"}, "gates: auc by amount: a column of numbers"),
        ({"metric": "disparate_impact", "min": 0.8}, "disparate_impact compares levels"),
        (
            {"metric": "disparate_impact", "max": 0.8, "by": "country"},
            "is better if it is higher: give `min`",
        ),
        (
            {"metric": "auc", "min": 0.5, "segment": "country"},
            "gates.0.segment: Extra inputs are not permitted",
        ),
    ],
)
def test_a_gate_that_can_not_be_meant_is_one_clear_line(
    gate: dict[str, Any], said: str, tmp_path: Path
) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(PARAMS | {"gates": [gate]}))
    with pytest.raises(UserError) as caught:
        load(path)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_the_same_gate_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="gates: auc country: it is there twice"):
        params(
            AUC,
            {"metric": "auc", "by": "country", "min": 0.5},
            {"metric": "auc", "by": "country", "min": 0.6},
        )
    both = params(
        AUC, {"metric": "auc", "by": "country", "min": 0.5}, {"metric": "auc", **VERSUS, "margin": 0}
    )
    assert both.min_auc == 0.5 and params(both.gates[1].model_dump()).min_auc is None


def test_an_unknown_metric_is_refused_and_the_known_ones_are_named() -> None:
    with pytest.raises(
        UserError, match=r"no metric is called aucc; there are auc, average_precision, .*precision_in_top"
    ):
        check({"metric": "aucc", "min": 0.5})
    with pytest.raises(UserError, match="no metric is called model;"):  # measure() returns words for it
        check({"metric": "model", "min": 0.5})


def test_an_absolute_bar_is_for_the_value_unless_an_end_decides() -> None:
    found = alone(AUC)
    value = auc(found.target, found.candidate.probability)
    (given,) = judge(found, NONE, None)["checks"]
    assert given["value"] == value and given["low"] < value < given["high"] and given["passed"] is True
    just = (given["low"] + value) / 2  # the value reaches it, the interval's worse end does not
    for end, bar, passed in (
        ("value", just, True),
        ("worse_end", just, False),
        ("better_end", (given["high"] + value) / 2, True),
        ("value", (given["high"] + value) / 2, False),
        ("better_end", given["high"] + 1e-6, False),
    ):
        found = alone({"metric": "auc", "min": bar, "decides": end})
        result = judge(found, NONE, None)
        (other,) = result["checks"]
        assert (other["passed"], result["passed"]) == (passed, passed), (end, bar)
        assert ("not significantly" in other["note"]) == (passed != (bar <= value))
    low = judge(alone({"metric": "brier", "max": 0.5, "decides": "worse_end"}), NONE, None)["checks"][0]
    assert low["passed"] and low["high"] < 0.5
    assert not judge(alone({"metric": "brier", "max": low["value"] - 1e-6}), NONE, None)["passed"]


def test_a_calibrated_model_passes_in_small_segments_and_another_fails() -> None:
    """The calibration error itself is above the bar there, by chance."""
    gate, random = {"metric": "calibration_error", "by": "country", "max": 0.02}, np.random.default_rng(0)
    found, probability = alone(gate, rows=2000), random.beta(1, 3, 2000)
    target = (random.random(2000) < probability).astype(int)
    for shift, passed in ((0, True), (0.15, False)):
        model = Scored(np.minimum(probability + shift, 1), 0.5)
        checks = judge(replace(found, target=target, candidate=model), NONE, None)["checks"][:3]
        assert [c["level"] for c in checks] == ["DE", "FR", "US"] and all(c["value"] > 0.02 for c in checks)
        assert {c["passed"] for c in checks} == {passed}
        assert ("not significantly" in checks[0]["note"]) == passed
        assert checks[0]["rule"] == "at most 0.02, at the interval's better end"


def test_the_option_replaces_the_bar_of_auc_and_no_other_gate() -> None:
    gates = [AUC, {"metric": "auc", "by": "country", "min": 0.5}, {"metric": "auc", **VERSUS, "margin": 0.1}]
    result = judge(holdout(*gates), "", 0.9999)
    assert not result["passed"] and "AUC: 0." in result["reason"] and "at least 0.9999" in result["reason"]
    assert [c["bar"] for c in result["checks"]] == [0.9999, 0.5, 0.5, 0.5, 0.5, 0.5, -0.1]
    assert [c["bar"] for c in judge(holdout(), "", 0.6)["checks"]] == [0.6]
    for wrong in (85, float("nan")):
        with pytest.raises(UserError, match="--min-auc: "):
            judge(holdout(AUC), "", wrong)


def test_against_the_champion_a_significant_trifle_does_not_block_unless_the_margin_is_0() -> None:
    trifle = {"seed": 1, "rows": 20_000}
    (free,) = check({"metric": "auc", **VERSUS, "margin": 0.005}, **trifle)
    assert -0.005 < free["low"] < free["high"] < 0 and free["passed"] is True
    (strict,) = check({"metric": "auc", **VERSUS, "margin": 0}, **trifle)
    assert strict["passed"] is False and strict["value"] == free["value"]
    (worse,) = check({"metric": "auc", **VERSUS, "margin": 0.005}, worse=0.5)
    assert worse["high"] < -0.005 and worse["passed"] is False
    # Few rows: it is not shown to be worse, and not shown not to be; who asks for the latter gets it.
    few = {"rows": 150, "worse": 0.4, "seed": 3}
    (unknown,) = check({"metric": "auc", **VERSUS, "margin": 0.005}, **few)
    assert unknown["low"] < -0.005 < unknown["high"] and unknown["passed"] is True
    (shown,) = check({"metric": "auc", **VERSUS, "margin": 0.005, "decides": "worse_end"}, **few)
    assert shown["passed"] is False
    (cost,) = check({"metric": "cost_per_row", **VERSUS, "margin": 0.02}, worse=0.8)
    assert cost["low"] > 0.02 and cost["bar"] == 0.02 and cost["passed"] is False


def test_without_a_champion_its_gates_are_said_not_to_be_judged() -> None:
    result = judge(alone(AUC, {"metric": "auc", **VERSUS, "margin": 0}), NONE, None)
    assert result["passed"] and result["reason"] == "1 of 2 checks passed; 1 not judged"
    assert (
        result["checks"][1]["passed"] is None and result["checks"][1]["note"] == "there was no champion yet"
    )
    (row,) = [row for row in verdicts.checks({"gate": result}) if row[3].startswith("not")]
    assert row[3] == "not judged: there was no champion yet"
    nothing = judge(alone(), NONE, None)
    assert nothing == {"passed": True, "reason": "params.yaml has no gates", "checks": []}


def test_the_checks_fit_a_terminal_whatever_they_say() -> None:
    gates = [
        AUC,
        {"metric": "auc", "by": "country", "min": 0.99},
        {"metric": "auc", **VERSUS, "margin": 0.005},
    ]
    long = (
        "a level that somebody typed into a form, with all that they thought about it and a_word_of_"
        + "x" * 90
    )
    one, other = holdout(*gates), alone(*gates)
    for found in (one, other):
        found.rows["country"] = found.rows["country"].replace("DE", long)
        result = {"gate": judge(found, NONE, None)}
        lines = verdicts.console(result).splitlines()
        assert max(map(len, lines)) <= 78, lines
        words = "".join("".join(lines).split())
        for row in verdicts.checks(result):
            for part in (*row[:3], row[3].partition(": ")[2]):
                assert "".join(part.split()) in words
        starts = [line[:12].strip() for line in lines if line[0] != " "]
        assert starts == [row[3].partition(":")[0] for row in verdicts.checks(result)]


def test_each_level_is_a_check_and_one_with_few_rows_is_said() -> None:
    checks = check(
        {"metric": "auc", "by": "country", "min": 0.99}, {"metric": "recall", "by": "country", "min": 0.1}
    )
    levels = [c["level"] for c in checks if c["metric"] == "auc"]
    assert levels == ["(missing)", "DE", "FR", "US", None]
    assert [c["passed"] for c in checks[:5]] == [False] * 4 + [None]
    assert checks[4]["note"].startswith("too few rows, 20 are needed: LU (")
    at = holdout(AUC)
    part = (at.rows.country == "FR").to_numpy()
    assert checks[2]["value"] == auc(at.target[part], at.candidate.probability[part])
    assert checks[2]["name"] == "AUC, country FR"
    many = holdout({"metric": "auc", "by": "country", "min": 0.1})
    many.rows["country"] = [f"c{i}" for i in range(len(many.rows))]
    (one,) = judge(many, "", None)["checks"]
    assert one["passed"] is None and one["note"].endswith(" and 3990 more")


def test_too_few_rows_for_a_comparison_are_no_pass() -> None:
    (found,) = check({"metric": "auc", **VERSUS, "margin": 0}, rows=40, worse=2)
    assert found["passed"] is None and found["note"].startswith("too few rows, 20 are needed: 1")


def test_a_metric_of_measure_is_a_gate_with_an_interval() -> None:
    own = {"metric": "precision_in_top", "better": "higher"}
    low, paired = check({"metric": "precision_in_top", "min": 0.5}, own | VERSUS | {"margin": 0.01}, worse=1)
    assert 0.5 < low["low"] < low["value"] < low["high"] < 1 and low["passed"] is True
    assert paired["high"] < -0.01 and paired["passed"] is False
    assert abs(paired["high"] - paired["low"]) < 2 * (low["high"] - low["low"])
    (undefined,) = check({"metric": "undefined", "min": 0})
    assert undefined["passed"] is False and undefined["note"] == "undefined" and undefined["value"] is None


def test_a_usual_name_means_what_measure_means_by_it() -> None:
    found = holdout({"metric": "brier", "max": 0.3}, {"metric": "auc", "min": 0.1})
    usual = judge(found, "", None)["checks"]

    def other(*arguments: Any) -> dict[str, Any]:
        return measure(*arguments) | {"brier": 0.75, "auc": measure(*arguments)["auc"]}

    mine = Holdout(found.params, other, found.rows, found.target, found.candidate, found.champion)
    checks = judge(mine, "", None)["checks"]
    assert (checks[0]["value"], checks[0]["passed"]) == (0.75, False)
    assert checks[1] == usual[1] and usual[0]["passed"]
    differences = {gap["metric"] for gap in evaluation.compare(mine)["differences"]}
    assert "auc" in differences and "brier" not in differences


def test_parity_is_between_the_levels_that_have_enough_rows() -> None:
    found = holdout(
        {"metric": "equal_opportunity_difference", "by": "country", "max": 0.25},
        {"metric": "disparate_impact", "by": "country", "min": 0.8},
    )
    opportunity, impact = judge(found, "", None)["checks"]
    rows, acted = found.rows.fillna("(missing)"), found.candidate.acted
    large = rows.country != "LU"
    recall = pd.Series(acted).groupby(rows.country.where(large & (rows.returned == 1))).mean()
    assert opportunity["value"] == pytest.approx(recall.max() - recall.min())
    share = pd.Series(acted).groupby(rows.country.where(large)).mean()
    assert impact["value"] == pytest.approx(share.min() / share.max())
    for each in (opportunity, impact):
        assert each["low"] <= each["value"] <= each["high"] and "without some levels: too few" in each["note"]
        assert "LU (" in each["note"] and each["passed"] is True
    biased = Scored(np.where(found.rows.country == "US", 0.0, found.candidate.probability), 0.5)
    unfair = Holdout(found.params, measure, found.rows, found.target, biased, None)
    result = judge(unfair, "", None)
    assert [c["passed"] for c in result["checks"]] == [False, False]
    assert result["checks"][1]["value"] == 0 and result["checks"][0]["low"] > 0.3
    found.rows["country"] = "DE"
    assert {c["note"] for c in judge(found, "", None)["checks"]} == {"there is one level only"}


def written(folder: Path, monkeypatch: pytest.MonkeyPatch, found: Holdout, version: str) -> dict[str, Any]:
    """evaluation.json and the report of the holdout, as evaluate.py writes them."""
    for module in (evaluation, summary):
        monkeypatch.setattr(module, "ROOT", folder)
    monkeypatch.setattr(evaluation, "EVALUATION", folder / "metrics/evaluation.json")
    monkeypatch.setattr(roles, "EVALUATION", folder / "metrics/evaluation.json")
    monkeypatch.setattr(roles, "CANDIDATE", folder / "models/candidate")
    # MLflow's run of a candidate that fails is tested with one that is trained (tests/test_pipeline.py).
    monkeypatch.setattr(registry, "log", lambda *_: None)
    (folder / "models/candidate").mkdir(parents=True)
    CARD.write(folder / "models/candidate")
    champion: dict[str, Any] = {"verdict": NONE}
    if found.champion:
        champion = {"version": version, "training_rows": 12_345, "data_hash": "da7a"} | evaluation.compare(
            found
        )
    usual = {"auc_low": 0.1, "auc_high": 0.9}
    result: dict[str, Any] = {"version": CARD.version, "rows": 9, "positives": 4, **usual}
    result |= measure(found.target, *found.candidate, found.params)
    result |= {"champion": champion, "gate": judge(found, NONE, None), "segments": {}}
    found.rows["ordered_at"] = pd.Timestamp("2026-01-01")
    evaluation.write(CARD, result, found)
    assert json.loads((folder / "metrics/evaluation.json").read_text()) == result
    return result


def test_candidate_and_champion_are_shown_on_the_same_rows_in_words_that_say_who_is_better(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = holdout(AUC, {"metric": "auc", **VERSUS, "margin": 0.005}, worse=0.5)
    result = written(tmp_path, monkeypatch, found, "c0ffee")
    champion = found.champion
    assert champion
    assert result["champion"]["metrics"]["auc"] == auc(found.target, champion.probability)
    (gap,) = [gap for gap in result["champion"]["differences"] if gap["metric"] == "cost_per_row"]
    assert gap["value"] == pytest.approx(
        result["cost_per_row"] - result["champion"]["metrics"]["cost_per_row"]
    )
    sentence = f"The candidate is worse than the champion: AUC {gap_of(result, 'auc')}"
    page, markdown = (tmp_path / "reports/evaluation.html").read_text(), summary.markdown()
    for text in (page, markdown):
        assert sentence in text and "champion: worse" not in text
        assert (
            f"{result['champion']['metrics']['auc']:.4f}" in text and gap_of(result, "cost_per_row") in text
        )
        assert "AUC, against the champion" in text and "worse by at most 0.005" in text
    assert "❌ **Gate:** AUC, against the champion: -0." in markdown
    assert f"| AUC | {result['auc']:.4f} |" in markdown and "| 12,345 |" in markdown
    swapped = Holdout(found.params, measure, found.rows, found.target, champion, found.candidate)
    assert evaluation.compare(swapped)["verdict"].startswith(
        "The candidate is better than the champion: AUC +0."
    )
    same = Holdout(found.params, measure, found.rows, found.target, champion, champion)
    assert (
        "does not differ significantly from the champion: AUC +0.0000" in evaluation.compare(same)["verdict"]
    )


def gap_of(result: dict[str, Any], metric: str) -> str:
    (gap,) = [gap for gap in result["champion"]["differences"] if gap["metric"] == metric]
    return f"{gap['value']:+.4f} [{gap['low']:+.4f}, {gap['high']:+.4f}]"


def test_nothing_of_another_holdout_stands_beside_the_candidate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the champion can't be compared, or there is none, its column is empty."""
    monkeypatch.setattr(roles, "MODELS", tmp_path / "models")
    install(tmp_path, "champion", params(), version="c0ffee")
    rows = pd.DataFrame({"age": [30], "amount": [1.0]})
    why = "The champion can't be compared: the data no longer have country, express"
    assert evaluation.score_champion(CARD, rows) == ({"version": "c0ffee", "verdict": why}, None)
    same = CARD.model_copy(update={"version": "c0ffee"})
    assert evaluation.score_champion(same, rows)[0]["verdict"] == "The candidate is the champion"
    written(tmp_path, monkeypatch, alone(AUC), "c0ffee")
    markdown = summary.markdown()
    assert all(
        line.endswith("|  |  |") for line in markdown.splitlines() if line.startswith(("| recall", "| data"))
    )
    assert NONE in markdown and ">champion" not in (tmp_path / "reports/evaluation.html").read_text()


def test_a_level_is_text_in_every_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = alone({"metric": "auc", "by": "country", "min": 0.1})
    found.rows["country"] = "<b>a|b\n</b>"
    written(tmp_path, monkeypatch, found, "c0ffee")
    assert "<b>" not in (tmp_path / "reports/evaluation.html").read_text()
    failing = replace(found, params=params(AUC | {"by": "country", "min": 1}))
    assert "\n" not in judge(failing, NONE, None)["reason"]
    (line,) = [line for line in summary.markdown().splitlines() if line.startswith("| AUC, country")]
    assert "<b>" not in line and line.count(" | ") == 3


def test_a_figure_at_the_bar_reaches_it_and_one_that_is_no_number_does_not() -> None:
    least, most = params(AUC, {"metric": "brier", "max": 0.5}).gates
    assert [gate.reached_by(0.5) for gate in (least, most)] == [True, True]
    assert (least.reached_by(0.499), most.reached_by(0.501)) == (False, False)
    assert not least.reached_by(float("nan")) and not most.reached_by(float("nan"))
