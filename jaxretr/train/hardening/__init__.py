"""Adversarial hardening: an update that also counts how the model does on perturbed inputs."""

from jaxretr.train.hardening.adversarial import fgm
from jaxretr.train.hardening.method import Hardened, Hardening
from jaxretr.train.hardening.space import Budget

__all__ = ["Budget", "Hardened", "Hardening", "fgm"]
