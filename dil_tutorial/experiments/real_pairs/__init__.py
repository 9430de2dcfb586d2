"""People's preferences: every loss on real pairs, held-out rankings, log-ratios and KL.  Read ``run``, then ``measures``."""
