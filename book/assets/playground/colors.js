// Written by dil dev book from dil_tutorial.losses and support.plotting.
const COLORS = [
  ["reference", "#7F7F7F", "1 4"],
  ["chosen distribution: SFT, corrected DIL", "#009E73", ""],
  ["RLHF, DPO", "#8B0000", "5 3"],
  ["LSIF as published", "#D55E00", ""],
  ["UKL as published", "#E69F00", "8 3"],
  ["BCE as published", "#CC79A7", "1 4"],
  ["your h as published", "#B8860B", "5 3"],
  ["corrected UKL, fitted to the drawn pairs", "#56B4E9", "8 3"],
  ["UKL with weight w", "#7A5195", "8 3"],
];
