// What answers a prediction waits until a reader asks for it: what follows, to the end of the next paragraph.
"use strict";
addEventListener("DOMContentLoaded", () => {
  const asks = (part) => part.matches("p") && [...part.querySelectorAll(":scope > strong")].some((words) => words.textContent.startsWith("Predict"));
  for (const asked of [...document.querySelectorAll(".bd-article p")].filter(asks)) {
    const answer = [];
    for (let next = asked.nextElementSibling; next && !next.matches("section, h2, h3"); next = next.nextElementSibling) {
      answer.push(next);
      if (next.matches("p")) break;
    }
    if (!answer.length) continue;
    const fold = document.createElement("details");
    fold.className = "prediction";
    fold.innerHTML = "<summary>I have a prediction: show what comes out</summary>";
    asked.after(fold);
    fold.append(...answer);
    addEventListener("beforeprint", () => { fold.open = true; });
  }
});
