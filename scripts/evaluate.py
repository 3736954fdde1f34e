"""Evaluate a retriever on a test collection, in one language, across languages and in a pool of all languages:

    uv run scripts/evaluate.py --model runs/hybrid/model --dataset xquad-r --data_dir xquad-r --output_dir out/hybrid

Prints the measures and the language bias, and writes results, values per query, TREC runs, qrels and a report into the
output directory. The same command resumes an interrupted run. scripts/compare.py compares such directories.
"""

import argparse
import functools

from model_and_collection import flags, listed, load, system_name

from jaxretr import parallel
from jaxretr.eval.evaluate import MEASURES
from jaxretr.eval.measures import DEPTH
from jaxretr.eval.runs import RUNS, evaluate_into
from jaxretr.eval.table import summary
from jaxretr.tracking import console, errors_as_lines


def main() -> None:
    args = evaluation_flags().parse_args()
    with errors_as_lines("the same command reuses the embeddings of finished passages"):
        parallel.initialize()
        collection, encoder = load(args, args.dtype)
        results = evaluate_into(
            args.output_dir,
            collection,
            functools.partial(encoder.encode_query, batch_size=args.batch_size),
            functools.partial(encoder.encode_document, batch_size=args.batch_size),
            system=system_name(args),
            evaluation={"model": args.model, "max_length": encoder.max_length, "dtype": args.dtype},
            fingerprint=encoder.fingerprint,
            **{name: getattr(args, name) for name in ("settings", "measures", "calibrate", "runs", "run_depth")},
        )
        if parallel.is_main_process():
            console.print(summary(results), f"{args.output_dir}/report.html")


def evaluation_flags() -> argparse.ArgumentParser:
    parser = flags(__doc__, MEASURES)
    add = parser.add_argument
    add("--settings", type=listed, default=(), help="any of mono,cross,multi (default: all that the languages allow)")
    add("--dtype", default="float32", choices=["float32", "bfloat16"], help="compute dtype (default: %(default)s)")
    add("--batch_size", type=int, default=32, help="texts of 128 tokens per batch (default: %(default)s)")
    add("--calibrate", action="store_true", help="subtract the mean embedding of each language from its passages")
    add("--runs", type=listed, default=RUNS, help=f"settings to write TREC runs of (default: {','.join(RUNS)})")
    add(
        "--run_depth",
        type=int,
        default=DEPTH,
        help="passages per query in a run; 0 writes no runs (default: %(default)s)",
    )
    return parser


if __name__ == "__main__":
    main()
