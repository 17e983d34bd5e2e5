// Formulas and diagrams. Their libraries lie on this site, below vendor/, and are loaded only by a page that has some.
// When all is drawn, <html data-drawn="yes"> says so: docs/site/check.py waits for it.
(() => {
  const base = new URL("./vendor/", document.currentScript.src);

  const load = (tag, attributes) =>
    new Promise((resolve, reject) => {
      const element = Object.assign(document.createElement(tag), attributes, { onload: resolve, onerror: reject });
      document.head.append(element);
    });

  async function formulas() {
    const found = document.querySelectorAll(".arithmatex");
    if (!found.length) return;
    await Promise.all([
      load("link", { rel: "stylesheet", href: new URL("katex/katex.min.css", base).href }),
      load("script", { src: new URL("katex/katex.min.js", base).href }),
    ]);
    for (const element of found) {
      const source = element.textContent.trim(); // \( ... \) in a line, \[ ... \] on its own
      katex.render(source.slice(2, -2), element, { displayMode: source.startsWith("\\["), throwOnError: false });
    }
  }

  async function diagrams() {
    const found = [...document.querySelectorAll("pre.diagram")];
    if (!found.length) return;
    const fontFamily = getComputedStyle(document.body).fontFamily; // what the boxes are measured in
    await load("script", { src: new URL("mermaid/mermaid.min.js", base).href });
    const sources = found.map((element) => element.textContent);
    for (const element of found) element.style.fontFamily = fontFamily;
    const draw = async () => {
      const dark = document.body.dataset.mdColorScheme === "slate";
      mermaid.initialize({ startOnLoad: false, theme: dark ? "dark" : "neutral", fontFamily });
      for (const [number, element] of found.entries()) {
        element.innerHTML = (await mermaid.render(`diagram-${number}`, sources[number])).svg;
      }
    };
    await draw();
    new MutationObserver(draw).observe(document.body, { attributeFilter: ["data-md-color-scheme"] });
  }

  document.addEventListener("DOMContentLoaded", async () => {
    for (const draw of [formulas, diagrams]) await draw().catch(console.error);
    document.documentElement.dataset.drawn = "yes";
  });
})();
