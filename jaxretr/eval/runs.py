"""An evaluation whose results are written to a directory.

Input: a test collection and two encoding functions. Output: a directory for further tools. If several processes
evaluate together, they share the encoding, and the main process writes.

| file | content |
|---|---|
| `results.json`, `per_query.parquet` | `Results`, see `jaxretr.eval.results` |
| `results.md`, `report.html`, `plots/` | tables and pictures of the results |
| `runs/{setting}.{query language}.trec` | `qid Q0 docno rank score tag`, TREC's format of a run |
| `qrels/{setting}.{query language}.qrels` | `qid 0 docno relevance`, the judgements for that run |
| `runs/cross.{query language}.{corpus language}.trec` and its qrels | in `cross`, one pair of files per language pair |
| `embeddings/` | the passages' embeddings |
| `evaluation.json` | what was evaluated and how; another evaluation in this directory is refused |

trec_eval computes the values in `per_query.parquet` from a run and its qrels: ids are the collection's own, scores
have nine digits, which distinguish any two float32 values (trec_eval compares in float32), and equal scores stay equal.
"""

import contextlib
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TextIO

from jaxretr import parallel
from jaxretr.eval import trec
from jaxretr.eval.evaluate import MEASURES, Ranking, evaluate
from jaxretr.eval.measures import DEPTH
from jaxretr.eval.report import write_report
from jaxretr.eval.results import RESULTS_FILE, Results
from jaxretr.eval.settings import SETTINGS, Setting
from jaxretr.eval.table import page
from jaxretr.eval.validation import allowed_settings
from jaxretr.files import AnyPath, replaced_file, write_json
from jaxretr.fingerprint import differences
from jaxretr.retrieval.embeddings import Encode
from jaxretr.types import RetrievalSet, ScoredPassage

EVALUATION_FILE = "evaluation.json"
EMBEDDINGS = "embeddings"

RUNS: tuple[Setting, ...] = ("mono", "multi")
"""Settings whose runs are written by default. Runs of `cross` have a line for every query, language and passage: 131
million lines (8 GB) for XQuAD-R."""

_REPORTED = 10  # passages per query in the report


@parallel.in_locked_directory
def evaluate_into(
    output_dir: AnyPath,
    collection: RetrievalSet,
    encode_query: Encode,
    encode_document: Encode,
    *,
    system: str,
    evaluation: Mapping[str, Any],
    fingerprint: str,
    calibrate: bool = False,
    settings: Sequence[Setting] = (),
    measures: Sequence[str] = MEASURES,
    runs: Sequence[Setting] = RUNS,
    run_depth: int = DEPTH,
) -> Results:
    """Evaluate, and write all results into `output_dir`. After an interruption, the same call resumes.

    Embeddings that are already in `output_dir` are not computed again.

    Args:
      output_dir: output directory; created if absent. An evaluation in it is replaced if it is the same evaluation
        (`evaluation`, `fingerprint` and the content of `collection` are equal) and refused otherwise. Settings,
        measures and runs may change.
      collection, encode_query, encode_document, measures, calibrate: see `jaxretr.eval.evaluate.evaluate`.
      system: name of the model in tables.
      evaluation: everything that determines the figures, as plain values: model, candidates, lengths, ...
      fingerprint: identifies the model, see `jaxretr.retrieval.embeddings.embed`.
      settings: which of `mono`, `cross` and `multi`; by default, all that the collection allows.
      runs: settings whose rankings are written as TREC runs.
      run_depth: passages per query in a run; 0 writes no runs. Measures see the first 1000 ranks, as trec_eval would in
        a run of that length.

    Raises:
      ValueError: `output_dir` holds other results, or a run cannot hold an id; see also `evaluate`.
      FileNotFoundError: several processes do not share `output_dir`.
      DirectoryInUse: another evaluation works in `output_dir`.
    """
    if unknown := sorted(set(runs) - set(SETTINGS)):
        raise ValueError(f"cannot write runs of {unknown[0]!r}; the settings are {', '.join(SETTINGS)}")
    if run_depth < 0:
        raise ValueError(f"run_depth is {run_depth}, expected the number of passages per query, or 0 for no runs")
    writer = RunWriter(output_dir, collection, tag=system, depth=run_depth) if runs and run_depth else None
    description = {"collection": collection.name, **evaluation, "fingerprint": fingerprint}
    if calibrate:
        description["calibrate"] = True
    with parallel.main_process_first():
        begun = (output_dir / RESULTS_FILE).exists() or (output_dir / EMBEDDINGS).exists()
        claim(output_dir / EVALUATION_FILE, description, begun=begun)
        _check_content(output_dir, collection)
        parallel.check_shared(output_dir / EVALUATION_FILE)
    settings = settings or allowed_settings(collection)
    reported: Setting | None = next((setting for setting in ("multi", "mono") if setting in settings), None)
    depths: dict[Setting, int] = dict.fromkeys(runs if run_depth else (), run_depth)
    if reported:
        depths[reported] = max(_REPORTED, depths.get(reported, 0))
    ids = collection.passage_ids
    top: dict[str, list[ScoredPassage]] = {}

    def keep(ranking: Ranking) -> None:
        if writer and ranking.task.setting in runs and parallel.is_main_process():
            writer.write(ranking)
        if ranking.task.setting == reported:
            top.update(_top(collection, ids, ranking))

    results = evaluate(
        collection,
        parallel.encode_sharded(encode_query),
        encode_document,
        settings=settings,
        measures=measures,
        embeddings_dir=output_dir / EMBEDDINGS,
        fingerprint=fingerprint,
        calibrate=calibrate,
        on_ranking=keep,
        depths=depths,
    )
    results = replace(results, system=system, evaluation=description)
    if parallel.is_main_process():
        results.save(output_dir)
        with replaced_file(output_dir / "results.md") as partial:
            partial.write_text(page(results), "utf-8")
        write_report(output_dir, results, collection, top)
    parallel.wait_for_all()
    return results


class RunWriter:
    """Writes rankings as TREC runs, with the qrels that belong to each.

    Args:
      output_dir: gets `runs/` and `qrels/`.
      collection: collection of the rankings.
      tag: name of the system in the last column; white space becomes underscores.
      depth: passages per query.

    Raises:
      ValueError: an id contains white space, which would break the lines.
    """

    def __init__(self, output_dir: AnyPath, collection: RetrievalSet, *, tag: str, depth: int = DEPTH):
        self._output_dir = output_dir
        self._depth = depth
        self._collection = collection
        self._passage_ids = collection.passage_ids
        self._tag = trec.tag(tag)
        ids = itertools.chain(self._passage_ids, (query.id for query in collection.queries))
        trec.check_ids(ids, collection.name, "rename it in the data, or write no runs (depth 0)")

    def write(self, ranking: Ranking) -> None:
        """Write the run of one task and its qrels; each file is written atomically."""
        task = ranking.task
        name = f"{task.setting}.{task.query_language}"
        if task.setting == "cross":
            name += f".{task.corpus_language}"
        queries = [self._collection.queries[i] for i in task.queries]

        scores, passages = ranking.scores[:, : self._depth], ranking.passages[:, : self._depth]
        depth = scores.shape[1]
        # One template for all lines of a query: formatting them one by one takes twice as long.
        tag = self._tag.replace("%", "%%")
        lines = "".join(f"%s Q0 %s {rank} %.9g {tag}\n" for rank in range(1, depth + 1))
        with self._replaced("runs", f"{name}.trec") as file:
            for query, row, positions in zip(queries, scores, passages, strict=True):
                columns = [query.id] * depth, [self._passage_ids[i] for i in positions.tolist()], row.tolist()
                file.write(lines % tuple(itertools.chain.from_iterable(zip(*columns, strict=True))))

        corpus = f"{task.corpus_language}:" if task.corpus_language else ""
        with self._replaced("qrels", f"{name}.qrels") as file:
            for query in queries:
                for id, grade in self._collection.qrels[query.key].items():
                    if id.startswith(corpus):
                        file.write(f"{query.id} 0 {id} {grade}\n")

    @contextlib.contextmanager
    def _replaced(self, directory: str, name: str) -> Iterator[TextIO]:
        with (
            replaced_file(self._output_dir / directory / name) as partial,
            partial.open("w", encoding="utf-8", newline="\n") as file,
        ):
            yield file


def _top(collection: RetrievalSet, ids: Sequence[str], ranking: Ranking) -> dict[str, list[ScoredPassage]]:
    """Return the first passages of each query for the report."""
    rows = zip(ranking.task.queries, ranking.passages[:, :_REPORTED], ranking.scores[:, :_REPORTED], strict=True)
    return {
        collection.queries[query].id: [
            ScoredPassage(ids[i], score) for i, score in zip(passages.tolist(), scores.tolist(), strict=True)
        ]
        for query, passages, scores in rows
    }


def _check_content(output_dir: AnyPath, collection: RetrievalSet) -> None:
    """Raise a ValueError if the directory has results of other content.

    Embeddings need no check: the embeddings of changed texts are computed again.
    """
    before = Results.load(output_dir / RESULTS_FILE).content if (output_dir / RESULTS_FILE).exists() else {}
    changed = differences(before, collection.fingerprint) if before else ""
    if changed:
        raise ValueError(
            f"{output_dir} holds an evaluation of different content under the name {collection.name!r} ({changed}); "
            "give another output directory, or delete it"
        )


def claim(path: AnyPath, description: Mapping[str, Any], *, begun: bool) -> None:
    """Claim a directory for one run, or check that it already belongs to this run.

    If no run has begun in the directory, an existing claim is overwritten.

    Args:
      path: the file in the directory that describes the run.
      description: everything that determines the figures, as plain values.
      begun: whether the directory holds output of a run.

    Raises:
      ValueError: the directory holds another run (the message names the differences), or results without `path`.
    """
    wanted = json.loads(json.dumps(description))
    if begun and not path.exists():
        raise ValueError(
            f"{path.parent} holds results without {path.name}, such as the results of a training run; "
            "give another output directory"
        )
    if begun:
        try:
            recorded = dict(json.loads(path.read_text("utf-8")))
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"{path} is damaged ({error}); give another output directory, or delete {path.parent}"
            ) from error
        if changed := differences(recorded, wanted):
            raise ValueError(
                f"{path.parent} holds another evaluation ({changed}); give another output directory, or delete it"
            )
    if parallel.is_main_process():
        write_json(path, wanted)
