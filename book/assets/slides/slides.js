// On a telephone slides are a page to scroll, in letters of a page.  Else arrow keys turn them, except while a slider has the focus:
// then they move it.  S opens the speaker's window, which shows slides in frames; ? lists all keys.
if (matchMedia("(max-width: 720px)").matches && window === window.top) {
  document.documentElement.classList.add("scrolled");
  for (const fragment of document.querySelectorAll(".fragment")) { // what waits for a key waits for a tap
    const fold = document.createElement("details");
    fold.innerHTML = "<summary>Show what comes out</summary>";
    fragment.before(fold);
    fold.append(fragment);
  }
} else Reveal.initialize({
  width: 1280, height: 720, margin: 0.04, hash: true, slideNumber: "c/t", transition: "none", center: false,
  plugins: [RevealNotes],
  keyboardCondition: () => !document.activeElement?.closest(".panel"),
});
