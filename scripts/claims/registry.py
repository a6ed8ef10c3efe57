"""The claims, in the order of the report."""

from scripts.claims import collapse, convergence, dying, inplace, vanishing, variance, zeros
from scripts.claims.claim import Claim

CLAIMS: tuple[Claim, ...] = tuple(
    module.CLAIM for module in (collapse, vanishing, convergence, zeros, variance, dying, inplace)
)
