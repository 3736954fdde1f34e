"""Gradient attacks in the embedding space, and the closed form they are measured by."""

from jaxretr.attack.embedding.apgd import apgd
from jaxretr.attack.embedding.gradient import fgm, pgd, random_draws
from jaxretr.attack.embedding.losses import InfoNCE, Margin, SmoothRank
from jaxretr.attack.embedding.objective import QueryObjective, Target
from jaxretr.attack.embedding.oracle import pooled_radii
from jaxretr.attack.embedding.space import Attack

__all__ = [
    "Attack",
    "InfoNCE",
    "Margin",
    "QueryObjective",
    "SmoothRank",
    "Target",
    "apgd",
    "fgm",
    "pgd",
    "pooled_radii",
    "random_draws",
]
