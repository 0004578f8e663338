// Takes the rules that no page of the built site can use out of the theme's style sheets: node purge.mjs SITE
import { writeFileSync } from "node:fs";
import { PurgeCSS } from "purgecss";

const assets = `${process.argv[2]}/_static`;
const results = await new PurgeCSS().purge({
  content: [`${process.argv[2]}/**/*.html`, `${assets}/**/*.js`],
  css: [`${assets}/styles/*.css`, `${assets}/basic.css`, `${assets}/mystnb.*.css`],
});
for (const { file, css } of results) writeFileSync(file, css);
