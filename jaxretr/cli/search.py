"""Search an index:

    jaxretr search --index index "question in any language"
    jaxretr search --index index --queries queries.jsonl --k 100 --run run.trec
    jaxretr search --index index --fusion rrf --language de "Frage"
    jaxretr search --index index --reranker models/bge-reranker-base --rerank 100 "question in any language"
    jaxretr search --index index --describe

Repeat --index to name the shards of one index.
"""

import argparse
import contextlib
import itertools
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from jaxretr.cli.evaluation_flags import listed
from jaxretr.files import local_copy, model_flag, path_flag, replaced_file
from jaxretr.serve.options import RERANKER_MAX_LENGTH

if TYPE_CHECKING:
    from rich.table import Table

    from jaxretr.index.types import Answer, Hit, MetadataValue, SearchOptions


def main() -> None:
    args = flags().parse_args()
    from jaxretr import parallel
    from jaxretr.index.encoder import load_encoder
    from jaxretr.index.rerank import candidates, load_reranker, pairs, reranked
    from jaxretr.index.shards import open_shards
    from jaxretr.tracking import console, errors_as_lines

    with errors_as_lines():
        parallel.initialize()
        queries = read(args)
        if args.rerank is not None and not args.reranker:
            raise ValueError(f"--rerank {args.rerank} needs a reranker; name its directory with --reranker")
        options = options_of(args, queries)
        if args.reranker:
            options = [replace(one, k=candidates(args.k, args.rerank)) for one in options]
        with contextlib.closing(open_shards(args.index)) as index:
            about = index.describe()
            if args.describe:
                console.print_json(json.dumps({name: value for name, value in about.items() if name != "files"}))
                return
            encoder = load_encoder(about, args.model)
            texts = [query.text for query in queries]
            answers = index.search(encoder.encode_query(texts), options)
            if args.reranker:
                reranker = load_reranker(args.reranker, about, args.reranker_max_length)
                answers = reranked(answers, reranker.predict(pairs(texts, answers)), args.k)
        if args.run:
            write_run(args.run, [query.id for query in queries], answers)
            return
        for query, answer in zip(queries, answers, strict=True):
            console.print(table(query.text, answer))


class Query(NamedTuple):
    """A query; its language is None if neither the file nor --language names it."""

    id: str
    text: str
    language: str | None


def options_of(args: argparse.Namespace, queries: list[Query]) -> "list[SearchOptions]":
    """Return the options of each query. A query without a language has no lexical part.

    Raises:
      ValueError: flags do not fit together, or --fusion is set and no query has a language.
    """
    from jaxretr.index.filters import all_of
    from jaxretr.index.types import LexicalQuery, SearchOptions
    from jaxretr.tracking import say

    if args.fusion is None and (args.language or args.lexical_weight is not None):
        raise ValueError("--language and --lexical_weight belong to a search by words; set --fusion, too")
    options = SearchOptions(args.k, args.languages, all_of(args.where), args.per_language, args.calibrate)
    if args.fusion is None:
        return [options] * len(queries)
    unknown = sum(query.language is None for query in queries)
    if queries and unknown == len(queries):
        raise ValueError(
            "no query has a language, which a search by words needs; set --language, or give the queries of the file a "
            "`language`"
        )
    if unknown:
        say(f"{unknown} of {len(queries)} queries have no language and are searched by vectors alone")
    return [
        options
        if query.language is None
        else replace(options, lexical=LexicalQuery(query.text, query.language, args.fusion, args.lexical_weight))
        for query in queries
    ]


def read(args: argparse.Namespace) -> list[Query]:
    """Return the queries. Queries on the command line are numbered after the queries in the file.

    Raises:
      ValueError: there is no query, a query is empty or lacks an id, or a TREC run cannot hold an id.
    """
    from jaxretr.eval.trec import check_ids
    from jaxretr.index.corpus import read_languages, read_queries

    queries: list[Query] = []
    path = local_copy(args.queries) if args.queries else None
    languages = read_languages(path) if path and args.fusion else itertools.repeat(None)
    for (id, text), language in zip(read_queries(path) if path else (), languages, strict=False):
        if id is None:
            raise ValueError(f"{args.queries}: the query {text[:60]!r} has no _id; give each query an _id")
        queries.append(Query(id, text, language or args.language))
    start = len(queries) + 1
    queries += [Query(str(number), text, args.language) for number, text in enumerate(args.query, start)]
    if not args.describe and not (queries and all(query.text.strip() for query in queries)):
        raise ValueError("expected at least one query, or a file of queries (--queries), and no empty query")
    if args.run:
        check_ids((query.id for query in queries), "the queries", "rename it")
        if repeated := [id for id, count in Counter(query.id for query in queries).items() if count > 1]:
            raise ValueError(
                f"two queries have the id {repeated[0]!r}; give each query its own id, because a run needs it"
            )
    return queries


def write_run(path: Path, ids: list[str], answers: "list[Answer]") -> None:
    """Write a TREC run atomically, with the reranker's scores if there are any.

    Raises:
      ValueError: a TREC run cannot hold a passage id.
    """
    from jaxretr.eval.trec import check_ids

    check_ids((hit.passage.id for answer in answers for hit in answer.hits), "the index", "rename it in the corpus")
    with replaced_file(path) as partial:
        lines = (
            f"{id} Q0 {hit.passage.id} {rank} {final_score(hit):.9g} jaxretr\n"
            for id, answer in zip(ids, answers, strict=True)
            for rank, hit in enumerate(answer.hits, start=1)
        )
        partial.write_text("".join(lines), encoding="utf-8")


def final_score(hit: "Hit") -> float:
    """Return the score that orders the answer."""
    return hit.score if hit.rerank_score is None else hit.rerank_score


def table(question: str, answer: "Answer") -> "Table":
    from rich.markup import escape
    from rich.table import Table

    scores = ["reranker", "score"] if any(hit.rerank_score is not None for hit in answer.hits) else ["score"]
    result = Table(*scores, "language", "id", "passage", title=escape(question), title_justify="left", expand=True)
    for hit in answer.hits:
        text = hit.passage.full_text
        shown = escape(text if len(text) <= 300 else f"{text[:299]}…")
        own = [] if hit.rerank_score is None else [f"{hit.rerank_score:.4f}"]
        result.add_row(*own, f"{hit.score:.4f}", hit.passage.language, escape(hit.passage.id), shown)
    return result


def flags() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("query", nargs="*", help="texts of queries")
    add(
        "--index",
        type=path_flag,
        required=True,
        action="append",
        help="directory of the index; repeat it for each shard",
    )
    add("--queries", type=path_flag, help="JSONL with `_id`, `text`, and `language` for --fusion")
    add("--k", type=int, default=10, help="passages per query (default: %(default)s)")
    add("--languages", type=listed, default=(), help="languages of the passages, such as en,ar (default: all)")
    add(
        "--where",
        type=condition,
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="metadata that passages must have; repeat it to require several",
    )
    add("--per_language", type=int, help="maximum number of passages of one language")
    add("--calibrate", action="store_true", help="subtract the query's mean score in each passage's language")
    add(
        "--fusion",
        choices=["rrf", "convex"],
        help="also search by words, in the language of the query, and fuse the results (default: vectors alone)",
    )
    add("--language", help="language of the queries that name none, such as de; for --fusion")
    add("--lexical_weight", type=float, help="weight of the words with --fusion convex, from 0 to 1 (default: 0.5)")
    add("--reranker", type=model_flag, help="directory or hub name of a cross-encoder that orders the best passages")
    add("--rerank", type=int, help="passages that the reranker scores per query (default: 50, or --k if it is larger)")
    add(
        "--reranker_max_length",
        type=int,
        default=RERANKER_MAX_LENGTH,
        help="maximum number of tokens of a query and a passage together (default: %(default)s, or fewer if the "
        "reranker supports fewer)",
    )
    add("--run", type=path_flag, help="write a TREC run instead of showing the passages")
    add("--describe", action="store_true", help="print size, settings, measured recall and latency")
    add("--model", type=model_flag, help="directory of the model (default: its path when the index was built)")
    return parser


def condition(text: str) -> "tuple[str, tuple[MetadataValue, ...]]":
    """Parse KEY=VALUE into a key and the values that it allows.

    year=1999 allows the number 1999 and the text "1999"; year="1999" allows only the text.

    Raises:
      ArgumentTypeError: the text is not KEY=VALUE, or lists a value that metadata cannot hold.
    """
    from jaxretr.index.types import is_metadata_value

    key, equals, value = text.partition("=")
    if not (key and equals):
        raise argparse.ArgumentTypeError(f"{text!r} is not a condition; expected KEY=VALUE, such as year=1999")
    try:
        parsed = json.loads(value)
    except ValueError:
        return key, (value,)
    if isinstance(parsed, list):
        if not parsed or not all(map(is_metadata_value, parsed)):
            raise argparse.ArgumentTypeError(
                f"{text!r} is not a condition; expected a list of texts, finite numbers, true or false"
            )
        return key, tuple(parsed)
    if isinstance(parsed, str):
        return key, (parsed,)
    return key, (parsed, value) if is_metadata_value(parsed) else (value,)
