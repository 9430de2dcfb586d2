MathJax.Hub ??= { Queue() {} };  // what the widgets' code calls in MathJax 2; formulas are set by MathJax 3 itself

// Arrow keys turn slides, except while a slider has the focus: then they move it.  S opens the speaker's window, ? lists all keys.
Reveal.initialize({
  width: 1280, height: 720, margin: 0.04, hash: true, slideNumber: "c/t", transition: "none", center: false,
  plugins: [RevealNotes],
  keyboardCondition: () => !document.activeElement?.closest(".jupyter-widgets"),
});

// The speaker's window has no style sheet that hides the copy of a formula which is for screen readers: there each would stand twice.
MathJax.startup.promise.then(() => document.querySelectorAll("aside.notes mjx-assistive-mml").forEach((copy) => copy.remove()));
