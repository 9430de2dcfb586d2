// What answers a prediction waits until a reader asks for it: the cell that follows, and the text to the next cell or heading.
"use strict";
addEventListener("DOMContentLoaded", () => {
  for (const asked of document.querySelectorAll(".bd-article p > strong")) {
    if (!asked.textContent.startsWith("Predict")) continue;
    const paragraph = asked.parentElement;
    const answer = [];
    for (let next = paragraph.nextElementSibling; next && !next.matches("section, h2, h3"); next = next.nextElementSibling) {
      const isCell = next.matches("div.cell");
      if (isCell && answer.some((part) => part.matches("div.cell"))) break;
      answer.push(next);
    }
    if (!answer.length) continue;
    const fold = document.createElement("details");
    fold.className = "prediction";
    fold.innerHTML = "<summary>I have a prediction: show what comes out</summary>";
    paragraph.after(fold);
    fold.append(...answer);
  }
});
