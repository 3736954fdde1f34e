"""Evaluate a retriever on a test collection, in one language, across languages and in a pool of all languages:

    jaxretr evaluate --model runs/hybrid/model --dataset xquad-r --data_dir xquad-r --output_dir out/hybrid

Prints the measures and the language bias, and writes results, values per query, TREC runs, qrels and a report into the
output directory. The same command resumes an interrupted run. `jaxretr compare` compares such directories.
"""

import argparse
import functools

from jaxretr.cli.evaluation_flags import flags, listed, load, pool_identity, settings_of_pool, system_name


def main() -> None:
    args = evaluation_flags().parse_args()
    from jaxretr import parallel
    from jaxretr.eval.runs import evaluate_into
    from jaxretr.eval.table import summary
    from jaxretr.tracking import console, errors_as_lines

    with errors_as_lines("the same command reuses the embeddings of finished passages"):
        parallel.initialize()
        settings = settings_of_pool(args.pool, args.settings)
        collection, encoder = load(args, args.dtype)
        results = evaluate_into(
            args.output_dir,
            collection,
            functools.partial(encoder.encode_query, batch_size=args.batch_size),
            functools.partial(encoder.encode_document, batch_size=args.batch_size),
            system=system_name(args),
            evaluation={
                "model": args.model,
                "max_length": encoder.max_length,
                "dtype": args.dtype,
                **pool_identity(args),
            },
            fingerprint=encoder.fingerprint,
            settings=settings,
            **{name: getattr(args, name) for name in ("measures", "calibrate", "runs", "run_depth")},
        )
        if parallel.is_main_process():
            console.print(summary(results), f"{args.output_dir}/report.html")


def evaluation_flags() -> argparse.ArgumentParser:
    parser = flags(__doc__, ("AP", "R@1", "R@10", "nDCG@10", "RR"))
    add = parser.add_argument
    add("--settings", type=listed, default=(), help="any of mono,cross,multi (default: all that the languages allow)")
    add("--dtype", default="float32", choices=["float32", "bfloat16"], help="compute dtype (default: %(default)s)")
    add("--batch_size", type=int, default=32, help="texts of 128 tokens per batch (default: %(default)s)")
    add("--calibrate", action="store_true", help="subtract the mean embedding of each language from its passages")
    add("--runs", type=listed, default=("mono", "multi"), help="settings to write TREC runs of (default: mono,multi)")
    add(
        "--run_depth",
        type=int,
        default=1000,
        help="passages per query in a run; 0 writes no runs (default: %(default)s)",
    )
    return parser
