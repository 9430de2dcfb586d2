// What you have read stays in your browser: a page read to its end gets a mark in the list of pages. Nothing is sent anywhere.
(() => {
  const KEY = "dil-read";
  const read = () => new Set(JSON.parse(localStorage.getItem(KEY) ?? "[]"));
  const nameOf = (address) => new URL(address, location.href).pathname.split("/").pop();

  function mark() {
    const done = read();
    for (const link of document.querySelectorAll(".bd-links a.reference.internal")) {
      link.parentElement.classList.toggle("was-read", done.has(nameOf(link.href)));
    }
  }

  addEventListener("DOMContentLoaded", () => {
    mark();
    // the theme's buttons that unfold the list have no name
    for (const summary of document.querySelectorAll(".bd-links summary")) {
      summary.setAttribute("aria-label", `Pages below ${summary.closest("li").querySelector("a").textContent}`);
    }
    const page = document.querySelector("article.bd-article");
    const look = () => {
      if (!page || page.getBoundingClientRect().bottom > innerHeight + 200) return;
      localStorage.setItem(KEY, JSON.stringify([...read().add(nameOf(location.href))]));
      removeEventListener("scroll", look);
      mark();
    };
    addEventListener("scroll", look, { passive: true });
  });
})();
