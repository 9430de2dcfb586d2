// What a result of the search quotes is from the article, not from the lists of contents around it.
"use strict";
addEventListener("DOMContentLoaded", () => {
  if (typeof Search === "undefined") return; // any other page
  const textOf = Search.htmlToText;
  Search.htmlToText = (page, anchor) => {
    const article = new DOMParser().parseFromString(page, "text/html").querySelector("article.bd-article");
    return textOf(article ? `<div role="main">${article.innerHTML}</div>` : page, anchor);
  };
});
