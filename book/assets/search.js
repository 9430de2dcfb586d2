// What a result of the search quotes is from the article, not from the lists of contents around it; of an index entry from its section.
"use strict";
addEventListener("DOMContentLoaded", () => {
  if (typeof Search === "undefined") return; // any other page
  const textOf = Search.htmlToText;
  Search.htmlToText = (page, anchor) => {
    const article = new DOMParser().parseFromString(page, "text/html").querySelector("article.bd-article");
    const place = (anchor && article?.querySelector(anchor)?.closest("section")) || article;
    return textOf(place ? `<div role="main">${place.innerHTML}</div>` : page);
  };
});
