// Typesets TeX with MathJax: one JSON request a line on standard input, one JSON answer a line on standard output.
// Request {tex, display} -> {html} or {error}; request {} -> {css}, the rules that the answers so far need.
import { createInterface } from "node:readline";
import mathjax from "mathjax";

const MathJax = await mathjax.init({
  loader: { load: ["input/tex", "output/chtml", "a11y/assistive-mml"] },
  options: { enableAssistiveMml: true },
  tex: {
    packages: { "[-]": ["noundefined"] },
    formatError: (_, error) => { throw error; },
  },
  chtml: { fontURL: process.argv[2], adaptiveCSS: true },
});
const adaptor = MathJax.startup.adaptor;

// Lets an equation within a line go on in the next after a relation or an operation (spaces of 4 or 3 on both sides), as
// TeX does; the style sheet does the rest.
function allowBreaks(container) {
  const parts = adaptor.childNodes(adaptor.firstChild(container));
  parts.slice(1).forEach((part, index) => {
    const operator = parts[index], space = adaptor.getAttribute(operator, "space");
    if (adaptor.kind(operator) === "mjx-mo" && space >= "3" && space === adaptor.getAttribute(part, "space"))
      adaptor.insert(adaptor.node("wbr"), part);
  });
  return container;
}

async function typeset(tex, display) {
  const container = await MathJax.tex2chtmlPromise(tex, { display });
  return display ? container : allowBreaks(container);
}

for await (const line of createInterface({ input: process.stdin })) {
  const { tex, display } = JSON.parse(line);
  let answer;
  try {
    answer = tex === undefined
      ? { css: adaptor.textContent(MathJax.chtmlStylesheet()) }
      : { html: adaptor.outerHTML(await typeset(tex, display)) };
  } catch (error) {
    answer = { error: String(error.message) };
  }
  process.stdout.write(JSON.stringify(answer) + "\n");
}
