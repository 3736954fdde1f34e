"""White-box attacks on tokens: corpus poisoning in given scripts, and its ceiling. Passages are tested as strings."""

from jaxretr.attack.token.ceiling import CEILING, BestVectors, Ceiling, best_vectors
from jaxretr.attack.token.decoding import Triggers
from jaxretr.attack.token.objectives import Similarity
from jaxretr.attack.token.poisoned_queries import PoisonedQueries, reaches_top
from jaxretr.attack.token.poisoning import check_fits, cluster_means, poison
from jaxretr.attack.token.schedules import AGGD, GASLITE, GCG, HOTFLIP, Schedule
from jaxretr.attack.token.split import Split, check_disjoint, disjoint_split
from jaxretr.attack.token.transfer import Poisoning, Transfer, poison_corpus, poison_with
from jaxretr.attack.token.vocabulary import SCRIPTS, Vocabulary

__all__ = [
    "AGGD",
    "CEILING",
    "GASLITE",
    "GCG",
    "HOTFLIP",
    "SCRIPTS",
    "BestVectors",
    "Ceiling",
    "PoisonedQueries",
    "Poisoning",
    "Schedule",
    "Similarity",
    "Split",
    "Transfer",
    "Triggers",
    "Vocabulary",
    "best_vectors",
    "check_disjoint",
    "check_fits",
    "cluster_means",
    "disjoint_split",
    "poison",
    "poison_corpus",
    "poison_with",
    "reaches_top",
]
