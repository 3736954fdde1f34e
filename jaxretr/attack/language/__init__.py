"""Attacks on the language of queries: switch the language, mix languages in one query, or move toward a language."""

from jaxretr.attack.language.code_mixing import code_mixing
from jaxretr.attack.language.directions import language_directions
from jaxretr.attack.language.switch import language_switch

__all__ = ["code_mixing", "language_directions", "language_switch"]
