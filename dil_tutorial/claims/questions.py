"""What readers of the paper asked in public, and the checks that settle it (THEORY §11)."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Question:
    """A question, our answer, and the claims that settle it; ``page`` where numbers and figures are."""

    text: str
    answer: str
    claims: tuple[str, ...]
    page: str = ""  # a page of the book, relative to generated/


DYNAMICS, FIGURES, LOSSES = "08_training_dynamics.ipynb", "figures.md", "losses.md"
QUESTIONS = [
    Question("Is the rejected response a sample of the reference?",
             "No. Losers follow pi_ref (1 - t), not pi_ref, so the published loss has another optimum for each h. Winners and losers together are samples of the reference, "
             "and using both repairs the loss.", ("1.rejected", "1.mixture", "4.lsif-published", "4.ukl-published", "4.bce-published", "4.mixture")),
    Question("Is the RL step still RL, and what happens with the temperature?",
             "Yes: minimising the reverse KL is RLHF with reward log r* at beta = 1. Another beta needs a log-normaliser; learn it for each prompt and beta is a temperature again, leave it "
             "out and the optimum is biased.", ("2.gibbs", "3.objective", "3.objective-optimum", "6.beta-equation", "6.beta", "6.beta-one")),
    Question("Why reverse rather than forward KL?",
             "In a full class it makes no difference. In a restricted one the forward KL covers the winners' mass and the reverse KL seeks a mode. But DIL's ratio losses are neither: no convex h makes them the "
             "reverse KL, and repaired UKL is the forward KL of SFT exactly.", ("2.forward-kl", "2.reverse-kl", "2.mode-seeking", "3.not-reverse", "3.reverse-kl", "3.ukl-is-sft"), FIGURES),
    Question("Does DIL still assume a preference model if it drops Bradley–Terry?",
             "It needs no model: only win rates matter, and they exist for any table of preferences. It does assume fixed labels P and pairs drawn from the reference.",
             ("5.no-reward-needed", "5.win-rates", "4.on-reference")),
    Question("When is Bradley–Terry wrong, and what changes?",
             "Whenever preferences are not explained by one number a response, as in a cycle. DPO then ends at the Bradley–Terry model with the same win rates and cannot reproduce the preference; "
             "DIL's target stays pi_ref (1 + t).", ("5.dpo-preference", "5.bt-projection", "5.no-reward-needed"), LOSSES),
    Question("What is pi_chosen, exactly?",
             "pi_ref (1 + t): at most twice the reference, best-of-2 under hard labels, a soft best-of-2 otherwise, and best-of-2^k after k rounds.",
             ("1.chosen", "1.bound", "1.best-of-2", "1.iterated")),
    Question("What can be computed in the tabular setting?", "All of sections 1 to 5: both laws, every optimum, in closed form or to rounding error.",
             ("1.chosen", "2.ebm-optimum", "3.bregman", "4.one-multiplier"), LOSSES),
    Question("Where does the f* of CPC enter DPO's loss?",
             "As the log-ratio f itself: DPO at beta = 1 is CPC with one negative scored by f. The optimal score is log(pi_chosen/pi_ref) only if the negative is an independent sample of the reference; on "
             "real pairs it is the reward.", ("5.dpo-cpc", "2.ranking-nce", "2.logistic")),
    Question("Which h for which task?",
             "With infinite data and the repaired loss every h ends at the same policy. With few pairs, restricted policies or large ratios they differ: in the weights they give to small and large ratios, and in whether one pair can "
             "pull without bound.", ("4.mixture", "3.table", "3.power", "5.bounded", "9.learned-minimax"), DYNAMICS),
    Question("Is DIL more data-efficient: how many pairs to a given quality?",
             "Towards pi_chosen the repaired losses are: they use losers as well as winners, and their fitted ratios cannot exceed 2 while unseen responses remain. The study counts pairs.",
             ("8.repaired-finite", "8.sft-unseen", "8.dpo-unseen"), DYNAMICS),
    Question("Does sparing the rejected responses hurt safety?",
             "No loss on pairs can make a response impossible, except published LSIF, which may delete one; the reference decides what can be said. A safe reference settles it.",
             ("9.safe-silent", "9.safe-implied", "4.lsif-zeros")),
    Question("Does the chosen likelihood really hold?",
             "For every repaired loss at the optimum it rises by KL(pi_chosen || pi_ref). For published LSIF, the paper's choice, it falls when rewards are strong or data few. In short runs with small steps it rises for every loss, DPO "
             "included, because all begin in the same direction.", ("8.chosen", "8.first-step", "8.rises-first", "7.value-at-start"), DYNAMICS),
    Question("Are mean log-probabilities, as in the public code, the same method?",
             "No. The mean is beta = 1/|y| for each response; the optimum depends on lengths and is not pi_chosen.", ("6.mean", "6.mean-is-beta", "6.mean-dpo", "7.rewards", "7.ukl"), FIGURES),
    Question("Are the gains just KL?",
             "RLHF's optima are the best reward for their KL; best-of-N and the winners' law lie close below. A gain at larger KL is not a better method, so compare at equal KL.",
             ("1.frontier", "1.bon-kl", "1.kl-bound"), FIGURES),
]  # fmt: skip
