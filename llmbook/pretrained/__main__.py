"""``python -m llmbook.pretrained``: fetch the real models that are not in the cache yet, as ``make venv`` does."""

import sys

from llmbook.pretrained import real


def main() -> int:
    """Fetch what is missing; what cannot be had is a line, and the first chapter that needs it asks again."""
    for name in real.REAL_MODELS:
        try:
            if not real.place_of(name).is_dir():
                real.fetch(name)
        except (real.ModelError, OSError) as error:
            print(f"note: {error}", file=sys.stderr)
            break  # what keeps one from coming keeps the others as well, and asking takes its time
    return 0


if __name__ == "__main__":
    sys.exit(main())
