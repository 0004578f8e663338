// Stands in for mermaid in the script of sphinxcontrib-mermaid: the library (0.8 MB) is fetched when the page has loaded,
// so that it does not hold up the text, and draws when the font it has to measure is there.
let config;

export default {
  initialize(value) {
    config = value;
  },
  async run(options) {
    const { default: mermaid } = await import("./vendor/mermaid/mermaid.esm.min.mjs");
    await document.fonts.ready;
    mermaid.initialize(config);
    await mermaid.run(options);
  },
};
