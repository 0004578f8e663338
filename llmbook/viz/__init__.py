"""Pictures of attention and the look of the book's figures (used from chapter 1, explained in chapters 3 and 6).

One call draws the attention of any model: :func:`show_attention`.
"""

from llmbook.viz.arcs import AttentionView, attention_view
from llmbook.viz.figures import PALETTE, use_style
from llmbook.viz.frames import InteractiveView
from llmbook.viz.maps import attention_array, attention_grid, attention_map
from llmbook.viz.reading import read_attention
from llmbook.viz.show import LABELS, show_attention
from llmbook.viz.tokens import readable_tokens, visible
from llmbook.viz.weights import Attention

__all__ = [
    "LABELS",
    "PALETTE",
    "Attention",
    "AttentionView",
    "InteractiveView",
    "attention_array",
    "attention_grid",
    "attention_map",
    "attention_view",
    "read_attention",
    "readable_tokens",
    "show_attention",
    "use_style",
    "visible",
]
