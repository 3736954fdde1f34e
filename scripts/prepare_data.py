"""Prepare a dataset: python scripts/prepare_data.py libreoffice_help --data_dir data

Fetches or reads the source, writes the prepared splits below --data_dir and prints their sizes. A dataset that was
already prepared with the same settings is reused.

  libreoffice_help  LibreOffice's help in parallel: [--languages en de ...] [--source DIR] [--min_translated 0.8]
  pairs             your own training pairs, JSON lines or parquet: --source FILE_OR_DIR [--language en]
  mmarco            MS MARCO in 14 languages: --source DIR [--languages en de ...] [--num_negatives 1]
  lareqa            XQuAD-R or MLQA-R: [--source DIR | --collection mlqa-r] [--candidates sentence+context]
  beir              a collection in BEIR layout: --source DIR_OR_ZIP [--language en]
  parallel_beir     a BEIR directory or zip per language of a collection: --source DIR [--languages en de ...]
  miracl            MIRACL: --source DIR [--languages ar bn ...]
  mrtydi            Mr. TyDi: --source DIR [--languages ar bn ...]
"""

import argparse
import collections
import time

from rich.console import Console
from rich.table import Table

from jaxretr.data import schema, sources
from jaxretr.files import path_flag
from jaxretr.tracking import errors_as_lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=sources.BUILDERS, help="name of the dataset")
    parser.add_argument(
        "--data_dir", type=path_flag, default="data", help="directory of prepared data (default: %(default)s)"
    )
    parser.add_argument("--languages", nargs="+", help="language codes")
    parser.add_argument("--language", help="language of texts without one")
    parser.add_argument(
        "--source",
        type=path_flag,
        help="file or directory to read (libreoffice_help: a directory of .deb files, instead of apt)",
    )
    parser.add_argument("--min_translated", type=float, help="minimum share of translated words per passage")
    parser.add_argument("--collection", help="collection to download: xquad-r or mlqa-r")
    parser.add_argument("--candidates", help="unit of retrieval: sentence, sentence+context or paragraph")
    parser.add_argument("--num_negatives", type=int, help="hard negatives kept per question")
    flags = {flag: value for flag, value in vars(parser.parse_args()).items() if value is not None}

    started = time.time()
    with errors_as_lines("the same command prepares the dataset from the start"):
        builder = sources.prepare(flags.pop("name"), data_dir=flags.pop("data_dir"), **flags)
        counts = {
            split: collections.Counter(record["language"] for record in schema.scan(builder, split))
            for split in builder.info.splits
        }
        table = Table("language", *counts, title=f"{builder.name}: records per language and split")
        for language in sorted(set().union(*counts.values())):
            table.add_row(language, *(f"{count[language]:,}" for count in counts.values()))
        table.add_section()
        table.add_row("all", *(f"{count.total():,}" for count in counts.values()))
        console = Console()
        console.print(table)
        console.print(f"{builder.data_path} ({time.time() - started:.0f} s)", soft_wrap=True)


if __name__ == "__main__":
    main()
