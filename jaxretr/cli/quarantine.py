"""List and release the passages that the gate of an index holds back, or add a gate:

    jaxretr quarantine --index index
    jaxretr quarantine --index index --release ID ID
    jaxretr quarantine --index index --release_all
    jaxretr quarantine --index index --sentinels queries.jsonl

Repeat --index to name the shards of one index. --sentinels adds a gate to an existing index, or replaces its gate. It
encodes only the queries, and judges the stored vectors of all passages. docs/index.md describes the gate.
"""

import argparse
import contextlib
from typing import TYPE_CHECKING

from jaxretr.files import local_copy, model_flag, path_flag

if TYPE_CHECKING:
    from rich.table import Table

    from jaxretr.index.types import Quarantined, Searchable

_PAGE = 1_000  # passages read at once


def main() -> None:
    args = flags().parse_args()
    from jaxretr import parallel
    from jaxretr.index.shards import open_shards
    from jaxretr.tracking import console, errors_as_lines

    with errors_as_lines():
        parallel.initialize()
        if args.sentinels:
            set_gate(args)
        elif args.false_positives is not None or args.model:
            raise ValueError("--false_positives and --model are settings of a new gate; set --sentinels, too")
        releases = bool(args.release or args.release_all)
        with contextlib.closing(open_shards(args.index, writable=releases)) as index:
            if releases:
                ids = [one.passage.id for one in quarantined(index)] if args.release_all else args.release
                console.print(f"released {index.release(ids):,} of {len(ids):,} passages")
                return
            passages = quarantined(index)
            if not args.sentinels and passages:
                console.print(table(passages))
            console.print(f"{len(passages):,} passages in quarantine, {len(index):,} served")


def set_gate(args: argparse.Namespace) -> None:
    """Give each index or shard a gate."""
    from jaxretr.index.corpus import read_sentinels
    from jaxretr.index.encoder import load_encoder
    from jaxretr.index.gate import FALSE_POSITIVE_RATE
    from jaxretr.index.index import Index

    rate = FALSE_POSITIVE_RATE if args.false_positives is None else args.false_positives
    sentinels = read_sentinels(local_copy(args.sentinels), rate)
    with contextlib.ExitStack() as opened:
        indexes = [opened.enter_context(Index.open(directory, writable=True)) for directory in args.index]
        encoder = load_encoder(indexes[0].describe(), args.model)
        vectors = encoder.encode_query(sentinels)
        for index in indexes:
            if index.about["fingerprint"] != encoder.fingerprint:
                raise ValueError(f"{index.directory} was built by another model; give the shards of one index")
            index.set_gate(sentinels, vectors, rate)


def quarantined(index: "Searchable") -> "list[Quarantined]":
    """Return all quarantined passages, in order of id."""
    passages = index.quarantine(_PAGE)
    while more := index.quarantine(_PAGE, passages[-1].passage.id) if passages else []:
        passages += more
    return passages


def table(passages: "list[Quarantined]") -> "Table":
    from rich.markup import escape
    from rich.table import Table

    result = Table("id", "language", "answers", "threshold", "sentinels", "passage", expand=True)
    for one in passages:
        text, verdict = one.passage.full_text, one.verdict
        result.add_row(
            escape(one.passage.id),
            escape(one.passage.language),
            f"{verdict.score:.3f}",
            f"{verdict.threshold:.3f} ({escape(verdict.language or 'all languages')})",
            escape("; ".join(verdict.sentinels)),
            escape(text if len(text) <= 300 else f"{text[:299]}…"),
        )
    return result


def flags() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add(
        "--index",
        type=path_flag,
        required=True,
        action="append",
        help="directory of the index; repeat it for each shard",
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--release", nargs="+", metavar="ID", help="serve these passages until their text changes")
    what.add_argument("--release_all", action="store_true", help="serve all quarantined passages")
    what.add_argument("--sentinels", type=path_flag, help="JSONL with `text`, or TSV: queries of a new gate")
    add(
        "--false_positives",
        type=float,
        help="share of a language's passages to quarantine at most (default: 0.01)",
    )
    add("--model", type=model_flag, help="directory of the model (default: its path when the index was built)")
    return parser
