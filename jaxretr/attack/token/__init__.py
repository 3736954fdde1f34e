"""White-box attacks on tokens: corpus poisoning, and triggers in given scripts. Every result is tested as a string."""

from jaxretr.attack.token.decoding import Triggers
from jaxretr.attack.token.objectives import Judged, QueryLoss, Similarity
from jaxretr.attack.token.poisoning import cluster_means, poison
from jaxretr.attack.token.schedules import AGGD, GASLITE, GCG, HOTFLIP, Schedule
from jaxretr.attack.token.split import Split, check_disjoint, disjoint_split
from jaxretr.attack.token.transfer import Poisoning, Transfer, poison_corpus, poison_with, reaches_top, thresholds
from jaxretr.attack.token.triggers import promote, universal_trigger
from jaxretr.attack.token.vocabulary import SCRIPTS, Vocabulary

__all__ = [
    "AGGD",
    "GASLITE",
    "GCG",
    "HOTFLIP",
    "SCRIPTS",
    "Judged",
    "Poisoning",
    "QueryLoss",
    "Schedule",
    "Similarity",
    "Split",
    "Transfer",
    "Triggers",
    "Vocabulary",
    "check_disjoint",
    "cluster_means",
    "disjoint_split",
    "poison",
    "poison_corpus",
    "poison_with",
    "promote",
    "reaches_top",
    "thresholds",
    "universal_trigger",
]
