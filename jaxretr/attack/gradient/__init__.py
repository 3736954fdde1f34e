"""Gradient attacks on token vectors, and a closed-form radius to check them against."""

from jaxretr.attack.gradient.apgd import apgd
from jaxretr.attack.gradient.black_box import black_box, random_draws
from jaxretr.attack.gradient.losses import InfoNCE, Margin, SmoothRank
from jaxretr.attack.gradient.minimum_norm import core, fmn
from jaxretr.attack.gradient.objective import QueryObjective, Target
from jaxretr.attack.gradient.oracle import pooled_radii
from jaxretr.attack.gradient.pgd import fgm, pgd
from jaxretr.attack.gradient.space import BestPerturbation
from jaxretr.attack.gradient.targeted import from_language, targeted

__all__ = [
    "BestPerturbation",
    "InfoNCE",
    "Margin",
    "QueryObjective",
    "SmoothRank",
    "Target",
    "apgd",
    "black_box",
    "core",
    "fgm",
    "fmn",
    "from_language",
    "pgd",
    "pooled_radii",
    "random_draws",
    "targeted",
]
