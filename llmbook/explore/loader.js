// Stands in the page beside each figure and does nothing until the figure comes into sight.
(() => {
  if (!(self.Worker && self.DecompressionStream && self.IntersectionObserver && self.ResizeObserver)) return;
  const unpack = async (text) => {
    const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
  };
  const load = async (figure) => {
    const script = document.createElement("script");
    const {script: src, code} = figure.dataset;
    if (code) script.textContent = await unpack(code);
    else script.src = src;
    document.head.append(script);
    if (!code) await new Promise((resolve, reject) => Object.assign(script, {onload: resolve, onerror: reject}));
  };
  const start = async (figure) => {
    const name = figure.dataset.picture ? "llmbookPicture" : "llmbookExplorer";
    try {
      await (self[`${name}Code`] ??= load(figure));
      self[name](figure);
    } catch (error) {
      self[`${name}Code`] = undefined;
      console.warn("the picture stays a still:", error);
    }
  };
  for (const figure of document.querySelectorAll(".lm-explorer:not([data-ready])")) {
    figure.dataset.ready = "";
    if (!figure.dataset.code && !figure.dataset.script) continue; // a stored notebook's output, until its cell is run
    const near = new IntersectionObserver(([{isIntersecting}]) => {
      if (!isIntersecting) return;
      near.disconnect();
      start(figure);
    });
    near.observe(figure);
    if (figure.id && location.hash.startsWith(`#${figure.id}&`)) figure.scrollIntoView();
  }
})();
