"""The three corpora whose text is pinned, and whether one is the book's own (all chapters)."""

from llmbook.corpora import sources
from llmbook.corpora._catalogs import CATALOGS, catalogs
from llmbook.corpora._code import CODE, code
from llmbook.corpora._pydocs import PYDOCS, pydocs

PINNED = {corpus.name: corpus for corpus in (PYDOCS, CATALOGS, CODE)}


def own_text(name: str = "pydocs") -> bool:
    """Tell whether a corpus is the book's own: of the pinned text, with the fingerprint that is pinned (``describe``).

    It is not where the pinned versions are neither installed nor can be fetched. The corpus then holds other documents,
    and what a chapter says of this or that one need not hold: in a notebook an assertion that does not hold is then
    shown as a line (``claims``). The corpus is built where it is not in the cache.

    Args:
        name: ``pydocs``, ``catalogs`` or ``code``.

    Raises:
        ValueError: ``name`` is none of the three.
        CorpusError: see :func:`pydocs`.
    """
    corpora = {"pydocs": pydocs, "catalogs": catalogs, "code": code}
    if name not in corpora:
        raise ValueError(f"name={name!r}: it has to be one of {', '.join(corpora)}")
    if not sources.is_built(name):
        corpora[name]()
    return sources.is_built(name)
