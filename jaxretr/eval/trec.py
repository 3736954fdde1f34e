"""What TREC's files of runs and qrels can hold: their columns are separated by white space."""

from collections.abc import Iterable


def check_ids(ids: Iterable[str], source: str, remedy: str) -> None:
    """Refuses ids that would break the lines of a run.

    Args:
      ids: of queries or passages.
      source: what has the ids, for the error to name.
      remedy: what the user can do.

    Raises:
      ValueError: for an id that is empty, or has white space or a null character.
    """
    for id in ids:
        if id.split() != [id] or "\0" in id:
            what = "has white space" if id else "is empty"
            raise ValueError(f"{source}: the id {id!r} {what}, which TREC's format of runs cannot hold; {remedy}")


def tag(name: str) -> str:
    """The name of a system as the last column of a run: blanks become underscores."""
    return "_".join(name.replace("\0", " ").split()) or "run"
