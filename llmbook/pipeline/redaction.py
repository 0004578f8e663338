"""Personal information: find it by pattern and replace it by its kind (chapter 7).

The kinds are those of the ROOTS pipeline (e-mail addresses, keys, IP addresses) and names in lines that give credit,
as changelogs and lists of authors do. Replacements read ``PI:EMAIL``, as in ROOTS.
"""

import bisect
import ipaddress
import re
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple


class Finding(NamedTuple):
    """A place in a text that holds something personal: ``text[start:end]``."""

    kind: str
    start: int
    end: int


# Addresses and keys are written in Latin letters, and other scripts put no space around them: while these are looked
# for, letters of other scripts are spaces. The colon and the sign of equality of Chinese and Japanese stay.
_OTHER_SCRIPT = re.compile("[^\x00-\u036f\u1e00-\u1eff：＝]")
_EMAIL = re.compile(r"(?<![\w.+-])[\w.+\u0300-\u036f-]+@(?:[\w-]+\.)+[^\W\d_]{2,}(?![\w-])")
_KEY_BEGIN = re.compile(r"-----BEGIN [A-Z ]{0,60}PRIVATE KEY-----")
_KEY_END = re.compile(r"-----END [A-Z ]{0,60}PRIVATE KEY-----")
_KEYS = (
    re.compile(r"\b(?:AKIA[A-Z0-9]{16}|gh[pousr]_\w{30,}|sk-[\w-]{20,}|xox[abprs]-[\w-]{10,}|hf_\w{30,})\b"),
    re.compile(
        r"(?i)\b(?:api[_-]?key|access[_-]?token|token|secret|password)\b[\"']?\s*[:=：＝]\s*[\"']?([\w+/=-]{12,})"
    ),
)
_IPV4 = re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w]|\.\d)")
_IPV6 = re.compile(r"(?<![\w:.])(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{0,4}(?![\w:])")
_VERSION = re.compile(r"(?i)(?:version|release|v|版本?|バージョン|버전|верси[ия])[ .:：]?$")
# Names: the length of a word is limited, so that a text without spaces is not read again from each of its places.
_LETTERS = r"[\w'’\u0300-\u036f-]{0,50}"
_WORD = rf"(?:[^\W\d_a-z]{_LETTERS}|(?:van|von|der|den|de|da|di|la|le|bin|al|y)(?= )|[^\W\d_a-z]\.)"
_PERSON = rf"[^\W\d_a-z][\w'’.\u0300-\u036f-]{{0,50}}(?: {_WORD}){{1,3}}"
# Where a changelog or a list of authors names people; the group is the name.
_CREDITS = (
    re.compile(
        rf"(?:[Pp]atch|[Rr]eported|[Cc]ontributed|[Ff]ix(?:ed)?|[Ss]uggested|[Ww]ritten|[Mm]aintained|[Cc]reated)"
        rf"(?: \w+){{0,2}} by:? ({_PERSON})"
    ),
    re.compile(
        rf"(?:[Tt]hanks(?: to)? *|[Aa]uthors?: *|[Mm]aintainers?: *|Copyright (?:\([cC]\)|©)?[ \d,-]*)({_PERSON})"
    ),
    re.compile(rf"^[ \t]*(?:[-*•] +)?({_PERSON})(?= *<[^>\n]*>)", re.M),  # Jane Doe <jane@...>
    re.compile(rf"^[ \t]*[-*•] +({_PERSON})(?=[ \t]*$)", re.M),  # * Jane Doe
    re.compile(rf"\(({_PERSON})(?:,? #\d+)?\)[ .]*$", re.M),
)
# Words that begin with a capital in such lines and are no names.
_NO_NAMES = frozenset(
    re.findall(
        r"\w+",
        "All And Any API Apache Are BSD Bug Changes Code Copyright Data Documentation Features For Foundation Free "
        "From General GNU How Inc Input Installation Is License Licence Limited List LLC Ltd MIT New News No Notes Of "
        "Open Output Parameters Permission Project Public Python Quick Release Returns Rights Software Source Start "
        "Support Table Team Terms Test The This To University Usage Use User Version With You Your",
    )
)
KINDS = ("EMAIL", "KEY", "IP", "NAME")


def find_personal(text: str) -> list[Finding]:
    """Return what looks personal, in order of place, without overlaps (the earlier kind of :data:`KINDS` wins).

    Letters of other scripts end an address or a key as spaces do; an address that is itself written in such letters is
    found where no other address is. The time is linear in the length of the text.
    """
    latin = text if text.isascii() else _OTHER_SCRIPT.sub(" ", text)
    found = [Finding("EMAIL", *match.span()) for match in _EMAIL.finditer(latin)]
    found += [Finding("KEY", *span) for span in _key_blocks(text)]
    for pattern in _KEYS:
        found += [Finding("KEY", *match.span(pattern.groups)) for match in pattern.finditer(latin)]
    for pattern in (_IPV4, _IPV6):
        found += [Finding("IP", *match.span()) for match in pattern.finditer(latin) if _is_address(match, text)]
    for pattern in _CREDITS:
        found += [Finding("NAME", *match.span(1)) for match in pattern.finditer(text) if _is_name(match[1])]
    if latin != text:
        found += [
            Finding("EMAIL", *match.span())
            for match in _EMAIL.finditer(text)
            if not _EMAIL.search(latin, *match.span())
        ]
    taken: list[Finding] = []
    covered = bytearray(len(text))
    for finding in sorted(found, key=lambda finding: (KINDS.index(finding.kind), finding.start, -finding.end)):
        if 1 not in covered[finding.start : finding.end]:
            covered[finding.start : finding.end] = b"\1" * (finding.end - finding.start)
            taken.append(finding)
    return sorted(taken, key=lambda finding: finding.start)


def _key_blocks(text: str) -> Iterator[tuple[int, int]]:
    """Where private keys in PEM form begin and end; one without an end is none."""
    ends = [match.span() for match in _KEY_END.finditer(text)]
    behind = 0
    for match in _KEY_BEGIN.finditer(text):
        place = bisect.bisect_left(ends, (match.end(), 0))
        if match.start() >= behind and place < len(ends):
            behind = ends[place][1]
            yield match.start(), behind


def redact(text: str) -> tuple[str, dict[str, int]]:
    """Replace what is personal by its kind, as in ``PI:EMAIL``; return the text and how often each kind was found."""
    parts, end = [], 0
    findings = find_personal(text)
    for finding in findings:
        parts += [text[end : finding.start], f"PI:{finding.kind}"]
        end = finding.end
    return "".join([*parts, text[end:]]), dict(Counter(finding.kind for finding in findings))


def _is_address(match: re.Match[str], text: str) -> bool:
    """Whether an address is one of the public internet, and no version number."""
    try:
        address = ipaddress.ip_address(match[0])
    except ValueError:
        return False
    written_out = sum(map(bool, match[0].split(":"))) > 2 and any(map(str.isdigit, match[0]))  # ``be::`` is none
    if address.version == 6 and not written_out:
        return False
    numbered = _VERSION.search(text[max(match.start() - 9, 0) : match.start()]) or text.startswith("版", match.end())
    return address.is_global and not numbered


def _is_name(candidate: str) -> bool:
    """Whether no part of a candidate is a common capitalised word or written all in capitals."""
    parts = candidate.split()
    return not any(part.strip(".,") in _NO_NAMES or (len(part) > 2 and part.isupper()) for part in parts)
