// Draws the figures that llmbook.viz.show_attention left on the page, each in a frame of its own that cannot reach the
// page. A figure's picture stays where this does not run, and until its view has been drawn.
(() => {
  const unpack = async (text) => {
    const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).json();
  };
  // This script stands within a page itself, so it must not spell out what ends a script.
  const inline = (code) => `<script>${code.replace(/<(\/script|!--)/g, "<\\$1")}<\/script>`;

  // The page's own colours say whether it is light or dark: no list of sites and their themes.
  const look = (view) => {
    const ink = getComputedStyle(view).color;
    let paper = "", node = view;
    for (; node && (!paper || paper === "transparent" || /, 0\)$/.test(paper)); node = node.parentElement)
      paper = getComputedStyle(node).backgroundColor;
    const [red, green, blue] = (ink.match(/[\d.]+/g) || [0, 0, 0]).map(Number);
    const dark = 0.3 * red + 0.6 * green + 0.1 * blue > 128;
    if (!paper || paper === "transparent" || /, 0\)$/.test(paper)) paper = dark ? "#111" : "#fff";
    return {dark, text: `color-scheme:${dark ? "dark" : "light"};--ink:${ink};--paper:${paper}`};
  };

  // Follows the page's theme; a frame that a cell's next run has left behind ends its own watch.
  const follow = (reference) => {
    const watch = new MutationObserver(() => {
      if (!reference.deref()) watch.disconnect();
      for (const wait of [0, 300, 1500]) setTimeout(() => reference.deref()?.fill(), wait);
    });
    const attributeFilter = ["class", "data-theme", "data-jp-theme-light", "data-jp-theme-name", "theme"];
    for (const node of [document.documentElement, document.body]) watch.observe(node, {attributeFilter});
  };

  const draw = async (view) => {
    const [scripts, data] = await Promise.all(
      [view.dataset.scripts || self.llmbookViewScripts, view.dataset.attention].map(unpack));
    const libraries = scripts.libraries === null ? scripts.tags : inline(scripts.libraries);
    const picture = view.querySelector("img");
    const frame = document.createElement("iframe");
    frame.title = picture.alt;
    frame.className = "lm-frame";
    frame.setAttribute("sandbox", "allow-scripts");
    // A frame without size is not laid out; until it is drawn, this one lies unseen over the picture.
    frame.style.cssText = "display:block;width:100%;height:300px;border:0;position:absolute;opacity:0;pointer-events:none";
    let drawn = "", loading = false;
    frame.fill = () => {
      const {dark, text} = look(view);
      if (text === drawn || loading || !view.isConnected) return;
      drawn = text;
      loading = true;
      const page = `<html lang="${document.documentElement.lang || "en"}" style="${text}"${dark ? " data-dark" : ""}>`;
      frame.srcdoc = data.html
        .replace("<html>", () => page)
        .replace("%%scripts%%", () => libraries + inline(scripts[data.view]));
    };
    frame.addEventListener("load", () => {
      loading = false;
      frame.fill(); // the theme may have changed meanwhile
      const {port1, port2} = new MessageChannel();
      port1.onmessage = ({data: height}) => {
        if (!height) return;
        frame.style.cssText = `display:block;width:100%;height:${height}px;border:0`;
        picture.hidden = true;
      };
      frame.contentWindow.postMessage("size", "*", [port2]);
    });
    frame.fill();
    picture.after(frame);
    follow(new WeakRef(frame));
  };

  const near = new IntersectionObserver((entries) => {
    for (const {isIntersecting, target} of entries)
      if (isIntersecting) {
        near.unobserve(target);
        draw(target).catch((error) => console.warn("the view stays a picture:", error));
      }
  }, {rootMargin: "50%"});
  for (const view of document.querySelectorAll(".lm-bertviz:not([data-ready])")) {
    view.dataset.ready = "";
    near.observe(view);
  }
})();
