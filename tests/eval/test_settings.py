import dataclasses
from collections.abc import Sequence

import pytest

from jaxretr.eval.settings import Pool, Setting, Task, drawn_pairs
from jaxretr.eval.settings import make_tasks as tasks_of
from jaxretr.types import Passage, Query, RetrievalSet


def name(task: Task) -> str:
    return f"{task.query_language}-{task.corpus_language or 'all'}"


def make_tasks(collection: RetrievalSet, settings: Sequence[Setting] = ("mono", "cross", "multi")) -> list[Task]:
    return tasks_of(collection, Pool.of(collection), settings)


def corpus_ids(collection: RetrievalSet, task: Task) -> list[str]:
    """The corpus of a task, in its order."""
    return [collection.passages[i].id for i in Pool.of(collection).order[task.passages]]


def spelled_out(collection: RetrievalSet, task: Task) -> set[tuple[str, str, int]]:
    """The judgements of a task by ids."""
    queries = [collection.queries[i].id for i in task.queries]
    passages = corpus_ids(collection, task)
    return {
        (queries[q], passages[p], int(grade))
        for q, p, grade in zip(task.judged_query, task.judged_passage, task.grade, strict=True)
    }


def test_the_tasks_of_each_setting(tiny: RetrievalSet) -> None:
    assert [name(t) for t in make_tasks(tiny, ["mono"])] == ["de-de", "en-en", "fr-fr"]
    assert [name(t) for t in make_tasks(tiny, ["cross"])] == ["de-en", "de-fr", "en-de", "en-fr", "fr-de", "fr-en"]
    assert [name(t) for t in make_tasks(tiny, ["multi"])] == ["de-all", "en-all", "fr-all"]
    assert [t.setting for t in make_tasks(tiny)] == ["mono"] * 3 + ["cross"] * 6 + ["multi"] * 3


def test_judgements_are_those_of_the_corpus(tiny: RetrievalSet) -> None:
    tasks = {name(t): t for t in make_tasks(tiny)}
    assert spelled_out(tiny, tasks["en-de"]) == {("en:q1", "de:p1", 1), ("en:q1", "de:p3", 0)}
    assert spelled_out(tiny, tasks["de-en"]) == {("de:q1", "en:p1", 2), ("de:q2", "en:p2", 1)}
    assert spelled_out(tiny, tasks["fr-all"]) == {
        ("fr:q1", "de:p1", 1), ("fr:q1", "de:p3", 0), ("fr:q1", "en:p1", 2), ("fr:q1", "fr:p1", 1),
    }  # fmt: skip


def test_queries_without_an_answer_in_the_corpus_are_dropped_and_counted(tiny: RetrievalSet) -> None:
    counts = {name(t): (len(t.queries), t.dropped) for t in make_tasks(tiny)}
    assert counts["de-de"] == (1, 1)
    assert counts["en-fr"] == (1, 1)
    assert counts["de-en"] == (2, 0)
    assert counts["de-all"] == (2, 0)


def test_passages_come_by_descending_id(tiny: RetrievalSet) -> None:
    task = make_tasks(tiny, ["multi"])[0]
    assert corpus_ids(tiny, task) == ["fr:p1", "en:p2", "en:p1", "de:p3", "de:p1"]
    assert task.num_passages == 5


def test_the_corpus_of_a_language_is_a_slice_whatever_its_tag() -> None:
    """Tags that begin alike, characters below the colon, scripts beyond the BMP: the order is that of UTF-8 bytes."""
    tags = ["zh-Hant", "pt", "zh", "z", "pt-BR", "zh2", "x-𐍈"]
    keys = ["", "9", "a", "é", "中", "😀", ":", "~", "-Hant:9"]
    passages = tuple(Passage(key, tag, "text") for key in keys for tag in tags)
    queries = tuple(Query("q", tag, "?") for tag in tags)
    collection = RetrievalSet("tags", queries, passages, {"q": {f"{tag}:9": 1 for tag in tags}})
    tasks = make_tasks(collection)
    everything = next(task for task in tasks if task.setting == "multi")
    ids = corpus_ids(collection, everything)
    assert ids == sorted((p.id for p in passages), key=str.encode, reverse=True)
    for task in tasks:
        if task.corpus_language is not None:
            own = [id for id in ids if id.partition(":")[0] == task.corpus_language]
            assert corpus_ids(collection, task) == own and len(own) == len(keys)
        assert all(id.endswith(":9") for _, id, _ in spelled_out(collection, task))
    pool = Pool.of(collection)
    assert [pool.languages[n] for n in pool.language_numbers()] == [id.partition(":")[0] for id in ids]


def test_a_pair_that_answers_nothing_makes_no_task(tiny: RetrievalSet) -> None:
    without = dataclasses.replace(tiny, qrels={"q1": {"en:p1": 1, "de:p1": 1}})
    assert [name(t) for t in make_tasks(without, ["cross"])] == ["de-en", "en-de", "fr-de", "fr-en"]


def test_a_setting_given_twice_counts_once(tiny: RetrievalSet) -> None:
    assert len(make_tasks(tiny, ["mono", "mono"])) == 3


def english_only() -> RetrievalSet:
    return RetrievalSet("one", (Query("q", "en", "?"),), (Passage("p", "en", "!"),), {"q": {"en:p": 1}})


@pytest.mark.parametrize("setting", ["cross", "multi"])
def test_one_language_does_for_the_monolingual_setting_only(setting: str) -> None:
    assert len(make_tasks(english_only(), ["mono"])) == 1
    with pytest.raises(ValueError, match=f"one has no languages for the setting '{setting}', only en"):
        make_tasks(english_only(), [setting])


@pytest.mark.usefixtures("as_users_run")
def test_bad_collections_are_refused(tiny: RetrievalSet) -> None:
    with pytest.raises(ValueError, match="unknown setting 'bi'; the settings are mono, cross, multi"):
        make_tasks(tiny, ["bi"])
    with pytest.raises(ValueError, match="no settings given"):
        make_tasks(tiny, [])
    with pytest.raises(ValueError, match="question 'q1' names the passage 'en:p9', which the collection lacks"):
        make_tasks(dataclasses.replace(tiny, qrels={"q1": {"en:p9": 1}}))
    with pytest.raises(ValueError, match="two passage texts have the id 'de:p1'"):
        make_tasks(dataclasses.replace(tiny, passages=(*tiny.passages, Passage("p1", "de", "again"))))
    with pytest.raises(ValueError, match="the language 'de:AT' has a colon"):
        make_tasks(dataclasses.replace(tiny, passages=(*tiny.passages, Passage("p1", "de:AT", "again"))))
    with pytest.raises(ValueError, match="two query texts have the id 'en:q1'"):
        make_tasks(dataclasses.replace(tiny, queries=(*tiny.queries, Query("q1", "en", "again"))))
    with pytest.raises(ValueError, match="no question has a relevant passage in the setting 'mono'"):
        make_tasks(dataclasses.replace(tiny, qrels={"other": {"en:p1": 1}}))


def test_a_task_restricted_to_some_queries_keeps_their_judgements(tiny: RetrievalSet) -> None:
    task = next(task for task in make_tasks(tiny, ["cross"]) if name(task) == "de-en")
    assert spelled_out(tiny, task.restricted([1])) == {("de:q2", "en:p2", 1)}
    assert spelled_out(tiny, task.restricted([0, 1])) == spelled_out(tiny, task)
    assert len(task.restricted([]).queries) == len(task.restricted([]).grade) == 0


def test_drawn_pairs_ask_each_query_once_with_all_its_judgements(tiny: RetrievalSet) -> None:
    tasks = make_tasks(tiny, ["cross"])
    corpora: dict[str, set[str | None]] = {}
    for seed in range(40):
        drawn = drawn_pairs(tasks, tiny, seed)
        asked = [tiny.queries[i].id for task in drawn for i in task.queries]
        assert sorted(asked) == sorted({tiny.queries[i].id for task in tasks for i in task.queries})
        for task in drawn:
            whole = next(other for other in tasks if name(other) == name(task))
            kept = {tiny.queries[i].id for i in task.queries}
            assert kept
            assert spelled_out(tiny, task) == {judged for judged in spelled_out(tiny, whole) if judged[0] in kept}
            for id in kept:
                corpora.setdefault(id, set()).add(task.corpus_language)
    dropped = {task.query_language: task.dropped for task in drawn_pairs(tasks, tiny, 0)}
    assert dropped == {"de": 0, "en": 1, "fr": 0}, "one English query has no answer in another language"
    assert corpora["fr:q1"] == {"de", "en"}, "every corpus that answers a query is drawn under some seed"
