"""Attacks on the language of queries: another language, several languages in one query, a move towards a language."""

from jaxretr.attack.language.code_mixing import code_mixing
from jaxretr.attack.language.directions import language_directions
from jaxretr.attack.language.switch import language_switch

__all__ = ["code_mixing", "language_directions", "language_switch"]
