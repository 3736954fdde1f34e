"""Checks of what TREC's files of runs and qrels can hold: white space separates their columns."""

from collections.abc import Iterable


def check_ids(ids: Iterable[str], source: str, remedy: str) -> None:
    """Check that ids do not break the lines of a run.

    Args:
      ids: ids of queries or passages.
      source: where the ids come from, for the error message.
      remedy: what the user can do, for the error message.

    Raises:
      ValueError: an id is empty, or contains white space or a null character.
    """
    for id in ids:
        if id.split() != [id] or "\0" in id:
            what = "has white space" if id else "is empty"
            raise ValueError(f"{source}: the id {id!r} {what}, which TREC's format of runs cannot hold; {remedy}")


def tag(name: str) -> str:
    """Return the name of a system for the last column of a run: white space becomes underscores."""
    return "_".join(name.replace("\0", " ").split()) or "run"
