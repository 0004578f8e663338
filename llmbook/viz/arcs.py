"""The book's own attention view: lines from the token pointed at to those it attends to (used from chapter 1)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np

from llmbook.viz.figures import PALETTE
from llmbook.viz.maps import attention_array
from llmbook.viz.tokens import visible


class AttentionView:
    """What ``attention_view`` returns: a notebook shows it as a page, a terminal as one line."""

    def __init__(self, html: str, summary: str) -> None:
        """Keep the HTML and the line."""
        self._html = html
        self._summary = summary

    def _repr_html_(self) -> str:
        return self._html

    def __repr__(self) -> str:
        """Return the line that a terminal shows."""
        return self._summary


def attention_view(
    tokens: Sequence[str],
    weights: Any,
    label: str = "Attention weights",
    head_label: str = "Head",
    heads: Sequence[int] | None = None,
) -> AttentionView:
    """Show which tokens each token attends to: point at a token, or move with the arrow keys.

    ``weights`` is ``(heads, query, key)`` or ``(query, key)``. Lines run from the chosen token to those it attends to,
    one colour for each head, as thick as the weight; below each token stands its weight, averaged over the heads shown.
    Screen readers get the strongest weights as a table; ``label`` names the picture to them and ``head_label`` a head.
    Heads are counted from 1, or numbered by ``heads``.
    """
    array = attention_array(weights, tokens)
    numbers = range(1, len(array) + 1) if heads is None else heads
    if len(numbers) != len(array):
        raise ValueError(f"heads has {len(numbers)} numbers for {len(array)} heads: give one for each")
    rows = [[[round(float(weight), 3) for weight in row] for row in head] for head in array]
    data = json.dumps({"weights": rows, "colours": PALETTE}, separators=(",", ":"))
    name = hashlib.sha256((data + "\0".join(tokens)).encode()).hexdigest()[:12]
    shown = [escape(visible(token)) for token in tokens]
    last = array[:, -1].mean(0)
    buttons = "".join(
        f'<button type="button" aria-pressed="true" aria-label="{escape(head_label)} {number}" '
        f'style="--head:{PALETTE[index % len(PALETTE)]}">{number}</button>'
        for index, number in enumerate(numbers)
    )
    chips = "".join(
        f'<button type="button" tabindex="{0 if key == len(shown) - 1 else -1}" style="--weight:{last[key]:.3f}">'
        f"<b>{token}</b><i>{f'{last[key]:.2f}' if last[key] >= 0.005 else ''}</i></button>"
        for key, token in enumerate(shown)
    )
    if len(array) > 1:
        buttons = f'<div class="lm-heads" role="group" aria-label="{escape(head_label)}">{buttons}</div>'
    else:
        buttons = ""
    html = (
        f'<figure class="lm-attention" data-view="{name}" role="group" aria-label="{escape(label)}">'
        f"<style>{STYLE}</style>{buttons}"
        f'<div class="lm-stage"><svg aria-hidden="true"></svg><div class="lm-tokens">{chips}</div></div>'
        f"{strongest(array, shown, label, head_label, numbers)}"
        f"<script>{SCRIPT.replace('NAME', name).replace('DATA', data)}</script></figure>"
    )
    return AttentionView(html, f"AttentionView({len(tokens)} tokens, {len(array)} heads)")


def strongest(
    array: np.ndarray, shown: list[str], label: str, head_label: str, numbers: Sequence[int], count: int = 3
) -> str:
    """Return a table, for screen readers only, of the tokens that each token attends to most."""
    header = "".join(f'<th scope="col">{escape(head_label)} {number}</th>' for number in numbers)
    body = []
    for query, token in enumerate(shown):
        cells = []
        for row in array[:, query]:
            best = [key for key in np.argsort(-row, kind="stable")[:count] if row[key] >= 0.005]
            cells.append(f"<td>{', '.join(f'{shown[key]} {row[key]:.2f}' for key in best)}</td>")
        body.append(f'<tr><th scope="row">{token}</th>{"".join(cells)}</tr>')
    return (
        f'<div class="lm-hidden"><table><caption>{escape(label)}</caption><thead><tr><td></td>{header}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


STYLE = """
.lm-attention{margin:1rem 0;position:relative;font-size:.95rem;color:inherit}
.lm-attention button{all:unset;cursor:pointer;box-sizing:border-box;text-align:center}
.lm-attention button:focus-visible{outline:2px solid currentColor;outline-offset:2px}
.lm-heads{display:flex;flex-wrap:wrap;gap:.4rem;font-size:.8rem}
.lm-heads,.lm-tokens i{font-family:var(--sans,inherit);font-variant-numeric:tabular-nums}
.lm-attention .lm-heads button{width:1.9rem;line-height:calc(1.9rem - 4px);
border-radius:50%;border:2px solid var(--head)}
.lm-attention .lm-heads button[aria-pressed=true]{background:color-mix(in srgb,var(--head) 30%,transparent)}
.lm-attention .lm-heads button[aria-pressed=false]{border-style:dashed}
.lm-stage{position:relative;padding-top:2.4rem}
.lm-stage.lm-row{padding-top:8rem}
.lm-row .lm-tokens{justify-content:center}
.lm-stage svg{position:absolute;inset:0;width:100%;height:100%;overflow:visible;pointer-events:none}
.lm-stage path{fill:none;stroke-linecap:round;opacity:.8}
.lm-tokens{position:relative;display:flex;flex-wrap:wrap;gap:2rem .3rem}
.lm-attention .lm-tokens button{display:flex;flex-direction:column;padding:.12rem .42rem;border-radius:.4rem;
border:1px solid transparent;background:color-mix(in srgb,#2f7fc4 calc(min(1,var(--weight)*2)*45%),transparent)}
.lm-tokens b{font-weight:500;white-space:pre}
.lm-tokens i{font-style:normal;font-size:.72rem;line-height:1.3;min-height:1.3em}
.lm-tokens button.lm-query{border-color:currentColor}
.lm-tokens button.lm-query b{font-weight:700}
@media (prefers-reduced-motion:no-preference){
.lm-stage path{stroke-dasharray:1.02;animation:lm-draw .5s ease-out}
@keyframes lm-draw{from{stroke-dashoffset:1.02}to{stroke-dashoffset:0}}
}
.lm-hidden{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)}
""".strip().replace("\n", "")

SCRIPT = """
(()=>{const data=DATA,ns="http://www.w3.org/2000/svg";
for(const view of document.querySelectorAll('[data-view="NAME"]:not([data-ready])')){
view.dataset.ready="";
const stage=view.querySelector(".lm-stage"),svg=view.querySelector(".lm-stage svg");
const tokens=[...view.querySelectorAll(".lm-tokens button")],heads=[...view.querySelectorAll(".lm-heads button")];
let query=tokens.length-1,held=false;
const on=h=>!heads.length||heads[h].getAttribute("aria-pressed")==="true";
const draw=()=>{
const rows=new Set(tokens.map(t=>t.offsetTop)).size;
stage.classList.toggle("lm-row",rows===1);
const at=t=>[t.offsetLeft+t.offsetParent.offsetLeft+t.offsetWidth/2,t.offsetTop+t.offsetParent.offsetTop];
const shown=data.weights.map((w,h)=>h).filter(on);
svg.replaceChildren();
tokens.forEach((token,key)=>{
const mean=shown.reduce((sum,h)=>sum+data.weights[h][query][key],0)/(shown.length||1);
token.style.setProperty("--weight",mean);
token.lastChild.textContent=mean<.005?"":mean.toFixed(2);
token.classList.toggle("lm-query",key===query);
token.tabIndex=key===query?0:-1;
shown.forEach((h,index)=>{
const weight=data.weights[h][query][key];
if(weight<.02)return;
const [x,y]=at(token),[X,Y]=at(tokens[query]),spread=(index-(shown.length-1)/2)*5;
const line=document.createElementNS(ns,"path");
let rise=(rows===1?Math.min(116,18+.24*Math.abs(X-x)):Math.min(30,14+.08*Math.abs(X-x)))+spread;
line.setAttribute("pathLength",1);
line.setAttribute("d",key===query?`M${x-5} ${y}C${x-16-spread} ${y-26-spread} ${x+16+spread} ${y-26-spread} ${x+5} ${y}`
:`M${X} ${Y}C${X-.12*(X-x)} ${Y-rise*1.3} ${x+.12*(X-x)} ${y-rise*1.3} ${x} ${y}`);
line.setAttribute("stroke",data.colours[h%data.colours.length]);
line.setAttribute("stroke-width",(1+11*weight).toFixed(1));
svg.append(line);
});});};
const choose=index=>{query=(index+tokens.length)%tokens.length;draw();};
tokens.forEach((token,index)=>{
token.addEventListener("pointerenter",()=>choose(index));
token.addEventListener("focus",()=>choose(index));
token.addEventListener("click",()=>{held=true;choose(index);});
token.addEventListener("keydown",event=>{
const step={ArrowLeft:-1,ArrowRight:1}[event.key];
if(step){event.preventDefault();choose(index+step);tokens[query].focus();}
});});
heads.forEach(head=>head.addEventListener("click",()=>{
head.setAttribute("aria-pressed",head.getAttribute("aria-pressed")!=="true");draw();}));
new ResizeObserver(draw).observe(stage);
if(document.fonts)document.fonts.ready.then(draw);
let seen=false;
new IntersectionObserver(entries=>{seen=entries[0].isIntersecting;}).observe(view);
if(view.closest("[data-cycle]")&&!matchMedia("(prefers-reduced-motion: reduce)").matches)
setInterval(()=>{if(seen&&!held&&!view.matches(":hover,:focus-within"))choose(query+1<tokens.length?query+1:Math.floor(tokens.length/3));},1800);
draw();
}})();
""".strip()
