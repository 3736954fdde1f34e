"""Attacks on the language of queries: asked in another one, mixed of several, moved towards one."""

from jaxretr.attack.language.code_mixing import code_mixing
from jaxretr.attack.language.directions import DirectionAttacks, language_directions
from jaxretr.attack.language.switch import language_switch

__all__ = ["DirectionAttacks", "code_mixing", "language_directions", "language_switch"]
