// Exercises: a field checks a number as check() does in a notebook. What was solved stays in this browser.
"use strict";
(() => {
  const { parse, compiled } = typeof require === "undefined" ? FORMULA : require("./formula.js");
  const NAMES = { pi: { number: Math.PI }, e: { number: Math.E } };

  // A number as one writes it: 0.25, 1/4, 25%, 0,25, (sqrt(3) - 1)/2, e^-2; NaN where it is none.
  function numberOf(text) {
    const plain = text.trim().toLowerCase().replaceAll("−", "-").replaceAll(",", ".").replaceAll("π", "pi");
    try {
      const value = compiled(parse(plain.replace(/%$/, ""), NAMES))() / (plain.endsWith("%") ? 100 : 1);
      return Number.isFinite(value) ? value : NaN;
    } catch {
      return NaN;
    }
  }

  // Whether a number is the right one, rounded to its own digits: at least two that count, or four decimals.
  function rounded(given, right) {
    if (Math.abs(given - right) <= 1e-12) return true;
    const [digits, exponent] = given.toExponential().split("e");
    const whole = Number.isInteger(given) && given !== 0; // 4 is read as 4.0
    const significant = whole ? 2 : digits.replace(/[-.]/g, "").length;
    const places = whole ? 1 : significant - 1 - Number(exponent);
    const enough = (significant >= 2 && places > 0) || places >= 4;
    return enough && Math.abs(given - right) <= 0.5000001 * 10 ** -places;
  }

  // What is said of an answer: one number, or several with blanks, semicolons, or commas and blanks between them.
  function judged(text, asked) {
    const { values, also, hint, tolerance } = asked;
    const parts = values.length === 1 ? [text] : text.trim().replace(/^[[(]|[\])]$/g, "").split(/\s*;\s*|,?\s+(?!%)/);
    const given = parts.map(numberOf);
    const wrong = parts[given.findIndex(Number.isNaN)];
    if (wrong !== undefined) return `Not yet: “${wrong.trim().slice(0, 40)}” is not a number. ${hint}`;
    if (given.length !== values.length) return `Not yet: ${values.length} numbers are asked for, and ${given.length} given. ${hint}`;
    if (given.every((x, i) => Math.abs(x - values[i]) <= tolerance || rounded(x, values[i]))) return "Right.";
    const [first] = given;
    const other = also.find(({ value }) => Math.abs(first - value) <= 1e-3 * Math.max(Math.abs(first), Math.abs(value)));
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
      if (right) localStorage.setItem("dil-solved", JSON.stringify([...solved().add(form.dataset.exercise)]));
      if (solution) solution.hidden = false;
    });
  }

  if (typeof document !== "undefined") addEventListener("DOMContentLoaded", () => document.querySelectorAll("form.answer").forEach(answerable));
  if (typeof module !== "undefined") module.exports = { numberOf, rounded, judged };
})();
