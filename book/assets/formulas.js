// Formulas, set by KaTeX: where Sphinx wrote them, or, on slides and the cheat sheet, wherever dollars stand.
(() => {
  const folder = document.currentScript.src;

  function setFormulas() {
    for (const node of document.querySelectorAll(".math")) {
      const number = node.querySelector(".eqno");
      number?.remove();
      const tex = node.textContent.trim();
      katex.render(tex.slice(2, -2), node, { displayMode: tex.startsWith("\\["), throwOnError: false });
      if (number) node.prepend(number);
    }
  }

  addEventListener("DOMContentLoaded", () => {
    if (window.renderMathInElement) {
      const pair = (left, right, display) => ({ left, right, display });
      const delimiters = [pair("$$", "$$", true), pair("$", "$", false), pair("\\(", "\\)", false), pair("\\[", "\\]", true)];
      renderMathInElement(document.body, { delimiters, throwOnError: false });
    } else if (document.querySelector(".math")) {
      const script = document.createElement("script"); // only a page with formulas loads KaTeX
      script.src = new URL("vendor/katex.min.js", folder);
      script.onload = setFormulas;
      document.head.append(script);
    }
  });
})();
