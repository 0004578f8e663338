// What is wider than its box scrolls inside it: let the keyboard reach such boxes, and only such.
new ResizeObserver(() => {
  const boxes = "div.equation, pre, .pst-scrollable-table-container, .cell_output .text_html";
  for (const box of document.querySelectorAll(boxes)) {
    if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
    else box.removeAttribute("tabindex");
  }
}).observe(document.documentElement);

// Paper is white.
const page = document.documentElement;
let onScreen;
addEventListener("beforeprint", () => {
  onScreen = page.dataset.theme;
  page.dataset.theme = "light";
});
addEventListener("afterprint", () => {
  page.dataset.theme = onScreen;
});
