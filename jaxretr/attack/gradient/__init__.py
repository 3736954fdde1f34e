"""Gradient attacks on token vectors, and a closed-form radius to check them against."""

from jaxretr.attack.gradient.apgd import APGD
from jaxretr.attack.gradient.black_box import BLACK_BOX, RANDOM
from jaxretr.attack.gradient.losses import InfoNCE, Margin, SmoothRank
from jaxretr.attack.gradient.minimum_norm import CORE, FMN
from jaxretr.attack.gradient.objective import QueryObjective, Target
from jaxretr.attack.gradient.oracle import pooled_radii
from jaxretr.attack.gradient.pgd import FGM, PGD
from jaxretr.attack.gradient.space import BestPerturbation
from jaxretr.attack.gradient.targeted import FROM_LANGUAGE, TARGETED

__all__ = [
    "APGD",
    "BLACK_BOX",
    "CORE",
    "FGM",
    "FMN",
    "FROM_LANGUAGE",
    "PGD",
    "RANDOM",
    "TARGETED",
    "BestPerturbation",
    "InfoNCE",
    "Margin",
    "QueryObjective",
    "SmoothRank",
    "Target",
    "pooled_radii",
]
