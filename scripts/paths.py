"""The types of flags that name a file, a directory or a model."""

import argparse

from jaxretr.files import AnyPath, as_path


def path_flag(text: str) -> AnyPath:
    """Read the value of a flag as `as_path` does; argparse shows the message of an error."""
    try:
        return as_path(text)
    except (ValueError, RuntimeError) as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def model_flag(text: str) -> str:
    """Read the name of a model, or the path of its directory, of which `~` is expanded."""
    return str(path_flag(text)) if text.startswith("~") else text
