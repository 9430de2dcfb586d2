r"""The ledger: every statement of the derivation as a check that runs and gives a verdict.

``ledger`` has the machinery; each other module holds the claims of one section of THEORY, in
reading order, and ``questions`` what readers of the paper asked.  A claim is a function from random
worlds to residuals; its docstring is the explanation.  ``dil verify`` runs them all.
"""

from dil_tutorial.claims import (
    beta_and_length,
    denominators,
    distributions,
    efficiency,
    finite_data,
    groups,
    imitation,
    in_public,
    margins,
    neighbors,
    newcomers,
    paper_against_code,
    policy_gradients,
    ratios,
    relatives,
)
from dil_tutorial.claims.ledger import (
    ARGUMENT,
    ASSUMES,
    BELIEF,
    CLAIMS,
    FAILS,
    HOLDS,
    IDENTITY,
    KINDS,
    MARKS,
    OPTIMUM,
    PAPER_SECTIONS,
    SECTIONS,
    Claim,
    Result,
    report,
    run,
    save,
    select,
)

# Importing a module registers its claims; the ledger has them by section, then in this order.
MODULES = (
    distributions,
    imitation,
    ratios,
    denominators,
    relatives,
    margins,
    newcomers,
    beta_and_length,
    paper_against_code,
    finite_data,
    neighbors,
    efficiency,
    policy_gradients,
    groups,
    in_public,
)
_PLACES = {module.__name__: place for place, module in enumerate(MODULES)}
CLAIMS.sort(key=lambda claim: _PLACES[claim.check.__module__])
