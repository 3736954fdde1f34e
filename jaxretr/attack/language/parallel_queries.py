"""Which queries of a collection are one question in several languages.

In: a `Victim` and languages. Out: for a query, its translations.
"""

from collections.abc import Sequence

from jaxretr.attack.victim import Victim


def translations(victim: Victim, languages: Sequence[str] | None) -> dict[str, dict[str, int]]:
    """Question key -> language -> position in the collection's queries.

    Args:
      victim: whose collection it is.
      languages: the languages an attacker may use; None for all that there are.

    Raises:
      ValueError: for a language in which nothing is asked.
    """
    queries = victim.collection.queries
    known = sorted({query.language for query in queries})
    if languages is not None and (missing := [language for language in languages if language not in known]):
        raise ValueError(
            f"{victim.collection.name} has no queries in {', '.join(missing)}, only in {', '.join(known)}; choose "
            "among these or load the collection with more languages"
        )
    allowed = known if languages is None else languages
    found: dict[str, dict[str, int]] = {}
    for position, query in enumerate(queries):
        if query.language in allowed:
            found.setdefault(query.key, {})[query.language] = position
    return found
