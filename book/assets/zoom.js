// On a telephone a figure is smaller than its labels were drawn for: a tap, or Enter, shows it at its own size; Escape or a tap closes it.
(() => {
  const dialog = document.createElement("dialog");
  dialog.className = "zoom";
  const close = document.createElement("button");
  close.textContent = "Close";
  dialog.addEventListener("click", () => dialog.close());
  dialog.addEventListener("keydown", (event) => { if (event.key === "Escape") dialog.close(); });

  function open(image) {
    const large = new Image();
    large.src = image.src;
    large.alt = image.alt;
    dialog.replaceChildren(close, large);
    dialog.showModal();
  }

  function ready(image) {
    image.closest("a.image-reference")?.replaceWith(image); // a link to the file alone
    if (image.dataset.zoom || image.closest("a, dialog") || image.naturalWidth <= image.clientWidth * 1.15) return;
    image.dataset.zoom = "yes";
    image.tabIndex = 0;
    image.setAttribute("role", "button");
    image.setAttribute("aria-label", `${image.alt} (show larger)`);
    image.addEventListener("click", () => open(image));
    image.addEventListener("keydown", (event) => { if (event.key === "Enter") { event.preventDefault(); open(image); } });
  }

  addEventListener("DOMContentLoaded", () => {
    document.body.append(dialog);
    const look = () => document.querySelectorAll(".bd-article img").forEach((image) => (image.complete ? ready(image) : image.addEventListener("load", () => ready(image))));
    look();
    new MutationObserver(look).observe(document.body, { childList: true, subtree: true }); // panels bring theirs later
  });
})();
