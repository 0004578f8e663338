"""Files that are written whole or not at all, and libraries that draw no bars meanwhile."""

import importlib
from pathlib import Path

import pytest

from llmbook.files import without_progress_bars, write_whole


def test_text_and_bytes_arrive_as_they_are(tmp_path):
    path = tmp_path / "new" / "a.csv"
    assert write_whole(path, "Größe\r\n") == path
    assert path.read_bytes() == "Größe\r\n".encode()
    write_whole(path, b"\x00\xff", mode=0o600)
    assert path.read_bytes() == b"\x00\xff" and path.stat().st_mode & 0o777 == 0o600
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("step", ["content", "rename"])
def test_a_file_that_cannot_be_finished_leaves_the_old_one(tmp_path, monkeypatch, step):
    path, content = write_whole(tmp_path / "a.json", "old"), "new"
    if step == "content":
        content = "new \ud800"
    else:
        monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises((UnicodeEncodeError, OSError)):
        write_whole(path, content)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("library", ["datasets", "transformers"])
@pytest.mark.parametrize("shown", [True, False])
def test_bars_are_hidden_for_a_moment_and_then_as_they_were(library, shown):
    bars = importlib.import_module(f"{library}.utils.logging")
    before = bars.is_progress_bar_enabled()
    try:
        (bars.enable_progress_bar if shown else bars.disable_progress_bar)()
        with pytest.raises(OSError, match="disk full"), without_progress_bars(library):
            assert not bars.is_progress_bar_enabled()
            raise OSError("disk full")
        assert bars.is_progress_bar_enabled() == shown
    finally:
        (bars.enable_progress_bar if before else bars.disable_progress_bar)()
