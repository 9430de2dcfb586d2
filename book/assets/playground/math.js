// The mathematics of the playground, a function an equation: names and sections as in book/theory.md.
// It runs in a browser and in node; tests/book/test_playground.py compares it with the Python functions on random worlds.
"use strict";

const sum = (values) => values.reduce((a, b) => a + b, 0);
const dot = (a, b) => sum(a.map((x, i) => x * b[i]));
const sigmoid = (x) => (x >= 0 ? 1 / (1 + Math.exp(-x)) : Math.exp(x) / (1 + Math.exp(x)));
const normalized = (weights) => weights.map((w) => w / sum(weights));

// §1  P(y > y') = sigma(R(y) - R(y')): rows are responses, columns their opponents
const bradleyTerry = (reward) => reward.map((a) => reward.map((b) => sigmoid(a - b)));
// §1  w = E_ref P, how often a response beats one that the reference wrote
const winRate = (ref, P) => P.map((row) => dot(row, ref));
// §1  pi_chosen = pi_ref (1 + t) with t = 2w - 1, and pi_rejected = pi_ref (1 - t)
const chosen = (ref, P) => winRate(ref, P).map((w, y) => 2 * ref[y] * w);
const rejected = (ref, P) => winRate(ref, P).map((w, y) => 2 * ref[y] * (1 - w));
// §14  The winner among K draws, whose chances are softmax(R): the highest R + Gumbel noise g, integrated over g
function softBestOf(ref, reward, K) {
  const step = 0.125;
  const winners = ref.map(() => 0);
  for (let g = -5; g < 42 + Math.log(K); g += step) {
    reward.forEach((own, y) => {
      const above = sum(ref.map((p, z) => -p * Math.expm1(-Math.exp(Math.min(700, -(own - reward[z] + g))))));
      winners[y] += step * K * ref[y] * Math.exp((K - 1) * Math.log1p(-Math.min(above, 1 - 2 ** -53)) - g - Math.exp(-g));
    });
  }
  return winners;
}
// §14  Another of the K at random: pi_ref = pi_K / K + (1 - 1/K) rejected
const rejectedOf = (ref, winners, K) => ref.map((p, y) => (p - winners[y] / K) / (1 - 1 / K));
// §2  pi_ref exp(R / beta) / Z
function rlhf(ref, reward, beta) {
  const top = Math.max(...reward);
  return normalized(ref.map((p, y) => p * Math.exp((reward[y] - top) / beta)));
}
// §5  The reward that DPO fits to any labeler: of the Bradley–Terry model with the same win rates w, by w(y) / g(y) = E_ref 1 / (g(y) + g)
// with g = e^R; null where it finds none
function fittedReward(ref, w) {
  let g = ref.map(() => 1);
  for (let i = 0; i < 20000; i++) {
    const wins = g.map((own) => sum(ref.map((p, z) => (p * own) / (own + g[z]))));
    if (w.every((share, y) => Math.abs(wins[y] - share) < 1e-9)) return g.map(Math.log);
    g = normalized(g.map((own, y) => (own * w[y]) / wins[y]));
  }
  return null;
}
// KL(p || q) in nats; what p never writes adds nothing
const kl = (p, q) => sum(p.map((a, y) => (a > 0 ? a * Math.log(a / q[y]) : 0)));

// The root of an increasing function in [low, high]; the nearer end where it keeps one sign
function bisect(increasing, low, high) {
  let width = high - low;
  for (let i = 0; i < 60; i++) {
    width /= 2;
    if (increasing(low + width) < 0) low += width;
  }
  return low + width / 2;
}

// §4  r that solves h''(r)(A - B r) = lambda: losers stand in the denominator, as published
const RATIO = {
  lsif: (A, B, lambda) => Math.max(A - lambda, 0) / B,
  ukl: (A, B, lambda) => A / (B + lambda),
  bce: (A, B, lambda) => (2 * A) / (B + lambda + Math.sqrt((B + lambda) ** 2 + 4 * lambda * A)),
};

// The same for any h, of which only h'' is known, in u = log r
function ratioOf(second) {
  return (A, B, lambda) => {
    const top = Math.log(A / B);
    const excess = (u) => lambda - second(Math.exp(u)) * (A - B * Math.exp(u));
    return Math.exp(bisect(excess, top - 40, top));
  };
}

// §4  Where DIL ends as published: pi_ref r with the one lambda at which the policy sums to one; A and B are
// the ratios of chosen and of rejected responses to the reference
function published(ref, A, B, ratio) {
  const policy = (lambda) => ref.map((p, y) => p * ratio(A[y], B[y], lambda));
  if (sum(policy(0)) <= 1 + 1e-12) return policy(0);
  let high = 1;
  while (sum(policy(high)) > 1) high *= 2;
  return policy(bisect((lambda) => 1 - sum(policy(lambda)), 0, high));
}

// §14  Corrected UKL with a weight of the chosen response in the reference term: pi_ref A / (D + lambda)
function weighted(ref, A, B, weight) {
  const D = A.map((a, y) => weight * a + (1 - weight) * B[y]);
  const policy = (lambda) => ref.map((p, y) => (p * A[y]) / (D[y] + lambda));
  const low = -Math.min(...D);
  let high = 1;
  while (sum(policy(high)) > 1) high *= 2;
  return policy(bisect((lambda) => 1 - sum(policy(lambda)), low, high));
}

// Whether h''(r)(A - B r) falls in r for every response, so that each lambda has one r
function unique(ratios_A, ratios_B, second) {
  return ratios_A.every((A, y) => {
    const B = ratios_B[y];
    const values = Array.from({ length: 61 }, (_, i) => (10 ** (-5 + i / 12) * A) / B).map((r) => second(r) * (A - B * r));
    return values.every((value, i) => i === 0 || value - values[i - 1] <= 1e-9);
  });
}

// §1  A pair: two draws of the reference, sorted by the label; random() gives numbers in [0, 1)
function pick(chances, u) {
  for (let y = 0; y < chances.length; y++) if ((u -= chances[y]) < 0) return y;
  return chances.length - 1;
}
function drawPair(ref, P, random) {
  const [a, b] = [pick(ref, random()), pick(ref, random())];
  return random() < P[a][b] ? [a, b] : [b, a];
}

// §14  The winner of K draws and another of them at random
function drawFromGroup(ref, reward, K, random) {
  const drawn = Array.from({ length: K }, () => pick(ref, random()));
  const winner = pick(normalized(drawn.map((y) => Math.exp(reward[y] - Math.max(...reward)))), random());
  const other = Math.floor(random() * (K - 1));
  return [drawn[winner], drawn[other < winner ? other : other + 1]];
}

// §4  The corrected UKL loss, which is SFT, fitted to pairs: the winners' frequencies
function fitted(pairs, size) {
  const counts = new Array(size).fill(0);
  for (const [winner] of pairs) counts[winner] += 1;
  return counts.map((n) => n / pairs.length);
}

// --- A generator that somebody types ------------------------------------------------------------------------------------

const { parse, compiled } = typeof require === "undefined" ? FORMULA : require("../formula.js");
const inR = (text) => parse(text, { r: { r: true } });

// A node, without what changes nothing: 0 x, 1 x, x + 0, x^1
function made(op, a, b) {
  const is = (node, number) => node.number === number;
  if (op === "*" && (is(a, 0) || is(b, 0))) return { number: 0 };
  if (op === "*" && is(a, 1)) return b;
  if ((op === "*" || op === "^") && is(b, 1)) return a;
  if (op === "+" && is(a, 0)) return b;
  if ((op === "+" || op === "-") && is(b, 0)) return a;
  if (op === "/" && is(a, 0)) return a;
  if ("number" in a && b && "number" in b) return { number: compiled({ op, a, b })(0) };
  return { op, a, b };
}

function derivative(node) {
  if ("number" in node) return { number: 0 };
  if (node.r) return { number: 1 };
  const { op, a, b } = node;
  const da = derivative(a);
  if (op === "exp") return made("*", node, da);
  if (op === "log") return made("/", da, a);
  if (op === "^" && "number" in b) return made("*", made("*", b, made("^", a, { number: b.number - 1 })), da);
  if (op === "^") return derivative({ op: "exp", a: made("*", b, { op: "log", a }) });
  const db = derivative(b);
  if (op === "+" || op === "-") return made(op, da, db);
  if (op === "*") return made("+", made("*", da, b), made("*", a, db));
  return made("/", made("-", made("*", da, b), made("*", a, db)), made("*", b, b));
}

// h'' of a typed h; an Error that says what is wrong, also where h is not convex
function generator(text) {
  const h2 = compiled(derivative(derivative(inR(text))));
  for (let i = 0; i <= 80; i++) {
    const r = 10 ** (-4 + i / 16); // to 10: no optimum goes beyond
    const found = h2(r);
    if (!Number.isFinite(found) || found <= 0) throw new Error(`h is not convex at r = ${r.toPrecision(2)}: h'' is ${Number.isNaN(found) ? "no number" : found.toPrecision(2)}`);
  }
  return h2;
}

const DIL = {
  sum, normalized, sigmoid, bradleyTerry, winRate, chosen, rejected, softBestOf, rejectedOf, rlhf, fittedReward, kl, bisect, RATIO, ratioOf, published,
  weighted, unique, drawPair, drawFromGroup, fitted, inR, compiled, derivative, generator,
};
if (typeof module !== "undefined") module.exports = DIL;
