# %% [markdown]
# # A7 · Capstone: an unknown preference file
#
# 100 points, about ten hours, alone or in pairs. Graded by hand, from your report (at most four pages, three figures) and this notebook. You get a file of preference pairs, `pairs.jsonl`, and are not told how it was made. Say how its pairs were made, choose a loss and a weight for it, train SmolLM2 with them, and defend the result.
#
# The file holds prompts, a chosen and a rejected response for each. Responses may be SmolLM2's own or another model's, drawn at some temperature, two at a time or the best and another one of several, and labeled by a rule, a noisy rule or a person. Use any tool of the library (`dil audit`, `dil train`, `dil compare`) or your own.
#
# **Rules.** For every number, state how many prompts, which seeds and which rate stand behind it, with an interval. Keep two parts of the prompts away from training: one to choose rate and length by, one for the final numbers, used once. SmolLM2 has 135 million parameters: with adapters a run on 500 short pairs takes minutes on a laptop. A negative result that is shown well gets full points.

# %% [markdown]
# ## 1 · How were the pairs made? (30 points, graded by hand)
#
# Which model wrote the responses, how many were drawn for a pair, which one is the rejected one, how reliable is the label? For each: the evidence (a figure or a test), how sure you are, and what you could not find out.

# %% [markdown] written="origin" points=30
# A good report compares the log-probabilities of the responses under SmolLM2 with those of fresh samples at several temperatures (their distribution, not the mean alone: samples of the model have a known mean of log-ratios); counts repeated responses and responses shared by pairs of a prompt; looks at lengths, first tokens and EOS; estimates how many draws there were from how much better the chosen responses are than the rejected ones under a rule that explains the labels; and gives label noise with an interval.
#
# *Rubric.* 10 points: writer (own, other, temperature) by a test with a number; 8: number of draws and choice of the rejected response, or why it cannot be known; 7: labeler and noise with an interval; 5: limits.

# %% [markdown]
# ## 2 · Loss and weight (20 points, graded by hand)
#
# Which loss, which weight of the chosen response in the reference term, which reference? Derive where its optimum is on data like these, and say what would have to be true for you to choose otherwise.

# %% [markdown] written="choice" points=20
# Two draws of the reference: corrected loss with weight 1/2; best of $K$ and one other: $1/K$; another model's responses: fine-tune the reference on all responses first, or use fresh samples for the reference term, or take DPO if the goal is the reward and not imitation. The optimum on such data follows from the mixture identity.
#
# *Rubric.* 8 points: the choice follows from part 1; 8: optimum derived; 4: what would change it.

# %% [markdown]
# ## 3 · Training and result (30 points, graded by hand)
#
# Train with the loss that you chose and with one other, at two rates at least, on the same pairs. Show what you would show a sceptic: held-out chosen and rejected log-ratios, the KL to the reference, and what the models write, for both.

# %% [markdown] written="result" points=30
# *Rubric.* 10 points: runs that can be repeated (command, seed, versions, data split by prompt); 10: comparison at a common rate and at equal KL, intervals over prompts (and seeds, where there are several); 10: texts shown, not picked, with what a reader notices.

# %% [markdown]
# ## 4 · Defence (20 points, graded by hand)
#
# Five objections that a reviewer could raise, and your answer to each: measured, or open.

# %% [markdown] written="defence" points=20
# *Rubric.* 4 points for each objection that could overturn the result and has an answer that is measured, or says what would be needed.
