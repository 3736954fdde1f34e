"""Adversarial hardening: training updates whose loss includes perturbed inputs."""

from jaxretr.train.hardening.adversarial import fgm, freelb, pgd
from jaxretr.train.hardening.consistency import self_teaching, vat
from jaxretr.train.hardening.method import Hardened, Hardening
from jaxretr.train.hardening.space import Budget, Sides
from jaxretr.train.hardening.translations import worst_translations

__all__ = [
    "Budget",
    "Hardened",
    "Hardening",
    "Sides",
    "fgm",
    "freelb",
    "pgd",
    "self_teaching",
    "vat",
    "worst_translations",
]
