// Lays out graphs with Graphviz: a JSON list of DOT texts on standard input, a JSON list of SVG texts on standard output.
import { text } from "node:stream/consumers";
import { instance } from "@viz-js/viz";

const viz = await instance();
const graphs = JSON.parse(await text(process.stdin));
process.stdout.write(JSON.stringify(graphs.map((dot) => viz.renderString(dot, { format: "svg" }))));
