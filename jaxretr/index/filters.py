"""Metadata filters: which stored values equal a requested value, and which filters no passage can match.

A passage has at most one value under each metadata key. Numbers compare as numbers: 5, 5.0 and 5e0 are equal. A boolean
is not a number, and a text never equals a number.
"""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence

from jaxretr.index.types import MetadataValue, SearchOptions, wanted_values

KINDS = ("text", "number", "boolean")
"""Kinds of metadata values."""


def kind_of(value: MetadataValue) -> str:
    """Return which of `KINDS` a value is."""
    if isinstance(value, str):
        return "text"
    return "boolean" if isinstance(value, bool) else "number"


def json_forms(value: MetadataValue) -> list[str]:
    """Return the JSON texts of all values that equal `value`, as an index stores them.

    JSON and Python distinguish 5 from 5.0. So an integral number has two forms, and zero has three.
    """
    equal = [value]
    if isinstance(value, float) and value.is_integer():
        equal.append(int(value))
    elif isinstance(value, int) and not isinstance(value, bool) and (rounded := _as_float(value)) == value:
        equal.append(rounded)
    if kind_of(value) == "number" and value == 0:
        equal = [0, 0.0, -0.0]
    return [json.dumps(form, ensure_ascii=False) for form in equal]


def all_of(conditions: Iterable[tuple[str, Sequence[MetadataValue]]]) -> dict[str, tuple[MetadataValue, ...]]:
    """Combine conditions that must all hold into one filter.

    Args:
      conditions: pairs of a metadata key and the values that it may have.

    Raises:
      ValueError: conditions contradict each other.
    """
    where: dict[str, tuple[MetadataValue, ...]] = {}
    for key, values in conditions:
        former = where.get(key, tuple(values))
        # Values of different kinds are never equal, although True == 1 in Python.
        kept = tuple(old for old in former if any(kind_of(old) == kind_of(new) and old == new for new in values))
        if not kept:
            raise ValueError(
                f"no passage can have {_shown(former)} and {_shown(values)} under the key {key!r}; "
                "all conditions must hold, so give only one of them"
            )
        where[key] = kept
    return where


def check_options(
    options: Sequence[SearchOptions], languages: Collection[str], metadata: Mapping[str, Collection[str]]
) -> None:
    """Reject filters that no passage can match.

    Args:
      options: options of each query.
      languages: languages that passages have.
      metadata: metadata key -> the `KINDS` of values that passages have under it.

    Raises:
      ValueError: no passage has the language or the metadata key, or none has a value of this kind under the key.
    """
    for query_options in options:
        for what, wanted, known in (
            ("language", query_options.languages, languages),
            ("metadata", query_options.where, metadata),
        ):
            if unknown := sorted(set(wanted) - set(known)):
                raise ValueError(
                    f"no passage has {what} {', '.join(unknown)}; the index has {', '.join(known) or 'none'}"
                )
        for key, query_value in query_options.where.items():
            values = wanted_values(query_value)
            kinds = {kind_of(value): None for value in values}
            if not kinds.keys() & set(metadata[key]):
                raise ValueError(
                    f"no passage has {_shown(values)} ({' or '.join(kinds)}) as metadata {key}; "
                    f"the values of {key} are of kind {' and '.join(metadata[key])}"
                )


def _as_float(value: int) -> float | None:
    try:
        return float(value)
    except OverflowError:
        return None


def _shown(values: Sequence[MetadataValue]) -> str:
    shown = " or ".join(json.dumps(value, ensure_ascii=False) for value in values)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."
