// The handles of Jupyter's sliders have no accessible name and speak of places, not values: give each its label and its readout.
new MutationObserver(() => {
  for (const handle of document.querySelectorAll(".noUi-handle")) {
    const slider = handle.closest(".jupyter-widgets");
    const label = slider?.querySelector(".widget-label");
    const readout = slider?.querySelector(".widget-readout");
    if (label) handle.setAttribute("aria-label", label.textContent);
    if (readout) handle.setAttribute("aria-valuetext", readout.textContent);
  }
}).observe(document.documentElement, { childList: true, characterData: true, subtree: true });
