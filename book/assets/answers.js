// Exercises: a field checks numbers as check() does in a notebook, and reads formulas, too. What was solved stays in this browser.
"use strict";
(() => {
  const { parse, compiled } = typeof require === "undefined" ? FORMULA : require("./formula.js");
  const NAMES = { pi: { number: Math.PI }, e: { number: Math.E } };

  // A number as one writes it: 0.25, 1/4, 25%, 0,25, 12 000, (sqrt(3) - 1)/2, e^-2. An Error says why it is none.
  function numberOf(text) {
    const plain = text.toLowerCase().replaceAll("−", "-").replaceAll(",", ".").replaceAll("π", "pi").replaceAll("√", "sqrt ");
    const digits = plain.replace(/\s/g, "");
    const value = compiled(parse(/^[-+]?[\d.]+%?$/.test(digits) ? digits : plain, NAMES))();
    if (!Number.isFinite(value)) throw new Error("it is not finite");
    return value;
  }

  // The numbers that somebody typed where n are asked for: [1.5, 0.5], (1.5; 0.5), 1.5 0.5, 1,5 0,5
  function partsOf(text, n) {
    const inside = text.trim().match(/^[[({](.*)[\])}]$/)?.[1] ?? ")";
    let depth = 0; // of brackets inside: (1 + 2)/2; (3) is not all in one pair
    const isOnePair = [...inside].every((sign) => (depth += (sign === "(") - (sign === ")")) >= 0);
    const plain = (isOnePair ? inside : text).trim();
    const ways = [/\s*;\s*/, /\s*,\s+|\s+,\s*/, /\s+(?!%)/, /,/].map((separator) => plain.split(separator));
    return n === 1 ? [plain] : ways.find((parts) => parts.length === n) ?? ways.find((parts) => parts.length > 1) ?? [plain];
  }

  // Whether a number is the right one, rounded to its own digits: at least two that count, or four decimals.
  function rounded(given, right) {
    if (Math.abs(given - right) <= 1e-12) return true;
    const [digits, exponent] = Number(given.toPrecision(12)).toExponential().split("e"); // 34.7 / 100 is 0.347
    const whole = Number.isInteger(given) && given !== 0; // 4 is read as 4.0
    const significant = whole ? 2 : digits.replace(/[-.]/g, "").length;
    const places = whole ? 1 : significant - 1 - Number(exponent);
    const enough = (significant >= 2 && places > 0) || places >= 4;
    return enough && Math.abs(given - right) <= 0.5000001 * 10 ** -places;
  }

  // What is said of an answer.
  function judged(text, { values, also, hint, tolerance }) {
    const parts = partsOf(text, values.length);
    const given = [];
    for (const part of parts) {
      try {
        given.push(numberOf(part));
      } catch (error) {
        return `Not yet: “${part.slice(0, 40)}” is not a number (${error.message}).`;
      }
    }
    if (given.length !== values.length) return `Not yet: ${values.length} numbers are asked for, and ${given.length} given. ${hint}`;
    const near = (x, i) => Math.abs(x - values[i]) <= tolerance;
    if (given.every(near) || given.every((x, i) => rounded(x, values[i]))) return "Right.";
    const other = given.length === 1 && also.find(({ value }) => Math.abs(given[0] - value) <= 1e-3 * Math.max(Math.abs(given[0]), Math.abs(value)));
    return other ? `Right: ${other.says}.` : `Not yet. ${hint}`;
  }

  function solved() {
    try {
      return new Set(JSON.parse(localStorage.getItem("dil-solved") ?? "[]"));
    } catch {
      return new Set();
    }
  }

  // The solution that follows a field appears after a try.
  function solutionAfter(form) {
    const all = [...document.querySelectorAll("form.answer, details")];
    const next = all[all.indexOf(form) + 1];
    return next?.matches("details") ? next : null;
  }

  function answerable(form) {
    const asked = JSON.parse(new TextDecoder().decode(Uint8Array.from(atob(form.dataset.answer), (c) => c.charCodeAt(0))));
    const [field, said, solution] = [form.querySelector("input"), form.querySelector("output"), solutionAfter(form)];
    const before = solved().has(form.dataset.exercise);
    if (before) said.textContent = "Solved before.";
    if (solution) solution.hidden = !before;
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      said.textContent = "";
      if (!field.value.trim()) return;
      said.textContent = judged(field.value, asked);
      const right = said.textContent.startsWith("Right");
      form.classList.toggle("right", right);
      if (solution) solution.hidden = false;
      try {
        if (right) localStorage.setItem("dil-solved", JSON.stringify([...solved().add(form.dataset.exercise)]));
      } catch {
        // a browser that keeps nothing
      }
    });
  }

  if (typeof document !== "undefined") addEventListener("DOMContentLoaded", () => document.querySelectorAll("form.answer").forEach(answerable));
  if (typeof module !== "undefined") module.exports = { numberOf, rounded, judged };
})();
