"""Search an index:

    uv run scripts/search.py --index index "question in any language"
    uv run scripts/search.py --index index --queries queries.jsonl --k 100 --run run.trec
    uv run scripts/search.py --index index --describe

--index again and again names the shards of one index.
"""

import argparse
import json
import sys

from rich.markup import escape
from rich.table import Table

from jaxretr import parallel
from jaxretr.config import model_flag, path_flag
from jaxretr.data.sources import files
from jaxretr.files import local_copy, replaced_file
from jaxretr.index.encoder import load_encoder
from jaxretr.index.shards import open_shards
from jaxretr.index.types import Answer, SearchOptions
from jaxretr.tracking import console


def main() -> None:
    args = flags().parse_args()
    parallel.initialize()
    try:
        index = open_shards(args.index)
        about = index.describe()
        if args.describe:
            console.print_json(json.dumps({name: value for name, value in about.items() if name != "files"}))
            return
        rows = files.json_lines(local_copy(args.queries)) if args.queries else ()
        asked = [(str(row["_id"]), row["text"]) for _, row in rows]
        asked += [(str(number), text) for number, text in enumerate(args.query, start=len(asked) + 1)]
        if not asked or not all(text.strip() for _, text in asked):
            raise ValueError("expected a question, or a file of them (--queries), none of them empty")
        options = SearchOptions(args.k, args.languages, dict(args.where), args.per_language, args.calibrate)
        encoder = load_encoder(about, args.model)
        answers = index.search(encoder.encode_query([text for _, text in asked]), [options] * len(asked))
        if args.run:
            with replaced_file(args.run) as partial:
                partial.write_text("".join(run_lines([name for name, _ in asked], answers)), encoding="utf-8")
        else:
            for (_, text), answer in zip(asked, answers, strict=True):
                console.print(table(text, answer))
    except (ValueError, OSError, RuntimeError, KeyError) as error:
        sys.exit(f"error: {error}")


def run_lines(names: list[str], answers: list[Answer]) -> list[str]:
    return [
        f"{name} Q0 {hit.passage.id} {rank} {hit.score:.9g} jaxretr\n"
        for name, answer in zip(names, answers, strict=True)
        for rank, hit in enumerate(answer.hits, start=1)
    ]


def table(question: str, answer: Answer) -> Table:
    made = Table("score", "language", "id", "passage", title=escape(question), title_justify="left", expand=True)
    for hit in answer.hits:
        text = hit.passage.full_text
        shown = escape(text if len(text) <= 300 else f"{text[:299]}…")
        made.add_row(f"{hit.score:.4f}", hit.passage.language, escape(hit.passage.id), shown)
    return made


def flags() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("query", nargs="*", help="questions")
    add("--index", type=path_flag, required=True, action="append", help="its directory; once for each shard")
    add("--queries", type=path_flag, help="JSONL with `_id` and `text`")
    add("--k", type=int, default=10, help="passages wanted (default: %(default)s)")
    add("--languages", type=lambda text: tuple(text.split(",")), default=(), help="of the passages, such as en,ar")
    add("--where", type=condition, action="append", default=[], metavar="KEY=VALUE", help="metadata they must have")
    add("--per_language", type=int, help="at most so many passages of one language")
    add("--calibrate", action="store_true", help="take off what the query scores on average in a passage's language")
    add("--run", type=path_flag, help="write a TREC run instead of showing the passages")
    add("--describe", action="store_true", help="size, settings, measured recall and latency")
    add("--model", type=model_flag, help="directory of the model (default: where the index found it)")
    return parser


def condition(text: str) -> tuple[str, object]:
    key, _, value = text.partition("=")
    try:
        return key, json.loads(value)
    except json.JSONDecodeError:
        return key, value


if __name__ == "__main__":
    main()
