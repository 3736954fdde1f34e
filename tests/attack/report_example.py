"""Attacks with all that a report must cope with: invisible characters, look-alikes, three scripts, markup in texts."""

from collections.abc import Sequence

import numpy as np

from jaxretr.attack.defenses import Detection
from jaxretr.attack.record import AdversarialText, Check, Record
from jaxretr.attack.report.system import System
from jaxretr.attack.result import Trial
from jaxretr.attack.token import Ceiling, Transfer
from jaxretr.eval.results import Results, SettingResult, TaskResult, mean

HOSTILE = '<script>alert("x")</script>'
BUDGETS = (0.01, 0.03, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0)
LANGUAGES = ("ar", "de", "en")
QUESTIONS = 24
STRENGTHS = {"random": 0.05, "fgm": 0.6, "pgd": 1.0}
THREAT = {"goal": "no relevant passage in the top 10", "knowledge": "white box", "layer": "word", "norm": "token_l2"}


def example(
    name: str = "base <1>",
    strength: float = 1.0,
    seed: int = 0,
    setting: str = "multi",
    collection: str = "Rivers & co",
) -> System:
    """One system; the larger `strength`, the further its queries have to be pushed.

    Each query is lost by an attack at the budget `radius / strength of the attack`, so that every figure of the report
    follows from `radii`.
    """
    random = np.random.default_rng(seed)
    pairs: list[tuple[str, str | None]] = [(language, None) for language in LANGUAGES]
    if setting != "multi":
        pairs = [(q, p) for q in LANGUAGES for p in LANGUAGES if (q == p) == (setting == "mono")]
    tasks = tuple(_task(random, *pair, strength * (1 + 0.3 * i), setting) for i, pair in enumerate(pairs))
    record = Record(
        system=name,
        collection=collection,
        setting=setting,
        threat_model=dict(THREAT),
        row_norm=1.5 * strength,
        nearest_row=0.9,
        trials=_trials(),
        transfer=_transfer(strength),
        detections=tuple(_detections(random)),
        checks=_checks(tasks),
        ceiling=_ceiling(strength),
    )
    results = Results(collection, {setting: SettingResult(tasks)}, name)  # type: ignore[dict-item]
    return System(record, results, texts())


def systems(count: int) -> list[System]:
    """So many systems, each harder to attack than the one before."""
    names = ("mono", "hybrid", "hybrid + FreeLB $1 and $2", "adversarial hybrid", "typos")
    return [example(names[i], 1 + 0.8 * i, seed=i) for i in range(count)]


def texts() -> tuple[AdversarialText, ...]:
    """Adversarial texts of two attacks."""
    return (
        AdversarialText("unicode@1", "en:q0", None, "paypal river", "p\u0430ypal \u202eriver\u202c", 1, 40),
        AdversarialText("unicode@1", "ar:q1", None, "العاصمة مدينة النهر", "العا\u200dصمة مدينة النهر", 2, 30),
        AdversarialText("unicode@1", "de:q2", None, "Wie heißt es?", "Wie hei\u200b\ufeffßt \u00ades?", 1, 12),
        AdversarialText("unicode@1", "de:q0", None, "Paypal Fluss", "P\u0430ypal Fluss", 1, 39),  # question 0 again
        AdversarialText("unicode@1", "en:q3", None, "unharmed", "unh\u200barmed", 4, 4),
        AdversarialText("typos@1", "en:q5", None, f"what is {HOSTILE}?", f"what ist {HOSTILE}?", 1, 3),
        AdversarialText("typos@1", "ar:q6", None, "ما هي عاصمة البلد؟", "ما هي عاصة البلد؟", 1, 5),
    )


def radii(system: System) -> dict[tuple[str, str | None], np.ndarray]:
    """Of each task's queries, the budget at which the attack `pgd` loses them; NaN where the clean query fails."""
    return {(task.query_language, task.corpus_language): task.per_query["radius"] for task in system.tasks}


def _task(random: np.random.Generator, language: str, corpus: str | None, strength: float, setting: str) -> TaskResult:
    has = random.random(QUESTIONS) < 0.9
    radius = np.where(has, 0.12 * strength * np.exp(0.8 * random.standard_normal(QUESTIONS)), np.nan)
    precision = np.where(has, 0.5 + 0.5 * random.random(QUESTIONS), 0.05)
    values = _measures(precision, has) | {"radius": radius}
    values |= {"pooled_radius@1": radius, "pooled_radius@10": 2 * radius}
    if setting == "multi":
        values |= {"own_language_share@10": 0.4 + 0.2 * random.random(QUESTIONS), "rank_distance": 90 * precision}
    worst = {name: values[name] for name in ("AP", "nDCG@10", "Success@10")}
    for attack, power in STRENGTHS.items():
        rows = []
        for budget in BUDGETS:
            left = has & (radius > budget * power)
            rows.append(np.where(has, left.astype(float), np.nan))
            own = _measures(precision * np.where(left, np.exp(-budget * power), 0.1), left)
            if setting == "multi":
                own |= {"own_language_share@10": np.minimum(1, 0.6 + 0.4 * budget * np.ones(QUESTIONS))}
                own |= {"rank_distance": (90 + 300 * budget * power) * precision}
            values |= {f"{attack}@{budget:g} {name}": value for name, value in own.items()}
            values[f"{attack}@{budget:g} robust_success@10"] = rows[-1]
            if attack == "pgd" and budget == 0.1:
                worst = {name: np.minimum(value, own[name]) for name, value in worst.items()}
        at = np.log(BUDGETS)
        values[f"{attack} robust_success@10_area"] = np.trapezoid(rows, at, axis=0) / (at[-1] - at[0])
        first = np.array([next((b for b in BUDGETS if radius_ <= b * power), BUDGETS[-1]) for radius_ in radius])
        values[f"{attack} smallest_budget"] = np.where(has, first, np.nan)
    for label, keep in (("typos@1", 0.8), ("unicode@1", 0.5)):
        left = has & (random.random(QUESTIONS) < keep)
        own = _measures(precision * np.where(left, 0.9, 0.1), left)
        own["robust_success@10"] = np.where(has, left.astype(float), np.nan)
        worst = {name: np.minimum(value, own[name]) for name, value in worst.items()}
        changed = np.arange(QUESTIONS) % 4 > 0  # a quarter has nothing to change
        values |= {f"{label} {name}": np.where(changed, value, np.nan) for name, value in own.items()}
    worst["robust_success@10"] = np.where(has, worst["Success@10"], np.nan)
    if setting == "multi":
        worst |= {"own_language_share@10": values["pgd@0.1 own_language_share@10"]}
        worst |= {"rank_distance": values["pgd@0.1 rank_distance"]}
    values |= {f"worst {name}": value for name, value in worst.items()}
    return TaskResult(
        language,
        corpus,
        QUESTIONS,
        0,
        60 if corpus is None else 20,
        {name: mean(value) for name, value in values.items()},
        tuple(f"{language}:q{i}" for i in range(QUESTIONS)),
        values,
    )


def _measures(precision: np.ndarray, success: np.ndarray) -> dict[str, np.ndarray]:
    return {"AP": precision, "nDCG@10": precision**0.7, "Success@10": success.astype(float)}


def _trials() -> tuple[Trial, ...]:
    cost = {"random": 21.0, "fgm": 4.0, "pgd": 62.0}
    found = [
        Trial(
            attack,
            "embedding",
            budget,
            "rho",
            attack == "pgd" and budget == 0.1,
            cost[attack],
            1.0,
            {"epsilon": 1.5 * budget, "epsilon_over_nearest_row": 1.5 * budget / 0.9, "zero_gradients": 0.0},
        )
        for attack in STRENGTHS
        for budget in BUDGETS
    ]
    found.append(Trial("typos", "text", 1.0, "edits", True, 33.0, 0.75, {"offered": 900.0, "undone": 12.0}))
    found.append(Trial("unicode", "text", 1.0, "edits", True, 33.0, 0.75, {"offered": 700.0, "undone": 300.0}))
    return tuple(found)


def _transfer(strength: float) -> Transfer:
    success = np.full((3, 3), 0.2 / strength) + 0.6 / strength * np.eye(3)
    passages = (("مفتاح \u2067النهر\u2069 capital",), (f"Hauptstadt {HOSTILE} \u202e",), ("the capital ▁river 河",))
    rows = tuple(map(tuple, success.tolist()))
    return Transfer("hotflip", 10, LANGUAGES, LANGUAGES, rows, (12,) * 3, passages, (9e3,) * 3, (81,) * 3)


def _ceiling(strength: float) -> Ceiling:
    """With one, two and three passages; the success grows with the passages and is larger in the same language."""
    success = [(0.3 + 0.1 * n) / strength + 0.3 / strength * np.eye(3) for n in range(3)]
    optimised = tuple((0.7 + 0.1 * n,) * 3 for n in range(3))
    rows = tuple(tuple(map(tuple, one.tolist())) for one in success)
    return Ceiling(10, LANGUAGES, LANGUAGES, optimised, rows, (11,) * 3, (12,) * 3)


def _detections(random: np.random.Generator) -> list[Detection]:
    found = []
    for filter, shift in (("norm", 1.0), ("hubness", 2.5)):
        for language in LANGUAGES:
            clean, bad = random.standard_normal(200), shift + random.standard_normal(100)
            at = np.sort(np.concatenate([clean, bad]))[::-1]
            false, true = ((part[:, None] >= at).mean(0) for part in (clean, bad))
            false, true = np.concatenate([[0], false]), np.concatenate([[0], true])
            below = np.flatnonzero(false <= 0.01)[-1]
            area = float(np.trapezoid(true, false))
            roc = tuple(false.tolist()), tuple(true.tolist())
            found.append(Detection(filter, "hotflip", language, float(false[below]), float(true[below]), area, roc))
    return found


def _checks(tasks: Sequence[TaskResult]) -> tuple[Check, ...]:
    curves = {
        attack: (BUDGETS, tuple(mean([t.measures[f"{attack}@{b:g} Success@10"] for t in tasks]) for b in BUDGETS))
        for attack in STRENGTHS
    }
    return (
        Check("iterative beats single-step", True, "PGD leaves .31, FGM .45 at ρ = .1", curves),
        Check("more restarts change nothing", False, "5 restarts lower success by .04 & more"),
    )
