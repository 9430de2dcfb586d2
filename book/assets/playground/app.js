// What is seen and touched in the playground; all numbers come from math.js.
"use strict";

const WORDS = ["lovely", "fine", "odd", "dull", "awful"];
const START = {
  ref: [0.1, 0.3, 0.25, 0.2, 0.15], reward: [1.5, 1, 0, -0.5, -1.5], labeler: "rewards", beta: 0, K: 2, weight: 0.5, h: "", hidden: [8],
  any: [[50, 20, 90, 60, 70], [80, 50, 30, 70, 60], [10, 70, 50, 80, 90], [40, 30, 20, 50, 55], [30, 40, 10, 45, 50]],
};
const CURVES = COLORS; // [label, color, dash of its line], from colors.js
const [RLHF, WEIGHTED] = [2, 8]; // their places among them
const SIZES = [2, 3, 4, 6, 8, 16, 32, 64, 256, 1024]; // of K
const nearest = (values, x) => values.reduce((best, one) => (Math.abs(one - x) < Math.abs(best - x) ? one : best));
const share = (text) => (text === null || !(Number(text) >= 0 && Number(text) <= 1) ? START.weight : Number(text));
// A matrix of preferences from the numbers of an address: what stands above the diagonal decides.
const consistent = (list) => WORDS.map((_, y) => WORDS.map((_, z) => (y === z ? 50 : y < z ? list[5 * y + z] : 100 - list[5 * z + y])));
let state = read();
let pairs = [];

// --- The address keeps the state ---------------------------------------------------------------------------------------

function read() {
  const found = new URLSearchParams(location.hash.slice(1));
  const numbers = (name, low, high) => {
    const list = (found.get(name) || "").split(",").map(Number);
    return list.length === 5 && list.every((x) => Number.isFinite(x) && x >= low && x <= high) ? list : [...START[name]];
  };
  const any = (found.get("any") || "").split(",").map(Number);
  return {
    ref: DIL.normalized(numbers("ref", 0.001, 1)), reward: numbers("reward", -4, 4),
    labeler: found.get("labeler") === "any" ? "any" : "rewards",
    beta: Math.min(1, Math.max(-1, Number(found.get("beta")) || 0)),
    K: nearest(SIZES, Number(found.get("K")) || 2), weight: share(found.get("weight")), h: (found.get("h") || "").slice(0, 80),
    hidden: found.has("hidden") ? found.get("hidden").split(",").filter((x) => x !== "").map(Number) : [...START.hidden],
    any: any.length === 25 && any.every((x) => x >= 0 && x <= 100) ? consistent(any) : START.any.map((row) => [...row]),
  };
}

function keep() {
  const short = (list) => list.map((x) => Number(x.toFixed(4))).join(",");
  const address = new URLSearchParams({ ref: short(state.ref), reward: short(state.reward), labeler: state.labeler, beta: state.beta, K: state.K, weight: state.weight });
  if (state.h) address.set("h", state.h);
  address.set("hidden", state.hidden.join(","));
  if (state.labeler === "any") address.set("any", state.any.flat().join(","));
  history.replaceState(null, "", `#${address}`);
}

// --- From the state to the distributions --------------------------------------------------------------------------------

function preference() {
  return state.labeler === "rewards" ? DIL.bradleyTerry(state.reward) : state.any.map((row) => row.map((x) => x / 100));
}

let last_h = {};
function read_h(text) { // once, not at every frame
  if (last_h.text !== text) last_h = { text, second: DIL.generator(text) };
  return last_h.second;
}

function distributions() {
  const { ref, K } = state;
  const P = preference();
  const groups = state.labeler === "rewards" && K > 2;
  const winners = groups ? DIL.softBestOf(ref, state.reward, K) : DIL.chosen(ref, P);
  const losers = groups ? DIL.rejectedOf(ref, winners, K) : DIL.rejected(ref, P);
  const A = winners.map((p, y) => p / ref[y]);
  const B = losers.map((p, y) => p / ref[y]);
  const ends = ["lsif", "ukl", "bce"].map((h) => DIL.published(ref, A, B, DIL.RATIO[h]));
  const found = [ref, winners, null, ...ends, null, null, DIL.weighted(ref, A, B, state.weight)];
  const reward = state.labeler === "rewards" ? state.reward : DIL.fittedReward(ref, DIL.winRate(ref, P));
  if (reward) found[RLHF] = DIL.rlhf(ref, reward, 10 ** state.beta);
  let said = "";
  if (state.h.trim()) {
    try {
      const second = read_h(state.h);
      if (DIL.unique(A, B, second)) found[6] = DIL.published(ref, A, B, DIL.ratioOf(second));
      else said = "With this h the loss has several stationary points here: which one training finds depends on the start.";
    } catch (error) {
      said = `h: ${error.message}.`;
    }
  }
  if (pairs.length) found[7] = DIL.fitted(pairs, ref.length);
  return { found, said };
}

// --- Bars to drag -------------------------------------------------------------------------------------------------------

const x = d3.scaleBand(WORDS, [34, 414]).padding(0.25);

function bars(id, { low, high, step, name, set, shown }) {
  const y = d3.scaleLinear([low, high], [128, 8]);
  const svg = d3.select(id);
  svg.append("g").attr("class", "axis").attr("transform", "translate(34,0)").attr("aria-hidden", "true").call(d3.axisLeft(y).ticks(5));
  svg.append("g").attr("class", "axis").attr("transform", "translate(0,128)").attr("aria-hidden", "true").call(d3.axisBottom(x).tickSize(0).tickPadding(7));
  const clamped = (value) => Math.min(high, Math.max(low, value));
  const handles = svg.selectAll(".handle").data(WORDS).join("g")
    .attr("class", "handle").attr("tabindex", 0).attr("role", "slider").attr("aria-orientation", "vertical")
    .attr("aria-label", (word) => `${name} ${word}`).attr("aria-valuemin", low).attr("aria-valuemax", high)
    .call(d3.drag().container(svg.node()).filter((event) => !event.button && (!event.touches || event.target.matches(".knob"))).on("start drag", (event, word) => {
      event.sourceEvent.target.closest?.(".handle")?.focus();
      change(() => set(WORDS.indexOf(word), clamped(y.invert(event.y))));
    }))
    .on("keydown", (event, word) => {
      const steps = { ArrowUp: 1, ArrowRight: 1, ArrowDown: -1, ArrowLeft: -1, PageUp: 5, PageDown: -5 }[event.key];
      const to = { Home: low, End: high }[event.key];
      if (steps === undefined && to === undefined) return;
      event.preventDefault();
      change(() => set(WORDS.indexOf(word), to ?? clamped(shown()[WORDS.indexOf(word)] + steps * step)));
    });
  handles.append("rect").attr("class", "grip").attr("x", (word) => x(word)).attr("y", 0).attr("width", x.bandwidth()).attr("height", 128);
  handles.append("rect").attr("class", "bar").attr("x", (word) => x(word)).attr("width", x.bandwidth()).attr("rx", 2);
  handles.append("circle").attr("class", "knob").attr("r", 15).attr("cx", (word) => x(word) + x.bandwidth() / 2);
  handles.append("text").attr("x", (word) => x(word) + x.bandwidth() / 2).attr("text-anchor", "middle").attr("aria-hidden", "true");
  return () => {
    const values = shown();
    const zero = y(Math.max(low, Math.min(0, high)));
    handles.attr("aria-valuenow", (word, i) => Number(values[i].toFixed(3)));
    handles.select(".bar").attr("y", (word, i) => Math.min(zero, y(values[i])) - 1).attr("height", (word, i) => Math.abs(y(values[i]) - zero) + 2);
    handles.select(".knob").attr("cy", (word, i) => y(values[i]));
    handles.select("text").attr("y", (word, i) => (values[i] >= 0 ? y(values[i]) - 4 : y(values[i]) + 14)).text((word, i) => values[i].toFixed(low < 0 ? 1 : 2));
  };
}

function setRef(place, to) { // the others keep their proportions
  const others = 1 - state.ref[place];
  const now = Math.min(0.96, Math.max(0.01, to));
  state.ref = DIL.normalized(state.ref.map((p, y) => (y === place ? now : Math.max(0.002, (p / others) * (1 - now)))));
}

const drawRef = bars("#ref", { low: 0, high: 1, step: 0.02, name: "probability of", set: setRef, shown: () => state.ref });
const drawReward = bars("#reward", { low: -4, high: 4, step: 0.2, name: "reward of", shown: () => state.reward,
  set: (place, to) => { state.reward[place] = Number(to.toFixed(2)); } });

// --- A preference matrix -------------------------------------------------------------------------------------------------

const table = d3.select("#preference");
table.append("thead").append("tr").selectAll("th").data(["", ...WORDS]).join("th").attr("scope", "col").text((word) => word);
const cells = table.append("tbody").selectAll("tr").data(WORDS).join("tr");
cells.append("th").attr("scope", "row").text((word) => word);
cells.each(function (word, row) {
  d3.select(this).selectAll("td").data(WORDS).join("td").each(function (other, column) {
    if (row === column) {
      d3.select(this).attr("class", "n").text("50");
      return;
    }
    d3.select(this).append("input").attr("type", "number").attr("min", 0).attr("max", 100).attr("step", 5)
      .attr("aria-label", `${word} beats ${other}, per cent`).attr("data-place", `${row},${column}`)
      .on("input", (event) => {
        const typed = event.target.valueAsNumber;
        if (!(typed >= 0 && typed <= 100)) return;
        change(() => {
          state.any[row][column] = typed;
          state.any[column][row] = 100 - typed;
        });
      })
      .on("change", (event) => { event.target.value = state.any[row][column]; }); // what was typed and is no share goes
  });
});

function drawPreference() {
  table.selectAll("input").each(function () {
    const [row, column] = this.dataset.place.split(",").map(Number);
    if (document.activeElement !== this) this.value = Number(state.any[row][column].toFixed(1));
  });
}

// --- The distributions -----------------------------------------------------------------------------------------------------

const svg = d3.select("#optima");
const wide = d3.scalePoint(WORDS, [44, 550]).padding(0.5);
const axis = svg.append("g").attr("class", "axis").attr("transform", "translate(44,0)");
svg.append("g").attr("class", "axis").attr("transform", "translate(0,220)").call(d3.axisBottom(wide).tickSize(0).tickPadding(9));
const lines = svg.append("g").attr("fill", "none").attr("stroke-width", 2);
const dots = svg.append("g");
const rows = d3.select("#table");
rows.append("thead").append("tr").selectAll("th").data(["distribution", "KL(chosen ‖ it)", "KL(it ‖ reference)"]).join("th")
  .attr("scope", "col").attr("class", (text, i) => (i ? "n" : "")).text((text) => text);
const body = rows.append("tbody").selectAll("tr").data(CURVES).join("tr");
const named = body.append("th").attr("scope", "row").append("label");
named.append("input").attr("type", "checkbox").on("change", (event, curve) => change(() => {
  const place = CURVES.indexOf(curve);
  state.hidden = event.target.checked ? state.hidden.filter((i) => i !== place) : [...state.hidden, place].sort();
}));
// A color as it is seen on a dark page: of the same hue, lighter where it would be lost.
function ink(color) {
  const seen = d3.lab(color);
  if (document.documentElement.dataset.theme === "dark") seen.l = Math.max(seen.l, 58);
  return seen.formatHex();
}

const sample = named.append("svg").attr("viewBox", "0 0 34 16").attr("aria-hidden", "true"); // a piece of its line
sample.append("path").attr("d", "M1,8 H33").attr("stroke-width", 3).attr("stroke-dasharray", ([, , dash]) => dash || null);
sample.append("circle").attr("cx", 17).attr("cy", 8).attr("r", 4);
const label = named.append("span");
body.append("td").attr("class", "n chosen");
body.append("td").attr("class", "n reference");

function drawDistributions(found) {
  const shown = CURVES.map((curve, i) => ({ curve, i, values: found[i] })).filter(({ values, i }) => values && !state.hidden.includes(i));
  const top = Math.max(0.3, ...shown.flatMap(({ values }) => values)) * 1.05;
  const y = d3.scaleLinear([0, top], [220, 8]);
  axis.call(d3.axisLeft(y).ticks(6));
  lines.selectAll("path").data(shown, ({ i }) => i).join("path")
    .attr("stroke", ({ curve }) => ink(curve[1])).attr("stroke-dasharray", ({ curve }) => curve[2] || null).attr("opacity", 0.8)
    .attr("d", ({ values }) => d3.line((p, k) => wide(WORDS[k]), (p) => y(p))(values));
  dots.selectAll("g").data(shown, ({ i }) => i).join("g").attr("fill", ({ curve }) => ink(curve[1]))
    .selectAll("circle").data(({ values }) => values).join("circle").attr("r", 4).attr("cx", (p, k) => wide(WORDS[k])).attr("cy", (p) => y(p));
  sample.select("path").attr("stroke", ([, color]) => ink(color));
  sample.select("circle").attr("fill", ([, color]) => ink(color));
  const dpo = found[RLHF] ? "DPO: RLHF on the reward it fits" : "DPO: no optimum was found";
  const names = CURVES.map(([name], i) => (i === RLHF && state.labeler === "any" ? dpo : name));
  label.text((curve, i) => names[i]);
  const [reference, winners] = found;
  const shownNumber = (value) => (value === Infinity ? "∞" : Math.abs(value).toFixed(3));
  body.classed("absent", (curve, i) => !found[i]).attr("hidden", (curve, i) => (found[i] || i === RLHF ? null : ""));
  body.select("input").property("checked", (curve, i) => !state.hidden.includes(i));
  body.select(".chosen").text((curve, i) => (found[i] ? shownNumber(DIL.kl(winners, found[i])) : ""));
  body.select(".reference").text((curve, i) => (found[i] ? shownNumber(DIL.kl(found[i], reference)) : ""));
  svg.attr("aria-label", `Probabilities of ${WORDS.join(", ")}: ` + shown.map(({ i, values }) => `${names[i]} ${values.map((p) => p.toFixed(2)).join(" ")}`).join("; "));
}

// --- Everything moves together -------------------------------------------------------------------------------------------

let asked = false;
function draw() {
  asked = false;
  drawRef();
  drawReward();
  drawPreference();
  d3.select("#rewards-part").attr("hidden", state.labeler === "rewards" ? null : "");
  d3.select("#any-part").attr("hidden", state.labeler === "any" ? null : "");
  d3.selectAll("[name=labeler]").property("checked", function () { return this.value === state.labeler; });
  d3.select("#beta").property("value", state.beta);
  d3.select("#beta-value").text((10 ** state.beta).toFixed(2));
  d3.select("#K").property("value", SIZES.indexOf(state.K)).property("disabled", state.labeler === "any").attr("aria-valuetext", state.K);
  d3.select("#weight").property("value", state.weight);
  d3.select("#weight-value").text(state.weight.toFixed(2));
  d3.select("#K-value").text(state.labeler === "any" ? 2 : state.K);
  if (document.activeElement !== document.querySelector("#h")) d3.select("#h").property("value", state.h);
  const { found, said } = distributions();
  d3.select("#h-said").text(said);
  drawDistributions(found);
  const last = pairs[pairs.length - 1];
  d3.select("#pairs-said").text(last ? `${pairs.length} pairs; the last one: ${WORDS[last[0]]} beat ${WORDS[last[1]]}` : "No pair yet.");
  keep();
}

function change(how, keepsPairs = false) {
  how();
  if (!keepsPairs) pairs = []; // they were drawn in another world
  if (!asked) requestAnimationFrame(draw);
  asked = true;
}

d3.selectAll("[name=labeler]").on("change", (event) => change(() => { state.labeler = event.target.value; }));
d3.select("#beta").on("input", (event) => change(() => { state.beta = Number(event.target.value); }, true));
d3.select("#K").on("input", (event) => change(() => { state.K = SIZES[event.target.value]; }));
d3.select("#weight").on("input", (event) => change(() => {
  state.weight = Number(event.target.value);
  state.hidden = state.hidden.filter((i) => i !== WEIGHTED); // what moves is seen
}, true));
d3.select("#h").on("input", (event) => change(() => { state.h = event.target.value.slice(0, 80); }, true));
d3.selectAll("[data-draw]").on("click", (event) => change(() => {
  const P = preference();
  const groups = state.labeler === "rewards" && state.K > 2;
  const one = () => (groups ? DIL.drawFromGroup(state.ref, state.reward, state.K, Math.random) : DIL.drawPair(state.ref, P, Math.random));
  for (let i = 0; i < Number(event.target.dataset.draw); i++) pairs.push(one());
}, true));
d3.select("#clear").on("click", () => change(() => { pairs = []; }));
d3.select("#reset").on("click", () => change(() => { location.hash = ""; state = read(); }));
addEventListener("hashchange", () => { state = read(); pairs = []; draw(); });

// --- In a page of the book: its colors, and as high as the content --------------------------------------------------------

function outside() { // the page that shows this one, if it is of the same site
  try {
    return parent !== window && parent.document.documentElement;
  } catch {
    return null; // opened as a file
  }
}

function theme() {
  const dark = outside()?.dataset?.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
  document.documentElement.dataset.theme = dark;
  draw();
}

theme();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", theme);
if (outside()) new MutationObserver(theme).observe(outside(), { attributeFilter: ["data-theme"] });
new ResizeObserver(() => parent.postMessage({ playground: Math.ceil(document.querySelector("main").getBoundingClientRect().height) }, "*")).observe(document.querySelector("main"));
