"""Gradient attacks on token vectors, and a closed-form radius to check them against."""

from jaxretr.attack.gradient.apgd import apgd
from jaxretr.attack.gradient.losses import InfoNCE, Margin, SmoothRank
from jaxretr.attack.gradient.objective import QueryObjective, Target
from jaxretr.attack.gradient.oracle import pooled_radii
from jaxretr.attack.gradient.pgd import fgm, pgd, random_draws
from jaxretr.attack.gradient.space import BestPerturbation

__all__ = [
    "BestPerturbation",
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
