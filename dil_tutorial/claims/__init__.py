r"""The ledger: every statement of the derivation as a check that runs and gives a verdict.

``ledger`` has the machinery; each other module holds the claims of one section of THEORY, in
reading order, and ``questions`` what readers of the paper asked.  A claim is a function from random
worlds to residuals; its docstring is the explanation.  ``dil verify`` runs them all.
"""

from dil_tutorial.claims.ledger import (
    ASSUMES,
    CLAIMS,
    FAILS,
    HOLDS,
    IDENTITY,
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

# Importing a module registers its claims; the order is the ledger's.
# isort: off
from dil_tutorial.claims import distributions
from dil_tutorial.claims import imitation
from dil_tutorial.claims import ratios
from dil_tutorial.claims import denominators
from dil_tutorial.claims import relatives
from dil_tutorial.claims import margins
from dil_tutorial.claims import newcomers
from dil_tutorial.claims import beta_and_length
from dil_tutorial.claims import paper_against_code
from dil_tutorial.claims import finite_data
from dil_tutorial.claims import neighbors
from dil_tutorial.claims import efficiency
from dil_tutorial.claims import policy_gradients
from dil_tutorial.claims import in_public
# isort: on
