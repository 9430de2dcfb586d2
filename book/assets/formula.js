// A formula that somebody types: numbers, per cents, names, + - * / ^, exp, log (ln), sqrt. For the playground and the fields of exercises.
"use strict";
const FORMULA = (() => {
  // Its tree; names maps each name that may stand in it to a node, {number: 2} or {r: true}. An Error says what is wrong.
  function parse(text, names) {
    const words = text.replaceAll("**", "^").match(/(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?|[a-z]+|\S/g) || [];
    const known = `${Object.keys(names).join(", ")}, numbers, + - * / ^, exp, log, sqrt`;
    let place = 0;
    const take = (word) => (words[place] === word ? ((place += 1), true) : false);
    function atom() {
      const word = words[place++];
      if (word === undefined) throw new Error("the formula ends too early");
      if (word === "(") {
        const inner = added();
        if (!take(")")) throw new Error(words[place] ? `expected ) before ${words[place]}` : "the formula ends, ) is missing");
        return inner;
      }
      if (/^[.\d]/.test(word)) return { number: Number(word) };
      if (Object.hasOwn(names, word)) return names[word];
      if (word === "exp" || word === "log") return { op: word, a: argument(word) };
      if (word === "ln") return { op: "log", a: argument(word) };
      if (word === "sqrt") return { op: "^", a: argument(word), b: { number: 0.5 } };
      throw new Error(`${word} is unknown: there are ${known}`);
    }
    // log 2 needs no brackets; log 1/2, log 2*3, log 2^3 and log 5% could be read in two ways
    function argument(of) {
      const isBare = words[place] !== "(";
      const inner = atom();
      if (isBare && ["/", "*", "^", "%"].includes(words[place])) throw new Error(`put what ${of} is taken of in brackets`);
      return inner;
    }
    function raised() {
      let base = atom();
      while (take("%")) base = { op: "/", a: base, b: { number: 100 } };
      return take("^") ? { op: "^", a: base, b: signed() } : base;
    }
    function signed() {
      if (take("-")) return { op: "*", a: { number: -1 }, b: signed() };
      return take("+") ? signed() : raised();
    }
    function multiplied() {
      let left = signed();
      while (words[place] === "*" || words[place] === "/") left = { op: words[place++], a: left, b: signed() };
      return left;
    }
    function added() {
      let left = multiplied();
      while (words[place] === "+" || words[place] === "-") left = { op: words[place++], a: left, b: multiplied() };
      return left;
    }
    const tree = added();
    if (/^[a-z(]/.test(words[place] ?? "")) throw new Error(`put * before ${words[place]}`);
    if (place < words.length) throw new Error(`${words[place]} does not belong there`);
    return tree;
  }

  // A tree as a function of r
  function compiled(node) {
    if ("number" in node) return () => node.number;
    if (node.r) return (r) => r;
    const a = compiled(node.a);
    if (node.op === "exp") return (r) => Math.exp(a(r));
    if (node.op === "log") return (r) => Math.log(a(r));
    const b = compiled(node.b);
    return {
      "+": (r) => a(r) + b(r), "-": (r) => a(r) - b(r), "*": (r) => a(r) * b(r), "/": (r) => a(r) / b(r), "^": (r) => a(r) ** b(r),
    }[node.op];
  }

  return { parse, compiled };
})();
if (typeof module !== "undefined") module.exports = FORMULA;
