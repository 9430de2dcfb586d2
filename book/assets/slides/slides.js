// Arrow keys turn slides, except while a slider has the focus: then they move it.  S opens the speaker's window, ? lists all keys.
Reveal.initialize({
  width: 1280, height: 720, margin: 0.04, hash: true, slideNumber: "c/t", transition: "none", center: false,
  plugins: [RevealNotes],
  keyboardCondition: () => !document.activeElement?.closest(".panel"),
});
