// Formulas, set by KaTeX: where Sphinx wrote them, or, on slides and the cheat sheet, wherever dollars stand.
addEventListener("DOMContentLoaded", () => {
  if (!window.katex) return; // a page without formulas
  if (window.renderMathInElement) {
    const pair = (left, right, display) => ({ left, right, display });
    const delimiters = [pair("$$", "$$", true), pair("$", "$", false), pair("\\(", "\\)", false), pair("\\[", "\\]", true)];
    renderMathInElement(document.body, { delimiters, throwOnError: false });
    return;
  }
  for (const node of document.querySelectorAll(".math")) {
    const number = node.querySelector(".eqno");
    number?.remove();
    const tex = node.textContent.trim();
    katex.render(tex.slice(2, -2), node, { displayMode: tex.startsWith("\\["), throwOnError: false });
    if (number) node.prepend(number);
  }
});
