// Panels: the browser's own sliders and menus over drawn frames; arrow keys move them. Pictures load once a panel comes near.
(() => {
  const near = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      near.unobserve(target);
      target.querySelectorAll("img[loading=lazy]").forEach((image) => { image.loading = "eager"; });
    }
  }, { rootMargin: "800px" });

  function ready(panel) {
    const controls = [...panel.querySelectorAll("input, select")];
    const frames = [...panel.querySelectorAll(".frame")];
    const show = () => {
      for (const slider of panel.querySelectorAll("input")) {
        const value = JSON.parse(slider.dataset.values)[slider.value];
        slider.setAttribute("aria-valuetext", value);
        slider.parentElement.querySelector("output").textContent = value;
      }
      const at = controls.map((control) => control.value).join("-");
      for (const frame of frames) frame.hidden = frame.dataset.at !== at;
    };
    panel.addEventListener("input", show);
    panel.addEventListener("keydown", (event) => event.stopPropagation()); // slides have keys of their own
    show(); // a browser may have kept where a slider stood
    near.observe(panel);
  }

  addEventListener("DOMContentLoaded", () => document.querySelectorAll(".panel").forEach(ready));

  // The playground on its own opens as it stands in the page.
  addEventListener("DOMContentLoaded", () => {
    const [frame, link] = [document.querySelector("iframe.playground"), document.querySelector("a[href$='playground/index.html']")];
    link?.addEventListener("click", () => {
      try {
        link.hash = frame.contentWindow.location.hash;
      } catch {
        // opened as a file: a frame's address is its own
      }
    });
  });

  // The playground says how high it is.
  addEventListener("message", ({ origin, source, data }) => {
    if (origin !== location.origin || !data?.playground) return;
    for (const frame of document.querySelectorAll("iframe.playground")) {
      if (frame.contentWindow === source) frame.style.height = `${data.playground}px`;
    }
  });
})();
