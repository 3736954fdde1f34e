"""Adversarial robustness: attacks on queries in the embedding space, and the closed form they are measured by."""

from jaxretr.attack.apgd import apgd
from jaxretr.attack.gradient import fgm, pgd, random_draws
from jaxretr.attack.losses import InfoNCE, Margin, SmoothRank
from jaxretr.attack.objective import QueryObjective, Target
from jaxretr.attack.oracle import pooled_radii
from jaxretr.attack.space import Attack

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
